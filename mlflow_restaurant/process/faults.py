"""Fault points: steps at which a test lets the controller die, to see what the next one makes of what is left.

They do nothing unless a file was named when the controller started. That file then says what happens at them, and may
be changed while it runs: ``record`` writes each passage into the file of the same name with ``.passed`` behind it, and
``kill NAME N`` ends the process with SIGKILL at the Nth passage of a point since the file was written.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

VARIABLE = "_MLFLOW_RESTAURANT_FAULTS"


class FaultFile:
    """What a file says is to happen at fault points, and the passages since it said so."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.text = ""
        self.passed: Counter[str] = Counter()

    def pass_by(self, name: str) -> None:
        try:
            text = self.file.read_text(encoding="utf-8").strip()
        except OSError:
            text = ""
        if text != self.text:
            self.text, self.passed = text, Counter()
        self.passed[name] += 1
        if text == "record":
            with Path(f"{self.file}.passed").open("a", encoding="utf-8") as passed:
                passed.write(f"{name}\n")
        elif text == f"kill {name} {self.passed[name]}":
            os.kill(os.getpid(), signal.SIGKILL)


_armed: list[FaultFile] = []


def arm() -> None:
    """Obey the file that the environment names, if it names one; what is started from here does not."""
    file = os.environ.pop(VARIABLE, None)
    if file is not None:
        _armed.append(FaultFile(Path(file)))


def fault_point(name: str) -> None:
    """Pass a point."""
    for file in _armed:
        file.pass_by(name)
