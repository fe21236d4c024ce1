"""What is done before the fork, so that no replica has to do it."""

from __future__ import annotations

import pytest
from mlflow.utils import requirements_utils

from mlflow_restaurant.replica import trial, warm


def test_replicas_find_their_shortcuts_tried_and_the_packages_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    trial.knows_mlflow.cache_clear()

    warm.warm_up()

    assert trial.knows_mlflow.cache_info().currsize == 1
    assert "numpy" in requirements_utils._MODULES_TO_PACKAGES


def test_what_cannot_be_done_is_left_to_the_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(requirements_utils, "_init_modules_to_packages_map")
    monkeypatch.setattr(trial, "knows_mlflow", None)

    warm.warm_up()
