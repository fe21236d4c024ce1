"""Fetching models: where they may come from, what is refused and how, and what is left in the cache."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import mlflow.sklearn
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from sklearn.linear_model import LogisticRegression

from mlflow_restaurant.control import artifacts
from mlflow_restaurant.control.artifacts import local_path, tree_digest
from mlflow_restaurant.control.model_cache import MLMODEL_FILE, TEMPORARY_PREFIX
from mlflow_restaurant.entities import ModelArtifact

pytestmark = pytest.mark.filterwarnings("ignore")

FRAME = pd.DataFrame({"a": [0.0, 1.0], "b": [1.0, 0.0]})


@pytest.fixture(autouse=True)
def no_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "a model ä"
    fitted = LogisticRegression().fit(FRAME, [0, 1])
    mlflow.sklearn.save_model(fitted, path, input_example=FRAME, pip_requirements=["scikit-learn"])
    return path


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, model: Path) -> str:
    """A store with versions 1 and 2 of the model ``m``; the alias ``champion`` is version 1."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    client.create_registered_model("m")
    for _ in range(2):
        client.create_model_version("m", str(model))
    client.set_registered_model_alias("m", "champion", "1")
    return uri


@dataclass
class Cache:
    """A cache directory, and what was reported of the last fetch into it."""

    path: Path
    reports: list[dict[str, Any]] = field(default_factory=list)
    code: int = 0

    def fetch(
        self,
        uri: object,
        *,
        store: str | None = None,
        flavor: str | None = None,
        env_manager: str = "auto",
    ) -> dict[str, Any]:
        self.reports.clear()
        args = {
            "model_uri": str(uri),
            "tracking_uri": store,
            "registry_uri": store,
            "models": str(self.path),
            "flavor": flavor,
            "env_manager": env_manager,
        }
        self.code = artifacts.main(args, self.reports.append)
        return self.reports[-1]

    def got(self, uri: object, **options: Any) -> ModelArtifact:
        message = self.fetch(uri, **options)
        assert self.code == 0, message
        return ModelArtifact.model_validate(message["result"])

    def refused(self, uri: object, **options: Any) -> tuple[str, str]:
        """Return the reason and its code; nothing is left in the cache."""
        message = self.fetch(uri, **options)
        assert self.code != 0
        assert set(message) == {"failed", "code"}
        assert list(self.path.iterdir()) == []
        assert len(message["failed"].splitlines()) == 1
        return message["failed"], message["code"]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    path = tmp_path / "cache"
    path.mkdir()
    return Cache(path)


