"""Whether this Python can serve a model with what is installed."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from mlflow_restaurant.replica.environments import unsatisfied

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
NUMPY = importlib.metadata.version("numpy")


def model(folder: Path, requirements: str | None = None, python: str | None = f"{HERE}.0") -> Path:
    if requirements is not None:
        (folder / "requirements.txt").write_text(requirements)
    if python is not None:
        (folder / "python_env.yaml").write_text(f"python: {python}\nbuild_dependencies: []\n")
    return folder


@pytest.mark.parametrize(
    "requirements",
    [
        None,
        "",
        "\n# a comment\n\n",
        "numpy",
        f"numpy=={NUMPY}",
        "numpy>=1,<99",
        "NumPy>=1",
        "scikit_learn\npandas>=1  # why",
        'nothing-like-it; python_version < "3"',
        'nothing-like-it==1; sys_platform == "win32"',
        'nothing-like-it; extra == "x"',
    ],
)
def test_satisfied(tmp_path: Path, requirements: str | None) -> None:
    assert unsatisfied(model(tmp_path, requirements)) is None


@pytest.mark.parametrize(
    ("requirements", "reason"),
    [
        ("nothing-like-it", "nothing-like-it is not installed"),
        ("numpy\nnothing-like-it==1", "nothing-like-it is not installed"),
        ("numpy==0.0.1", f"the model needs numpy==0.0.1, {NUMPY} is installed"),
        ("numpy<1", f"{NUMPY} is installed"),
        (f"numpy!={NUMPY}", f"{NUMPY} is installed"),
        ('nothing-like-it; python_version >= "3"', "nothing-like-it is not installed"),
    ],
)
def test_unsatisfied_with_the_reason(tmp_path: Path, requirements: str, reason: str) -> None:
    found = unsatisfied(model(tmp_path, requirements))

    assert found is not None
    assert reason in found


def test_another_minor_version_of_python(tmp_path: Path) -> None:
    assert unsatisfied(model(tmp_path, "", "3.1.5")) == (
        f"the model was saved with Python 3.1.5, this is {HERE}"
    )


def test_another_patch_of_python_will_do(tmp_path: Path) -> None:
    assert unsatisfied(model(tmp_path, "", f"{HERE}.99")) is None


@pytest.mark.parametrize("text", ["", "[1]", "other: 1", "{", ":\n:"])
def test_a_python_that_is_not_told_is_taken_for_this_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "python_env.yaml").write_text(text)

    assert unsatisfied(tmp_path) is None


def test_requirements_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("nothing-like-it\n")

    assert unsatisfied(model(tmp_path, "numpy\n-r more.txt\n")) == "nothing-like-it is not installed"


def test_a_constraint_asks_for_no_package(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("nothing-like-it<2\n")

    assert unsatisfied(model(tmp_path, "numpy\n-c constraints.txt\n")) is None


@pytest.mark.parametrize(
    ("installed", "requirement", "satisfied"),
    [
        ("2.0+cpu", "torch==2.0", True),
        ("2.0+cpu", "torch==2.0+cpu", True),
        ("2.0+cpu", "torch==2.0+cu118", False),
        ("2.1+cpu", "torch==2.0", False),
        ("2.0rc1", "torch>=1", True),
        ("2.0.dev1", "torch==2.0", False),
    ],
)
def test_builds_with_a_local_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str, requirement: str, satisfied: bool
) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: installed if name == "torch" else real(name)
    )

    assert (unsatisfied(model(tmp_path, requirement)) is None) == satisfied


@pytest.mark.parametrize("line", ["git+https://example.invalid/x.git", "x @ https://example.invalid/x.whl"])
def test_what_can_not_be_told_is_not_taken_for_installed(tmp_path: Path, line: str) -> None:
    reason = unsatisfied(model(tmp_path, line))

    assert reason is not None
    assert "can't be told" in reason
