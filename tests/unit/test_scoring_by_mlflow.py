"""Merged requests are answered as alone, byte for byte, by MLflow's own scoring functions.

The first model answers each row with what it was given, types and all, so nothing that MLflow or pandas make of a value
in company goes unseen; the others are what people serve.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlflow_restaurant.entities import BatchRoute, DeploymentRoute, ReplicaRoute
from mlflow_restaurant.gateway import scoring
from mlflow_restaurant.gateway.answers import Reply, mend
from mlflow_restaurant.gateway.batcher import Batcher
from mlflow_restaurant.gateway.calls import Call, Outcome
from mlflow_restaurant.gateway.dispatch import Dispatcher, Slots
from mlflow_restaurant.gateway.upstream import Answer, Message
from tests.mixes import PARAMS, TYPED, TYPES, crowds, odd, payloads, respond, tensors


class Echo:
    """Answers each row with its values as they arrive at a model."""

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[str]:
        if isinstance(data, pd.DataFrame):
            types = [str(t) for t in data.dtypes]
            rows = [
                [(n, t, type(v).__name__, v) for n, t, v in zip(data.columns, types, row, strict=True)]
                for row in data.itertuples(index=False)
            ]
            return [repr((row, params)) for row in rows]
        return [repr((data.dtype, data.shape[1:], row.tolist(), params)) for row in data]


class Scikit:
    """A scikit-learn model, as MLflow's flavor calls it."""

    def __init__(self, model: Any, method: str = "predict") -> None:
        self.model, self.method = model, method

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        return getattr(self.model, self.method)(data)


class Frame(Scikit):
    """A model whose answer is a table."""

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        answer = super().predict(data, params)
        return pd.DataFrame({"value": answer, "high": answer > 0, "name": [f"n{v}" for v in answer]})


def pyfunc(implementation: Any, inputs: Schema) -> PyFuncModel:
    signature = ModelSignature(inputs=inputs, params=PARAMS)
    meta = Model(signature=signature, flavors={"python_function": {"loader_module": "tests"}})
    return PyFuncModel(model_meta=meta, model_impl=implementation)


def table(**types: str) -> Schema:
    return Schema([ColSpec(DataType[kind], name, required=kind != "string") for name, kind in types.items()])


def score(model: PyFuncModel, body: bytes) -> bytes | None:
    """Return the server's answer, or None where it is an error."""
    answer = respond(model, body)
    return answer.body if answer.status == 200 else None


def check(model: PyFuncModel, route: BatchRoute, bodies: list[bytes]) -> int:
    """Merge what can be merged and compare; returns how many requests that were."""
    reader = scoring.Reader(route)
    groups: dict[scoring.Kind, list[tuple[bytes, scoring.Part]]] = {}
    for body in bodies:
        part = reader.parse(body)
        if part is not None:
            groups.setdefault(part.kind, []).append((body, part))
    for group in groups.values():
        parts = [part for _, part in group]
        merged = score(model, scoring.merge(parts))
        alone = [score(model, body) for body, _ in group]
        if merged is None:
            assert None in alone, "only a row that is an error alone is an error with others"
        else:
            assert scoring.split(merged, [part.count for part in parts]) == alone
    return sum(len(group) for group in groups.values())


thoroughly = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
quickly = settings(thoroughly, max_examples=60)


@thoroughly
@given(crowds(TYPED))
def test_every_type_of_column_arrives_as_alone(bodies: list[bytes]) -> None:
    check(pyfunc(Echo(), table(**TYPED)), BatchRoute(max_rows=9, wait_ms=0, columns=TYPED), bodies)


@pytest.mark.parametrize("kind", TYPES)
@quickly
@given(data=st.data())
def test_one_column_arrives_as_alone(kind: str, data: st.DataObject) -> None:
    types = {"x": kind}
    bodies = data.draw(crowds(types))

    check(pyfunc(Echo(), table(**types)), BatchRoute(max_rows=9, wait_ms=0, columns=types), bodies)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 2)])
@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "int32", "int8", "uint8", "bool"])
@settings(quickly, max_examples=12)
@given(data=st.data())
def test_a_tensor_arrives_as_alone(kind: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    item = (
        st.booleans()
        if kind == "bool"
        else st.floats(-1e300, 1e300)
        if kind.startswith("float")
        else st.integers(-200, 300)
    )
    bodies = data.draw(st.lists(tensors(shape, item | item | item | item | odd), min_size=2, max_size=6))
    model = pyfunc(Echo(), Schema([TensorSpec(np.dtype(kind), (-1, *shape))]))

    check(model, BatchRoute(max_rows=9, wait_ms=0, tensor=(kind, shape)), bodies)


# -- what people serve

NUMBERS = {"a": "double", "b": "double", "c": "double", "d": "double"}
MIXED = {"age": "double", "income": "double", "visits": "long", "member": "boolean", "city": "string"}


@cache
def numbers_pipeline() -> Any:
    random = np.random.default_rng(3)
    frame = pd.DataFrame(random.normal(size=(80, 4)), columns=list(NUMBERS))
    return make_pipeline(StandardScaler(), DecisionTreeRegressor(random_state=1)).fit(
        frame, frame.sum(axis=1)
    )


@cache
def mixed_pipeline() -> Any:
    random = np.random.default_rng(5)
    rows = 80
    frame = pd.DataFrame(
        {
            "age": random.normal(40, 9, rows),
            "income": np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows)),
            "visits": random.integers(0, 9, rows),
            "member": random.integers(0, 2, rows).astype(bool),
            "city": random.choice(["Bonn", "Oslo", "Rome"], rows),
        }
    )
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income", "visits"]),
            ("names", OneHotEncoder(handle_unknown="ignore"), ["city"]),
            ("rest", "passthrough", ["member"]),
        ]
    )
    model = RandomForestClassifier(n_estimators=5, random_state=1)
    return make_pipeline(columns, model).fit(frame, random.choice(["no", "yes"], rows))


