"""What every replica would do for itself after its fork, done once before."""

from __future__ import annotations

import contextlib


def warm_up() -> None:
    """Try the shortcuts, list what is installed, and import what scikit-learn imports with its first table.

    Half a second at the start of the fork server instead of in each replica, in memory that they share. What can't
    be done here is left to the replicas.
    """
    for step in (_try_shortcuts, _list_packages, _transform_a_table):
        with contextlib.suppress(Exception):
            step()


def _try_shortcuts() -> None:
    from mlflow_restaurant.replica import trial

    trial.knows_mlflow()


def _list_packages() -> None:
    """Fill the map of modules to packages that MLflow makes with each process' first model, to warn of mismatches."""
    from mlflow.utils.requirements_utils import _init_modules_to_packages_map

    _init_modules_to_packages_map()


def _transform_a_table() -> None:
    import pandas as pd
    from sklearn.preprocessing import StandardScaler

    frame = pd.DataFrame({"a": [0.0, 1.0]})
    StandardScaler().fit(frame).transform(frame)
