"""What is sent along to the server: absolute addresses of stores, and the variables that open them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_restaurant.stores import absolute_store_uri, absolute_uri, forwarded_environment


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////abs/mlflow.db",
        "sqlite://",
        "sqlite:///",
        "postgresql://u:p@host/db",
        "http://host:5000",
        "https://host/path?x=1",
        "file:///abs/mlruns",
        "file://host/share",
        "/abs/path with space",
        "s3://bucket/model",
        "models:/name/1",
        "models:/name@champion",
        "runs:/0123/model",
    ],
)
def test_what_means_the_same_everywhere_stays(uri: str) -> None:
    assert absolute_uri(uri) == uri
    assert absolute_store_uri(uri) == uri


@pytest.mark.parametrize("uri", ["databricks", "databricks-uc"])
def test_the_name_of_a_store_is_no_path(uri: str) -> None:
    assert absolute_store_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a/mlflow.db?timeout=5", "sqlite:///{here}/a/mlflow.db?timeout=5"),
        ("./mlruns", "{here}/mlruns"),
        ("model", "{here}/model"),
        ("model#1 ä%20", "{here}/model#1 ä%20"),
        ("file:mlruns", "file://{here}/mlruns"),
    ],
)
def test_relative_paths_become_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, absolute: str
) -> None:
    monkeypatch.chdir(tmp_path)

    assert absolute_uri(uri) == absolute.format(here=tmp_path)


def test_a_tilde_is_the_users_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert absolute_uri("~/model") == str(tmp_path / "model")


def test_only_what_opens_stores_is_forwarded() -> None:
    forwarded = {
        "MLFLOW_TRACKING_TOKEN": "t",
        "AWS_PROFILE": "p",
        "AZURE_X": "x",
        "GOOGLE_APPLICATION_CREDENTIALS": "g",
        "HF_TOKEN": "h",
        "https_proxy": "q",
        "NO_PROXY": "n",
        "REQUESTS_CA_BUNDLE": "r",
    }
    kept_back = {
        "PATH": "/bin",
        "MLFLOW_RESTAURANT_HOME": "/h",
        "PYTHONPATH": "x",
        "HOME": "/root",
        "mlflow_x": "1",
    }

    assert forwarded_environment({**forwarded, **kept_back}) == forwarded