@cache
def text_pipeline() -> Any:
    texts = ["buy now", "see you", "buy cheap", "good day", "now or never", "a b c"]
    return make_pipeline(TfidfVectorizer(), DecisionTreeClassifier(random_state=1)).fit(
        texts, [1, 0, 1, 0, 1, 0]
    )


class Texts(Scikit):
    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        return super().predict(data["text"])


PEOPLE: dict[str, Callable[[], tuple[Any, dict[str, str]]]] = {
    "numbers": lambda: (Scikit(numbers_pipeline()), NUMBERS),
    "a table for an answer": lambda: (Frame(numbers_pipeline()), NUMBERS),
    "mixed": lambda: (Scikit(mixed_pipeline()), MIXED),
    "probabilities": lambda: (Scikit(mixed_pipeline(), "predict_proba"), MIXED),
    "text": lambda: (Texts(text_pipeline()), {"text": "string"}),
}


@pytest.mark.parametrize("name", PEOPLE)
@quickly
@given(data=st.data())
def test_models_that_people_serve_answer_as_alone(name: str, data: st.DataObject) -> None:
    implementation, types = PEOPLE[name]()
    bodies = data.draw(crowds(types))

    check(pyfunc(implementation, table(**types)), BatchRoute(max_rows=9, wait_ms=0, columns=types), bodies)


@pytest.mark.parametrize("name", PEOPLE)
def test_plain_requests_are_merged_in_every_format(name: str) -> None:
    implementation, types = PEOPLE[name]()
    plain: dict[str, list[Any]] = {
        "double": [1.5, 2.25],
        "long": [1, 2],
        "boolean": [True, False],
        "string": ["Bonn", "é"],
    }
    rows = [[plain[kind][i] for kind in types.values()] for i in (0, 1)]
    wanted = [payload for row in rows for payload in payloads(list(types), [row])[:6]]
    bodies = [json.dumps(payload).encode() for payload in wanted]

    merged = check(
        pyfunc(implementation, table(**types)), BatchRoute(max_rows=9, wait_ms=0, columns=types), bodies
    )

    assert merged == len(bodies)


# -- through the queue


async def through_the_queue(model: PyFuncModel, types: dict[str, str], bodies: list[bytes]) -> list[Outcome]:
    """Send requests at once through a batcher whose only replica is a model, and return what each caller gets."""
    route = DeploymentRoute(
        name="d",
        revision=1,
        timeout_s=60,
        max_queue=100,
        max_body_mb=1,
        batch=BatchRoute(max_rows=9, wait_ms=0, columns=types),
        replicas=(ReplicaRoute(key="a", socket="/a"),),
    )

    async def send(
        dispatcher: Dispatcher,
        slots: Slots,
        message: Message,
        deadline: float,
        *,
        fresh: bool,
        patience_s: float,
    ) -> Answer:
        await asyncio.sleep(0)
        return respond(model, message.body)

    batcher = Batcher(Dispatcher(route), send, lambda _, __: None, lambda *_: None)
    outcomes: list[list[Outcome]] = []
    for body in bodies:
        outcomes.append([])
        headers = [(b"content-type", b"application/json")]
        batcher.submit(Call(headers, body, "/invocations", "", outcomes[-1].append))
    while batcher.queue or batcher.running:
        await asyncio.sleep(0)
    assert batcher.merges
    return [outcome for (outcome,) in outcomes]


@pytest.mark.parametrize("name", ["numbers", "mixed", "text", "echo"])
@settings(quickly, max_examples=40)
@given(data=st.data())
def test_every_caller_gets_what_a_lonely_one_gets_errors_too(name: str, data: st.DataObject) -> None:
    implementation, types = (Echo(), TYPED) if name == "echo" else PEOPLE[name]()
    model = pyfunc(implementation, table(**types))
    bodies = data.draw(crowds(types)) + data.draw(crowds(types))

    outcomes = asyncio.run(through_the_queue(model, types, bodies))

    for body, outcome in zip(bodies, outcomes, strict=True):
        alone = mend(respond(model, body), "")
        assert isinstance(outcome, Reply)
        assert (outcome.status, outcome.body) == (alone.status, alone.body)
