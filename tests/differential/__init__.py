"""Serves the same models with `mlflow models serve` and with mlflow-restaurant, and compares the answers."""

import warnings

with warnings.catch_warnings(record=True):
    # MLflow warns of its own type hints while it is imported, which is before pytest applies the marks of a test.
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    import mlflow.pyfunc  # noqa: F401

    # And of a model without type hints, with a filter of its own that none of ours precedes: hence the recording.
    from .pyfuncs import outputs  # noqa: F401
