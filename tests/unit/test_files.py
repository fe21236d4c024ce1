"""Files of a bundle, and whether they are what they were."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlflow_restaurant.bundle.files import CHANGED, INTACT, MISSING, OUTSIDE, sha256_of, state_of


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
