"""What callers of one model would have to change for another."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow.models import ModelSignature as MlflowSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType
from numpy import dtype

from mlflow_restaurant.control.artifacts import signature_of
from mlflow_restaurant.control.schemas import schema_changes
from mlflow_restaurant.entities import ModelSignature


def table(**columns: str) -> ModelSignature:
    """Return a signature of named columns; a type with a question mark is optional."""
    specs = [
        ColSpec(kind.rstrip("?"), name, required=not kind.endswith("?")) for name, kind in columns.items()
    ]
    return signature(Schema(specs))


def signature(inputs: Schema | None, **params: str) -> ModelSignature:
    specs = [ParamSpec(name, DataType[kind], None) for name, kind in params.items()]
    found = signature_of(MlflowSignature(inputs=inputs, params=ParamSchema(specs) if specs else None))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (table(a="double", b="string"), table(b="string", a="double")),
        (table(a="double"), table(a="double", extra="string?")),
        (table(a="integer"), table(a="long")),
        (table(a="integer"), table(a="double")),
        (table(a="float"), table(a="double")),
        (table(a="double"), table(a="double?")),
        (table(a="double"), signature(Schema([ColSpec(AnyType())]))),
        (table(a="double", b="string"), signature(Schema([ColSpec(AnyType())]))),
        (signature(Schema([ColSpec(AnyType())])), signature(Schema([ColSpec(AnyType())]))),
        (signature(Schema([ColSpec(AnyType(), "a")])), signature(Schema([ColSpec(AnyType(), "a")]))),
        (table(a="double"), signature(Schema([ColSpec(AnyType(), "a")]))),
        (table(a="double", b="long"), signature(Schema([ColSpec("double"), ColSpec("long")]))),
        (table(a="double"), None),
        (None, table(a="double")),
    ],
    ids=str,
)
def test_what_callers_need_not_notice(old: Any, new: Any) -> None:
    assert schema_changes(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (table(a="double", b="string"), table(a="double"), ["column 'b' is missing"]),
        (table(a="double"), table(a="double", c="string"), ["column 'c' (string) is added"]),
        (table(a="double"), table(a="string"), ["column 'a' is string instead of double"]),
        (table(a="double"), table(a="long"), ["column 'a' is long instead of double"]),
        (table(a="double?"), table(a="double"), ["column 'a' is required, and was optional"]),
        (
            table(a="double", b="string"),
            table(b="long", c="double"),
            ["column 'a' is missing", "column 'b' is long instead of string", "column 'c' (double) is added"],
        ),
        (
            signature(Schema([ColSpec(AnyType(), "a")])),
            table(a="double"),
            ["column 'a' is double instead of any"],
        ),
        (
            signature(Schema([ColSpec(AnyType())])),
            signature(Schema([ColSpec("double")])),
            ["input 1 is double instead of any"],
        ),
        (
            signature(Schema([ColSpec(AnyType()), ColSpec("double")])),
            signature(Schema([ColSpec(AnyType()), ColSpec("string")])),
            ["input 2 is string instead of double"],
        ),
        (
            signature(Schema([ColSpec(AnyType())])),
            table(a="double", b="string"),
            ["its inputs have names: 'a', 'b'"],
        ),
        (
            signature(Schema([ColSpec("double")])),
            signature(Schema([ColSpec("double"), ColSpec(AnyType())])),
            ["it takes 2 inputs, not 1"],
        ),
        (
            signature(Schema([ColSpec(AnyType())])),
            signature(Schema([TensorSpec(dtype("float64"), (-1, 2))])),
            ["input 1 is a tensor of float64 of shape (-1, 2) instead of any"],
        ),
    ],
    ids=str,
)
def test_what_they_would(old: ModelSignature, new: ModelSignature, words: list[str]) -> None:
    assert schema_changes(old, new) == words


def tensor(kind: str, *shape: int) -> ModelSignature:
    return signature(Schema([TensorSpec(dtype(kind), shape)]))


def test_tensors() -> None:
    assert schema_changes(tensor("float64", -1, 2), tensor("float64", -1, 2)) == []
    assert schema_changes(tensor("float64", -1, 2), tensor("float64", -1, 3)) == [
        "input 1 is a tensor of float64 of shape (-1, 3) instead of a tensor of float64 of shape (-1, 2)"
    ]
    assert len(schema_changes(tensor("float64", -1, 2), table(a="double"))) == 1


def test_a_tensor_of_any_size_takes_those_of_one() -> None:
    assert schema_changes(tensor("float64", -1, 4), tensor("float64", -1, -1)) == []
    assert schema_changes(tensor("float64", 3, 4), tensor("float64", -1, 4)) == []
    for new in (tensor("float64", -1, 4), tensor("float32", -1, -1), tensor("float64", -1, -1, -1)):
        assert len(schema_changes(tensor("float64", -1, -1), new)) == 1


def test_params() -> None:
    old = signature(Schema([ColSpec("double", "a")]), top="long", mode="string")
    new = signature(Schema([ColSpec("double", "a")]), top="double")
    assert schema_changes(old, new) == [
        "param 'top' is double instead of long",
        "param 'mode' is missing",
    ]
    assert schema_changes(table(a="double"), new) == []
