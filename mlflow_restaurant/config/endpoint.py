"""Settings of an endpoint."""

ENDPOINT_TABLE = [
    ("traffic", "", "percentage for each deployment, as `a=90,b=10` or JSON; they add up to 100"),
    (
        "sticky",
        "off",
        "`header:NAME` or `client` (the caller's address): each caller stays with one deployment; who has no such"
        " header goes anywhere",
    ),
]
"""Key, default and meaning of the settings of an endpoint."""
