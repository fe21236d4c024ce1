"""What is measured of one server that serves one model."""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd

from benchmarks.formats import READERS, WRITERS, Unsupported, same
from benchmarks.load import post, write_bodies
from benchmarks.models import ModelKind
from benchmarks.processes import cpu_between, cpu_times, memory
from benchmarks.targets import Served, Target

BODIES = 16
"""Different requests that take turns."""

BIG_ROWS = 10_000
BIG_REQUESTS = 5
START_TIMEOUT_S = 180.0
POLL_S = 0.02
HEADERS = {"Content-Type": "application/json"}


class Failed(RuntimeError):
    """A server did not do what was asked of it; the message says what happened."""


@dataclass(frozen=True)
class Plan:
    """What to measure of each server.

    Args:
        callers: numbers of callers at once.
        rows: rows in a request.
        seconds: of load in each cell.
        warm_up_s: of load before the first cell of each number of rows; not measured.
        big: whether to send requests of 10,000 rows too.
    """

    callers: tuple[int, ...]
    rows: tuple[int, ...]
    seconds: float
    warm_up_s: float
    big: bool


class Question:
    """Bodies with a number of rows each, and the predictions that MLflow makes of them."""

    def __init__(self, kind: ModelKind, model: Path, rows: int, bodies: int = BODIES) -> None:
        frame = kind.rows(rows * bodies)
        loaded = mlflow.pyfunc.load_model(str(model))
        self.frames = [frame.iloc[at : at + rows].reset_index(drop=True) for at in range(0, len(frame), rows)]
        self.expected = [predictions(loaded, part) for part in self.frames]

    def bodies(self, body_format: str) -> list[bytes]:
        """Write the requests in a format; raises Unsupported where it can't carry the rows."""
        return [WRITERS[body_format](frame) for frame in self.frames]


def predictions(model: Any, frame: pd.DataFrame) -> list[Any]:
    return list(np.asarray(model.predict(frame)).ravel().tolist())


def measure(
    target: Target, model: Path, questions: dict[int, Question], plan: Plan, folder: Path
) -> Iterator[dict[str, Any]]:
    """Serve a model and yield what is measured, as records: cells with `rows` and `callers`, and figures.

    Args:
        target: the server.
        model: directory of the saved model.
        questions: by number of rows.
        plan: what to measure.
        folder: an empty directory.

    Raises:
        Failed: the server doesn't answer, or answers nothing but errors.
        Unsupported: its protocol can't carry the model's rows.
    """
    bodies = {rows: question.bodies(target.body_format) for rows, question in questions.items()}
    smallest = min(bodies)
    started = time.perf_counter()
    with target.serve(model, folder) as served:
        wait_for_answer(served, bodies[smallest][0])
        yield {"figure": "start_s", "value": time.perf_counter() - started}
        for body in bodies[smallest]:
            ask(served.url, body)
        yield from _memory("ready", served)
        for name, figure in served.figures.items():
            yield {"figure": name, "value": figure()}
        for rows in plan.rows:
            file = write_bodies(bodies[rows], folder / f"bodies-{rows}.json")
            post(served.url, file, max(plan.callers), plan.warm_up_s)
            for callers in plan.callers:
                wrong = wrong_answers(served.url, target.body_format, bodies[rows], questions[rows])
                yield {"rows": rows, "callers": callers, **cell(served, file, callers, plan.seconds), **wrong}
        yield from _memory("loaded", served)
        if plan.big:
            yield big_request(served.url, target.body_format, bodies[BIG_ROWS][0], questions[BIG_ROWS])


def cell(served: Served, bodies: Path, callers: int, seconds: float) -> dict[str, Any]:
    """Ask for some seconds, and return what it took."""
    before = cpu_times(served.processes())
    load = post(served.url, bodies, callers, seconds)
    processes = served.processes()
    if not processes:
        raise Failed(f"the server ended under the load of {callers} callers: {last_words(served.log)}")
    cpu_s = cpu_between(before, cpu_times(processes))
    return {
        "requests_per_s": load.requests_per_s,
        "p50_ms": load.p50_ms if load.requests else None,
        "p99_ms": load.p99_ms if load.requests else None,
        "max_ms": load.max_ms if load.requests else None,
        "cpu_s_per_1000": cpu_s / load.requests * 1000 if load.requests else None,
        "rss_mb": memory(processes).rss_mb,
        "requests": load.requests,
        "errors": load.status_errors + load.socket_errors,
        "generator_share": load.generator_share,
    }


def _memory(when: str, served: Served) -> Iterator[dict[str, Any]]:
    weighed = memory(served.processes())
    for name in ("rss_mb", "pss_mb", "uss_mb"):
        yield {"figure": f"{when}_{name}", "value": getattr(weighed, name)}


def wrong_answers(url: str, body_format: str, bodies: Sequence[bytes], question: Question) -> dict[str, Any]:
    """Send every body once and count the answers that are not those of MLflow."""
    wrong = 0
    for body, expected in zip(bodies, question.expected, strict=True):
        status, answer = ask(url, body)
        wrong += status != 200 or not _right(READERS[body_format], answer, expected)
    return {"checked": len(bodies), "wrong": wrong}


def _right(read: Callable[[bytes], list[Any]], answer: bytes, expected: list[Any]) -> bool:
    try:
        return same(expected, read(answer))
    except (KeyError, IndexError, TypeError, ValueError):
        return False


def big_request(url: str, body_format: str, body: bytes, question: Question) -> dict[str, Any]:
    """Time one request of 10,000 rows, some times in a row, after one that is checked."""
    status, answer = ask(url, body)
    if status != 200 or not _right(READERS[body_format], answer, question.expected[0]):
        return {"figure": "big_s", "value": None, "note": f"answered {status}: {answer[:200]!r}"}
    took = []
    for _ in range(BIG_REQUESTS):
        started = time.perf_counter()
        ask(url, body)
        took.append(time.perf_counter() - started)
    return {"figure": "big_s", "value": statistics.median(took)}


def ask(url: str, body: bytes, timeout_s: float = 60.0) -> tuple[int, bytes]:
    """Send one request on a connection of its own; returns status and body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("POST", parts.path, body, HEADERS)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_for_answer(served: Served, body: bytes) -> None:
    """Wait until the server predicts.

    Raises:
        Failed: it has ended, or does not predict in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    last = "nothing"
    while time.monotonic() < deadline:
        try:
            status, answer = ask(served.url, body)
            if status == 200:
                return
            last = f"{status}: {answer[:300]!r}"
        except (OSError, http.client.HTTPException) as e:
            last = repr(e)
        if not served.processes():
            raise Failed(f"the server ended while it started: {last_words(served.log)}")
        time.sleep(POLL_S)
    raise Failed(f"no prediction within {START_TIMEOUT_S:g} s; last answer {last}")


def last_words(log: Path) -> str:
    """Return the end of a server's log."""
    if not log.is_file():
        return "no log"
    return log.read_text(encoding="utf-8", errors="replace").strip()[-600:] or "an empty log"


__all__ = ["BIG_ROWS", "Failed", "Plan", "Question", "Unsupported", "measure"]
