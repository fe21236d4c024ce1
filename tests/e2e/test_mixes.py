"""Random mixes of requests, good and bad, at once through a real server: every caller gets its own answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import mlflow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, Schema

from mlflow_restaurant.gateway.answers import mend
from mlflow_restaurant.home import Home
from mlflow_restaurant.replica.app import SHORTCUTS_VARIABLE

from ..differential.compare import normalise_message
from ..differential.models import sklearn_mixed_optional
from ..mixes import PARAMS, TYPED, crowds, respond
from ..support import call, merged_calls
from .conftest import borrowed, saved_from_code

MOST_AT_ONCE = 32
EXAMPLES = 60
WAVES = 4
ECHO = """
import mlflow


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        types = [str(dtype) for dtype in model_input.dtypes]
        return [
            repr(([(name, kind, type(value).__name__, value) for name, kind, value in zip(model_input, types, row)], params))
            for row in model_input.itertuples(index=False)
        ]


mlflow.models.set_model(Echo())
"""
"""Answers each row with its values as they arrive at a model, types and all."""


@dataclass
class Served:
    """A model here, where MLflow's functions score it, and where it is served, by whether shortcuts are on."""

    model: PyFuncModel
    urls: dict[str, str]
    pool: ThreadPoolExecutor


@pytest.fixture(scope="module")
def served(shared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("mixes") / "echo"
    columns = [ColSpec(DataType[kind], name, required=kind != "string") for name, kind in TYPED.items()]
    saved_from_code(ECHO, path, ModelSignature(Schema(columns), params=PARAMS))
    yield from serve(shared_home, path)


@pytest.fixture(scope="module")
def encoded(shared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model of scikit-learn that takes each row for what it is, whatever is missing beside it."""
    path = tmp_path_factory.mktemp("mixes") / "encoded"
    sklearn_mixed_optional(path)
    yield from serve(shared_home, path)


def serve(home: Home, path: Path) -> Iterator[Served]:
    with ExitStack() as stack:
        client = stack.enter_context(borrowed(home))
        urls = {}
        for shortcuts in ("on", "off"):
            # A moment's wait, so that what is sent at once is merged for sure.
            config = {"batching": "on", "batch_wait_ms": "5", f"env.{SHORTCUTS_VARIABLE}": shortcuts}
            urls[shortcuts] = client.create_deployment(f"{path.name}-{shortcuts}", str(path), config=config)[
                "url"
            ]
            stack.callback(client.delete_deployment, f"{path.name}-{shortcuts}")
        pool = stack.enter_context(ThreadPoolExecutor(MOST_AT_ONCE))
        yield Served(mlflow.pyfunc.load_model(str(path)), urls, pool)


@pytest.mark.parametrize("shortcuts", ["on", "off"])
def test_every_caller_gets_what_mlflow_answers_it_alone(served: Served, shortcuts: str) -> None:
    everybody_is_answered_as_alone(served, shortcuts)


@pytest.mark.parametrize("shortcuts", ["on", "off"])
def test_so_does_one_whose_texts_are_missing(encoded: Served, shortcuts: str) -> None:
    everybody_is_answered_as_alone(encoded, shortcuts)


@pytest.mark.parametrize("shortcuts", ["on", "off"])
def test_where_rows_are_told_apart_one_call_has_those_with_and_without_text(
    shared_home: Home, tmp_path: Path, shortcuts: str
) -> None:
    sklearn_mixed_optional(tmp_path / "encoded")
    bodies = [row("blue"), row(None)] * 8
    with borrowed(shared_home) as client, ThreadPoolExecutor(len(bodies)) as pool:
        # Long enough for all that is sent at once to arrive.
        config = {"batching": "on", "batch_wait_ms": "500", f"env.{SHORTCUTS_VARIABLE}": shortcuts}
        url = client.create_deployment("apart", str(tmp_path / "encoded"), config=config)["url"]
        for _ in range(WAVES):
            answers = list(pool.map(lambda body: call(f"{url}/invocations", body=body), bodies))
            assert [answer.status for answer in answers] == [200] * len(bodies)
            with_text, without = answers[0].predictions, answers[1].predictions
            assert with_text != without
            assert [answer.predictions for answer in answers] == [with_text, without] * 8
        requests, calls = merged_calls(url)
        client.delete_deployment("apart")
    assert requests == len(bodies) * WAVES
    assert (calls < 2 * WAVES) is (shortcuts == "on")  # without, a wave takes two calls at least


def row(text: str | None) -> bytes:
    return json.dumps(
        {"dataframe_records": [{**dict.fromkeys(TYPED, 1), "boolean": True, "string": text}]}
    ).encode()


def everybody_is_answered_as_alone(served: Served, shortcuts: str) -> None:
    url = served.urls[shortcuts]
    some = crowds(TYPED)  # of 8 at most

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.tuples(some, some).map(lambda parts: [body for part in parts for body in part * 2]))
    def check(bodies: list[bytes]) -> None:
        start = Barrier(len(bodies))

        def send(body: bytes) -> tuple[int, str]:
            start.wait()
            answer = call(f"{url}/invocations", body=body)
            return answer.status, normalise_message(answer.body.decode())

        got = list(served.pool.map(send, bodies))
        for body, answer in zip(bodies, got, strict=True):
            alone = mend(respond(served.model, body), "")
            assert answer == (alone.status, normalise_message(alone.body.decode())), body

    check()

    requests, calls = merged_calls(url)
    assert requests > 1.5 * calls
