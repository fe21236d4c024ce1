"""The directory of models: what stays in it, and that nothing is ever seen there in part."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from mlflow_restaurant.control.model_cache import MLMODEL_FILE, ModelCache, put, temporary_in

ONE, OTHER = "1" * 32, "2" * 32


def saved(path: Path) -> Path:
    (path / "code").mkdir(parents=True)
    (path / MLMODEL_FILE).write_text("flavors: {}\n")
    (path / "code" / "own.py").write_text("")
    return path


def names(models: Path) -> set[str]:
    return {path.name for path in models.iterdir()}


def test_what_is_needed_stays(tmp_path: Path) -> None:
    saved(tmp_path / ONE), saved(tmp_path / OTHER)
    ModelCache(tmp_path, lambda: {ONE}).clean()
    assert names(tmp_path) == {ONE}


def test_only_models_and_downloads_go(tmp_path: Path) -> None:
    saved(temporary_in(tmp_path)), saved(tmp_path / "mine"), saved(tmp_path / ".tmp-mine")
    ModelCache(tmp_path, set).clean()
    assert names(tmp_path) == {"mine", ".tmp-mine"}


def test_everything_stays_while_something_changes(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, set)
    with cache.changing():
        with cache.changing():
            saved(tmp_path / ONE)
        cache.clean()
        assert names(tmp_path) == {ONE}
    assert names(tmp_path) == set()


def test_a_home_that_is_gone_is_no_error(tmp_path: Path) -> None:
    ModelCache(tmp_path / "gone", set).clean()


def test_a_model_is_whole_until_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / ONE)
    seen = []

    def look(path: Path, **options: Any) -> None:
        seen.append((tmp_path / ONE).exists())
        assert (path / MLMODEL_FILE).exists()

    monkeypatch.setattr(shutil, "rmtree", look)
    ModelCache(tmp_path, set).clean()
    assert seen == [False]


def test_a_model_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    inode = (saved(tmp_path / ONE) / MLMODEL_FILE).stat().st_ino
    put(saved(temporary_in(tmp_path)), tmp_path / ONE)
    assert (tmp_path / ONE / MLMODEL_FILE).stat().st_ino == inode


def test_what_is_left_of_a_model_gives_way(tmp_path: Path) -> None:
    """Python makes the directories again into which it writes its bytecode."""
    (tmp_path / ONE / "code" / "__pycache__").mkdir(parents=True)
    (tmp_path / ONE / "code" / "__pycache__" / "own.cpython-312.pyc").write_bytes(b"")
    put(saved(temporary_in(tmp_path)), tmp_path / ONE)
    assert (tmp_path / ONE / MLMODEL_FILE).is_file()
    assert (tmp_path / ONE / "code" / "own.py").is_file()
    assert names(tmp_path) == {ONE}


def test_a_model_that_cannot_be_moved_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        put(temporary_in(tmp_path), tmp_path / ONE)
