"""Bundles saved by earlier releases, kept in ``tests/data``, load and predict as they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

import mlflow_restaurant

KEPT = sorted((Path(__file__).parents[1] / "data").glob("bundle_*"))

pytestmark = [
    # Saved by an earlier scikit-learn, and an earlier MLflow in its requirements.
    pytest.mark.filterwarnings("ignore:Trying to unpickle estimator"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_is_one_for_the_first_release() -> None:
    assert "bundle_0_1_0" in {path.name for path in KEPT}


@pytest.mark.parametrize(
    "load", [mlflow.pyfunc.load_model, mlflow_restaurant.load_model], ids=["pyfunc", "native"]
)
def test_loads_and_predicts_as_it_did(kept: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    example = json.loads((kept / "input_example.json").read_text())
    raw = pd.DataFrame(example["data"], columns=example["columns"])
    expected = json.loads((kept / "expected.json").read_text())

    model = load(str(kept))

    assert list(model.predict(raw)) == expected["default"]
    assert list(model.predict(raw, {"threshold": 0.99, "prefix": "is "})) == expected["threshold"]


def test_pyfunc_runs_the_code_it_was_saved_with(kept: Path) -> None:
    model = mlflow.pyfunc.load_model(str(kept))

    assert type(model.get_raw_model()) is not mlflow_restaurant.Bundle
    assert type(model.get_raw_model()).__module__.startswith("restaurant_bundle_")
