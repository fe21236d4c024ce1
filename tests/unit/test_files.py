"""Files of a bundle, and whether they are what they were."""

from __future__ import annotations

import hashlib
import py_compile
from pathlib import Path
from py_compile import PycInvalidationMode

from mlflow_restaurant.bundle.files import (
    CHANGED,
    INTACT,
    MISSING,
    OUTSIDE,
    added_files,
    sha256_of,
    state_of,
)
from mlflow_restaurant.saving.hashes import files_below


def test_a_large_file_is_hashed_as_a_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "f").write_bytes(content)

    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_states(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    root.mkdir()
    (root / "f").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"a")
    digest = sha256_of(root / "f")

    assert state_of(root, "f", digest) == INTACT
    assert state_of(root, "f", "0" * 64) == CHANGED
    assert state_of(root, "g", digest) == MISSING
    assert state_of(root, "../secret", digest) == OUTSIDE
    assert state_of(root, str(tmp_path / "secret"), digest) == OUTSIDE


def test_a_link_out_of_the_bundle_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"a")
    (root / "f").symlink_to(tmp_path / "secret")

    assert state_of(root, "f", sha256_of(root / "f")) == OUTSIDE


def test_bytecode_counts_as_added_where_python_would_use_it_whatever_its_source_is(tmp_path: Path) -> None:
    source = tmp_path / "code" / "helper.py"
    source.parent.mkdir()
    source.write_text("x = 1")
    listed = files_below(tmp_path, "code")

    for mode in (PycInvalidationMode.TIMESTAMP, PycInvalidationMode.CHECKED_HASH):
        py_compile.compile(str(source), invalidation_mode=mode)
        assert added_files(tmp_path, "code", listed) == []
        assert files_below(tmp_path, "code") == listed == ["code/helper.py"]

    planted = py_compile.compile(str(source), invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    assert added_files(tmp_path, "code", listed) == [Path(str(planted)).relative_to(tmp_path).as_posix()]