class TestPaths:
    def test_a_path(self, cache: Cache, model: Path) -> None:
        got = cache.got(model)

        assert got.model_uri == str(model)
        assert got.model_version is None
        assert got.model_uuid == yaml.safe_load((model / MLMODEL_FILE).read_text())["model_uuid"]
        assert (got.flavor, got.env_manager, got.has_example) == ("python_function", "local", True)
        assert [p.name for p in cache.path.iterdir()] == [got.digest]
        assert tree_digest(cache.path / got.digest) == tree_digest(model) == got.digest

    def test_a_file_uri(self, cache: Cache, model: Path) -> None:
        assert cache.got(model.as_uri()).digest == tree_digest(model)

    @pytest.mark.parametrize("name", ["a b", "a%20b", "a#b", "a?b", "ä"])
    def test_paths_with_odd_characters(self, cache: Cache, model: Path, tmp_path: Path, name: str) -> None:
        copied = shutil.copytree(model, tmp_path / name)

        assert cache.got(copied).digest == cache.got(copied.as_uri()).digest

    def test_the_cached_copy_does_not_depend_on_the_original(
        self, cache: Cache, model: Path, tmp_path: Path
    ) -> None:
        copied = shutil.copytree(model, tmp_path / "copy")
        got = cache.got(copied)
        shutil.rmtree(copied)

        assert tree_digest(cache.path / got.digest) == got.digest

    def test_a_model_with_directories_that_may_not_be_written(
        self, cache: Cache, model: Path, tmp_path: Path
    ) -> None:
        copied = shutil.copytree(model, tmp_path / "copy")
        copied.chmod(0o500)

        got = cache.got(copied)

        assert os.access(cache.path / got.digest, os.W_OK)
        copied.chmod(0o700)

    def test_twice_is_once(self, cache: Cache, model: Path) -> None:
        assert cache.got(model) == cache.got(model)
        assert len(list(cache.path.iterdir())) == 1

    def test_another_fetch_of_the_same_model_may_be_faster(
        self, cache: Cache, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exists = Path.exists

        def arrives_after_the_look(path: Path, **options: bool) -> bool:
            there = exists(path, **options)
            if path.parent == cache.path and not path.name.startswith(TEMPORARY_PREFIX) and not there:
                shutil.copytree(model, path)
            return there

        monkeypatch.setattr(Path, "exists", arrives_after_the_look)

        assert cache.got(model).digest == tree_digest(model)

    def test_an_example_that_was_not_saved(self, cache: Cache, model: Path, tmp_path: Path) -> None:
        copied = shutil.copytree(model, tmp_path / "copy")
        (copied / artifacts.EXAMPLE_FILE).unlink()

        assert not cache.got(copied).has_example

    def test_progress_is_told_first(self, cache: Cache, model: Path) -> None:
        cache.got(model)

        assert [set(report) for report in cache.reports] == [{"progress"}, {"result"}]

    @pytest.mark.parametrize(
        ("uri", "path"),
        [
            ("/a/b", "/a/b"),
            ("a#b?c", "a#b?c"),
            ("file:///a%20b", "/a b"),
            ("file:/a", "/a"),
            ("s3://b/k", None),
            ("models:/m/1", None),
            ("runs:/r/m", None),
        ],
    )
    def test_what_is_a_local_path(self, uri: str, path: str | None) -> None:
        assert local_path(uri) == (None if path is None else Path(path))


class TestRefusals:
    def test_no_such_path(self, cache: Cache, tmp_path: Path) -> None:
        reason, code = cache.refused(tmp_path / "none")

        assert code == "RESOURCE_DOES_NOT_EXIST"
        assert f"There is no model at {tmp_path / 'none'}." in reason

    @pytest.mark.parametrize("scheme", ["", "file://"])
    def test_a_directory_without_a_model(self, cache: Cache, tmp_path: Path, scheme: str) -> None:
        (tmp_path / "other").mkdir()

        reason, code = cache.refused(f"{scheme}{tmp_path}/other")

        assert "no MLmodel file" in reason
        assert code == "INVALID_PARAMETER_VALUE"

    def test_a_file(self, cache: Cache, model: Path) -> None:
        assert "no MLmodel file" in cache.refused(model / MLMODEL_FILE)[0]

    def rewritten(self, model: Path, folder: Path, text: str) -> Path:
        copied: Path = shutil.copytree(model, folder / "copy")
        (copied / MLMODEL_FILE).write_text(text)
        return copied

    def test_a_model_that_is_no_pyfunc(self, cache: Cache, model: Path, tmp_path: Path) -> None:
        content = yaml.safe_load((model / MLMODEL_FILE).read_text())
        del content["flavors"]["python_function"]

        reason, code = cache.refused(self.rewritten(model, tmp_path, yaml.safe_dump(content)))

        assert "no python_function flavor, only sklearn" in reason
        assert code == "INVALID_PARAMETER_VALUE"

    @pytest.mark.parametrize("text", ["", "{", "[1]", "flavors: 3", "\0"])
    def test_an_mlmodel_file_that_says_nothing(
        self, cache: Cache, model: Path, tmp_path: Path, text: str
    ) -> None:
        reason, code = cache.refused(self.rewritten(model, tmp_path, text))

        assert str(tmp_path / "copy") in reason
        assert code == "INVALID_PARAMETER_VALUE"

    def test_a_flavor_that_it_has_not(self, cache: Cache, model: Path) -> None:
        reason, code = cache.refused(model, flavor="xgboost")

        assert "no flavor 'xgboost'; it has python_function, sklearn" in reason
        assert code == "INVALID_PARAMETER_VALUE"

    def test_a_flavor_that_it_has(self, cache: Cache, model: Path) -> None:
        assert cache.got(model, flavor="sklearn").flavor == "sklearn"

    def test_a_full_disk(self, cache: Cache, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: Path, target: Path, dirs_exist_ok: bool) -> None:
            assert target.is_dir() is dirs_exist_ok
            (target / "half").write_text("")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shutil, "copytree", full)

        reason, code = cache.refused(model)

        assert "No space left on device" in reason
        assert code == "IO_ERROR"

    @pytest.mark.parametrize("uri", ["nothing://x/y", "models:/", "runs:/0123/model", "models:/m/1/2/3"])
    def test_uris_that_lead_nowhere(self, cache: Cache, registry: str, uri: str) -> None:
        reason, _ = cache.refused(uri, store=registry)

        assert reason.startswith(f"{uri} can't be fetched: ")


