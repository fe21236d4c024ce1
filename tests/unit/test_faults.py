"""Fault points obey a file that may change, and only in a process that was told of one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from mlflow_restaurant.process.faults import VARIABLE, FaultFile, fault_point

SOURCE = """
from mlflow_restaurant.process import faults
faults.arm()
for name in ("first", "second", "first", "second"):
    faults.fault_point(name)
    print(name, flush=True)
"""


def passed(file: Path, order: str) -> tuple[int, list[str]]:
    """Return the exit status of a process that passes points, and which it survived."""
    file.write_text(order)
    done = subprocess.run(
        [sys.executable, "-c", SOURCE], env={VARIABLE: str(file)}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.split()


def test_the_process_ends_at_the_passage_that_is_named(tmp_path: Path) -> None:
    assert passed(tmp_path / "f", "kill second 2") == (-signal.SIGKILL, ["first", "second", "first"])
    assert passed(tmp_path / "f", "kill second 3") == (0, ["first", "second", "first", "second"])
    assert passed(tmp_path / "f", "") == (0, ["first", "second", "first", "second"])


def test_passages_are_written_down(tmp_path: Path) -> None:
    passed(tmp_path / "f", "record")
    assert (tmp_path / "f.passed").read_text().split() == ["first", "second", "first", "second"]


def test_passages_count_from_when_the_file_was_changed(tmp_path: Path) -> None:
    file = FaultFile(tmp_path / "f")
    file.pass_by("a")
    file.pass_by("a")
    assert file.passed["a"] == 2
    (tmp_path / "f").write_text("kill b 1")
    file.pass_by("a")
    assert file.passed["a"] == 1


def test_no_file_nothing_happens() -> None:
    fault_point("anything")
