"""A model, logged from code, that predicts 2 a + 10 b and does what it is ordered to besides.

An order is a file in the directory that the model's config names; it is taken by one replica, in its next call.
While a file ``slow`` is there, every call takes as many seconds as it says.
"""

import itertools
import os
import sys
import time
from pathlib import Path

import mlflow

MB = 1_000_000


class Unruly(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Two columns of numbers, ``a`` and ``b``."""

    def load_context(self, context):  # type: ignore[no-untyped-def]
        self.settings = dict(context.model_config or {})
        self.orders = Path(self.settings["orders"])
        self.calls = itertools.count(1)
        self.kept = []

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        if next(self.calls) % self.settings["fail_every"] == 0:
            raise ValueError("out of order")
        if self.settings["leak_kb"]:
            self.kept.append(os.urandom(self.settings["leak_kb"] * 1000))
        time.sleep(self.pause_s())
        self.obey()
        return (2 * model_input["a"] + 10 * model_input["b"]).tolist()

    def pause_s(self) -> float:
        """Return what ``slow`` says; it may be on its way in or out."""
        try:
            return float((self.orders / "slow").read_text() or 0)
        except FileNotFoundError:
            return 0.0

    def obey(self) -> None:
        taken = self.orders / f"taken-{os.getpid()}"
        try:
            (self.orders / "order").rename(taken)
        except FileNotFoundError:
            return
        verb, _, argument = taken.read_text().partition(":")
        if verb == "print":
            flood(int(argument))
        elif verb == "fork":
            fork(int(argument))
        elif verb == "close":
            os.closerange(3, 4096)


def flood(megabytes: int) -> None:
    """Print so many megabytes, in numbered lines."""
    block = b"".join(b"%099d\n" % number for number in range(10_000))
    for _ in range(megabytes):
        os.write(1, block)


def fork(children: int) -> None:
    """Start children that do nothing, for an hour, and hold all that this process has open."""
    sys.stdout.flush()
    for _ in range(children):
        if os.fork() == 0:
            end = time.monotonic() + 3600
            while time.monotonic() < end:  # a signal ends no more than one pause
                time.sleep(60)
            os._exit(0)


mlflow.models.set_model(Unruly())
