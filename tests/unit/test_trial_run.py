"""What of a trial becomes an MLflow run, and where it goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_restaurant.control.trial_run import LIMITS, main, metrics_of, worst_rows
from mlflow_restaurant.stores import without_password

SIDES: dict[str, Any] = {
    "old": {"requests": 100, "errors": 1, "error_rate": 0.01, "p95_ms": 12.5},
    "new": {"requests": 90, "errors": 0, "error_rate": 0.0, "p95_ms": None},
}
AGREEMENT: dict[str, Any] = {
    "rows": 90,
    "agreed": 81,
    "failed_new": 0,
    "failed_old": 1,
    "skipped": 9,
    "unlike": 0,
    "columns": {
        "label": {"compared": 90, "agreed": 90, "numbers": 0, "total_difference": 0.0, "max_difference": 0.0},
        "score": {
            "compared": 90,
            "agreed": 81,
            "numbers": 90,
            "total_difference": 9.0,
            "max_difference": 2.0,
        },
    },
    "worst": [
        {"difference": None, "old": "a", "new": {"x": 1}, "input": "[1]"},
        {"difference": 2.0, "old": 1.0, "new": 3.0},
    ],
}
SHADOW: dict[str, Any] = {"strategy": "shadow", "step": 1, **SIDES, "agreement": AGREEMENT}


def test_the_numbers_of_a_shadow() -> None:
    assert metrics_of(SHADOW) == {
        "new.requests": 90,
        "new.errors": 0,
        "new.error_rate": 0,
        "old.requests": 100,
        "old.errors": 1,
        "old.error_rate": 0.01,
        "old.p95_ms": 12.5,
        "rows": 90,
        "agreed": 81,
        "failed_new": 0,
        "failed_old": 1,
        "skipped": 9,
        "unlike": 0,
        "row_agreement": 0.9,
        "agreement/label": 1,
        "agreement/score": 0.9,
        "mean_difference/score": 0.1,
        "max_difference/score": 2,
    }


def test_the_numbers_of_a_canary() -> None:
    assert set(metrics_of({"strategy": "canary", **SIDES})) == {
        *(f"old.{name}" for name in SIDES["old"]),
        *(f"new.{name}" for name in ("requests", "errors", "error_rate")),
    }


def test_columns_whose_names_are_no_names_of_metrics() -> None:
    column = AGREEMENT["columns"]["label"]
    names = ["a?b", "a!b", "a:b", "ä", "", "../u/p", "x" * 300, "0"]
    found = metrics_of({**SHADOW, "agreement": {**AGREEMENT, "columns": dict.fromkeys(names, column)}})
    shown = [name.removeprefix("agreement/") for name in found if name.startswith("agreement/")]
    assert shown == ["a_b", "a_b~2", "a_b~3", "ä", "_", "_u_p", "x" * 220, "0"]


def test_a_shadow_without_a_row() -> None:
    nothing = {**dict.fromkeys(AGREEMENT, 0), "columns": {}, "worst": []}
    found = metrics_of({**SHADOW, "agreement": nothing})
    assert found["rows"] == 0
    assert "row_agreement" not in found
    assert worst_rows({**SHADOW, "agreement": nothing}) == worst_rows(SIDES) == {}


def test_the_rows_that_differ_most() -> None:
    assert worst_rows(SHADOW) == {
        "columns": ["difference", "old", "new", "input"],
        "data": [[None, "a", '{"x": 1}', "[1]"], [2.0, 1.0, 3.0, None]],
    }


@pytest.fixture(params=["sqlite", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty tracking store."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as own:
        own.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        for name in LIMITS:
            own.delenv(name, raising=False)
        yield f"sqlite:///{tmp_path}/mlflow.db" if request.param == "sqlite" else (tmp_path / "runs").as_uri()
        for name in LIMITS:
            os.environ.pop(name, None)


def log(store: str, **more: Any) -> dict[str, Any]:
    """Log a run, and return what the job tells of it."""
    said: list[dict[str, Any]] = []
    args = {
        "trial": SHADOW,
        "tracking_uri": store,
        "registry_uri": store,
        "model_uri": "runs:/0123456789abcdef0123456789abcdef/model",
        "model_version": None,
        "model_id": None,
        "name": "shadow of d revision 2",
        "began": 1_700_000_000_000,
        "tags": {"mlflow-restaurant.verdict": "promoted", "mlflow-restaurant.reason": "x" * 10_000},
        "params": {"bake_s": 60.0},
    }
    status = main({**args, **more}, said.append)
    (told,) = said
    assert status == int("failed" in told)
    return told


def test_a_model_that_this_store_does_not_know(store: str, actor: Path) -> None:
    first, second = (
        log(store, model_uri="models:/gone/1", model_version="1", model_id="m-0123456789abcdef"),
        log(store),
    )
    client = MlflowClient(store)
    own = client.get_experiment_by_name("mlflow-restaurant")
    assert first["result"]["experiment_id"] == second["result"]["experiment_id"] == own.experiment_id
    run = client.get_run(first["result"]["run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "shadow of d revision 2")
    assert run.info.start_time == 1_700_000_000_000
    assert run.data.metrics == metrics_of(SHADOW)
    assert run.data.params == {"bake_s": "60.0"}
    assert len(run.data.tags["mlflow-restaurant.reason"]) == 5000
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"trial.json", "worst_rows.json"}


def test_the_experiment_of_the_models_run_unless_it_is_deleted(store: str) -> None:
    mlflow.set_tracking_uri(store)
    client = MlflowClient()
    experiment = client.create_experiment("of the model")
    uri = f"runs:/{client.create_run(experiment).info.run_id}/model"
    assert log(store, model_uri=uri)["result"]["experiment_id"] == experiment
    client.delete_experiment(experiment)
    own = log(store, model_uri=uri)["result"]["experiment_id"]
    assert client.get_experiment(own).name == "mlflow-restaurant"


def test_a_run_that_could_not_be_filled_has_failed(store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    (tmp_path / "taken").touch()
    experiment = client.create_experiment("mlflow-restaurant", (tmp_path / "taken" / "artifacts").as_uri())
    assert "taken" in log(store)["failed"]
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "127.0.0.1" in log(f"http://127.0.0.1:{port}")["failed"]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/a@b", "http://host:5000/a@b"),
        ("https://host/path", "https://host/path"),
        ("sqlite:////var/a@b.db", "sqlite:////var/a@b.db"),
        ("postgresql://u:p@host", "postgresql://host"),
        ("databricks", "databricks"),
    ],
)
def test_passwords_are_not_told(uri: str, shown: str) -> None:
    assert without_password(uri) == shown
