"""A model, logged from code, that does what its input says."""

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import mlflow
import numpy as np


class Actor(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Column ``do``: what to do, a row; the answer is what came of it."""

    def load_context(self, context):  # type: ignore[no-untyped-def]
        self.settings = dict(context.model_config or {})
        at_load = self.settings.get("at_load", "")
        if at_load == "raise":
            raise ValueError("the actor fell ill while loading")
        if at_load == "exit":
            sys.exit(9)
        if at_load == "hang":
            time.sleep(3600)
        if at_load == "write":
            write_on()
        time.sleep(self.settings.get("load_s", 0))
        self.calls = itertools.count(1)
        unless = self.settings.get("end_if_there")
        if unless and Path(unless).exists():
            os._exit(41)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        if next(self.calls) % self.settings.get("fail_every", sys.maxsize) == 0:
            raise ValueError("out of order")
        time.sleep(self.settings.get("takes_s", 0))
        return [self.act(action) for action in model_input["do"]]

    def act(self, action: str) -> str:
        verb, _, argument = action.partition(":")
        if verb == "pid":
            return str(os.getpid())
        if verb == "name":
            return str(self.settings.get("name", ""))
        if verb == "env":
            return os.environ.get(argument, "")
        if verb == "version":
            return str(__import__(argument).__version__)
        if verb == "random":
            return str(np.random.rand())
        if verb == "sleep":
            print("asleep", flush=True)
            time.sleep(float(argument or self.settings.get("sleeps_s", 0)))
            return argument
        if verb == "raise":
            raise ValueError(argument)
        if verb == "exit":
            sys.exit(int(argument or 0))
        if verb == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if verb == "grow":
            self.kept = [*getattr(self, "kept", []), os.urandom(int(argument) * 1_000_000)]
            return str(os.getpid())
        if verb in DEEDS:
            DEEDS[verb](argument)
        return action


def flood(megabytes: str) -> None:
    """Print so many megabytes, in numbered lines."""
    block = b"".join(b"%099d\n" % number for number in range(10_000))
    for _ in range(int(megabytes)):
        os.write(1, block)


def fork(seconds: str) -> None:
    """Leave a child that lives for a while."""
    if os.fork() == 0:
        time.sleep(float(seconds))
        os._exit(0)


def say(text: str) -> None:
    print(text, flush=True)


def write_on() -> None:
    """Write beside the code, as Python does its bytecode, until a second after SIGTERM; then end."""
    asked: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(time.monotonic()))
    while not asked or time.monotonic() < asked[0] + 1:
        (Path(__file__).parent / "__pycache__").mkdir(parents=True, exist_ok=True)
        time.sleep(0.01)
    os._exit(0)


def read(path: str) -> None:
    """Need a file, as a model does that loads its parts when they are asked for."""
    Path(path).read_bytes()


DEEDS = {"print": say, "flood": flood, "fork": fork, "read": read}

mlflow.models.set_model(Actor())