class TestEnvironment:
    def test_one_that_is_asked_for_is_taken(self, cache: Cache, model: Path) -> None:
        got = cache.got(model, env_manager="conda")

        assert (got.env_manager, got.env_reason) == ("conda", "as asked for")

    def test_auto_is_uv_when_something_is_lacking_and_says_what(
        self, cache: Cache, model: Path, tmp_path: Path
    ) -> None:
        copied = shutil.copytree(model, tmp_path / "copy")
        (copied / "requirements.txt").write_text("nothing-like-it\n")

        got = cache.got(copied)

        assert (got.env_manager, got.env_reason) == ("uv", "nothing-like-it is not installed")


class TestRegistry:
    @pytest.mark.parametrize(
        ("uri", "version"),
        [("models:/m/1", "1"), ("models:/m@champion", "1"), ("models:/m/2", "2"), ("models:/m/latest", "2")],
    )
    def test_a_version_is_resolved_and_the_uri_stays_as_given(
        self, cache: Cache, registry: str, uri: str, version: str
    ) -> None:
        got = cache.got(uri, store=registry)

        assert (got.model_uri, got.model_version) == (uri, version)

    def test_the_digest_does_not_depend_on_where_it_came_from(
        self, cache: Cache, registry: str, model: Path
    ) -> None:
        digests = {
            cache.got(uri, store=registry).digest for uri in ("models:/m/1", "models:/m@champion", model)
        }

        assert digests == {tree_digest(model)}
        assert len(list(cache.path.iterdir())) == 1

    @pytest.mark.parametrize(
        "uri", ["models:/m@nobody", "models:/m/9", "models:/nothing/1", "models:/nothing/latest"]
    )
    def test_what_is_not_registered(self, cache: Cache, registry: str, uri: str) -> None:
        reason, code = cache.refused(uri, store=registry)

        assert reason.startswith(f"{uri} can't be fetched: ")
        assert code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")

    def test_a_version_whose_files_are_gone(
        self, cache: Cache, tmp_path: Path, model: Path, registry: str
    ) -> None:
        gone = shutil.copytree(model, tmp_path / "gone")
        client = MlflowClient(registry, registry)
        client.create_registered_model("gone")
        client.create_model_version("gone", str(gone))
        shutil.rmtree(gone)

        assert "models:/gone/1" in cache.refused("models:/gone/1", store=registry)[0]


class TestDigest:
    def tree(self, folder: Path, **files: str) -> Path:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        return folder

    def test_it_is_of_names_and_contents(self, tmp_path: Path) -> None:
        trees = [
            self.tree(tmp_path / "1", a="x", b="y"),
            self.tree(tmp_path / "2", a="y", b="x"),
            self.tree(tmp_path / "3", a="x", c="y"),
            self.tree(tmp_path / "4", a="xy"),
            self.tree(tmp_path / "5", **{"a/b": "xy"}),
        ]

        assert len({tree_digest(tree) for tree in trees}) == len(trees)

    def test_it_is_not_of_what_the_registry_adds(self, tmp_path: Path) -> None:
        plain = self.tree(tmp_path / "1", a="x")
        registered = self.tree(tmp_path / "2", a="x", registered_model_meta="m/1")

        assert tree_digest(plain) == tree_digest(registered)
