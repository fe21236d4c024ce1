"""Steps of the bundle that is kept."""


def area(frame, unit):
    """Keep the columns of the model, and add one."""
    return frame[["length", "width"]].assign(area=frame["length"] * frame["width"] / unit)


def sentence(labels, params):
    """Say it as the request wants it."""
    return [params["prefix"] + label for label in labels]
