"""Whether a model accepts the input that callers of another one send. Pure: signatures as MLmodel has them, words out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow_restaurant.entities import ModelSignature

TAKES = {
    "integer": {"integer", "long", "double"},
    "long": {"long", "double"},
    "float": {"float", "double"},
}
"""For a type of column, the types to which MLflow converts all its values; every other type takes its own alone."""

ANY = "any"
"""The type of MLflow for what it could not infer: it checks nothing, so that callers may send whatever they like."""

ANY_SIZE = -1

Column = Mapping[str, Any]


def schema_changes(old: ModelSignature | None, new: ModelSignature | None) -> list[str]:
    """Return what callers of a model with the signature `old` would have to change for one with `new`, in words.

    A model without a signature accepts everything, so nothing is said where either has none.
    """
    if old is None or new is None:
        return []
    changes = list(_input_changes(old.inputs, new.inputs)) if old.inputs and new.inputs else []
    return [*changes, *_param_changes(old.params or [], new.params or [])]


def _input_changes(old: Sequence[Column], new: Sequence[Column]) -> Iterator[str]:
    if len(new) == 1 and new[0].get("type") == ANY and "name" not in new[0]:
        return
    names = [repr(column["name"]) for column in new if "name" in column]
    if names and all("name" in column for column in old):
        yield from _by_name(_named(old), _named(new))
    elif names:
        yield f"its inputs have names: {', '.join(names)}"
    elif len(old) != len(new):
        yield f"it takes {len(new)} inputs, not {len(old)}"
    else:
        for number, (before, after) in enumerate(zip(old, new, strict=True), start=1):
            if not _takes(before, after):
                yield f"input {number} is {_type(after)} instead of {_type(before)}"


def _by_name(old: Mapping[str, Column], new: Mapping[str, Column]) -> Iterator[str]:
    for name, before in old.items():
        after = new.get(name)
        if after is None:
            yield f"column '{name}' is missing"
        elif not _takes(before, after):
            yield f"column '{name}' is {_type(after)} instead of {_type(before)}"
        elif _is_required(after) and not _is_required(before):
            yield f"column '{name}' is required, and was optional"
    for name, column in new.items():
        if name not in old and _is_required(column):
            yield f"column '{name}' ({_type(column)}) is added"


def _param_changes(old: Sequence[Column], new: Sequence[Column]) -> Iterator[str]:
    after = _named(new)
    for name, before in _named(old).items():
        if name not in after:
            yield f"param '{name}' is missing"
        elif _type(after[name]) != _type(before):
            yield f"param '{name}' is {_type(after[name])} instead of {_type(before)}"


def _named(columns: Sequence[Column]) -> dict[str, Column]:
    return {str(column["name"]): column for column in columns}


def _is_required(column: Column) -> bool:
    return bool(column.get("required", True))


def _takes(before: Column, after: Column) -> bool:
    if after.get("type") == ANY:
        return True
    if "tensor-spec" in before and "tensor-spec" in after:
        return _takes_tensor(before["tensor-spec"], after["tensor-spec"])
    if before.get("type") in TAKES:
        return after.get("type") in TAKES[before["type"]]
    return _bare(before) == _bare(after)


def _takes_tensor(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    sizes = list(zip(before["shape"], after["shape"], strict=False))
    return (
        before["dtype"] == after["dtype"]
        and len(before["shape"]) == len(after["shape"])
        and all(now in (was, ANY_SIZE) for was, now in sizes)
    )


def _bare(column: Column) -> dict[str, Any]:
    return {key: value for key, value in column.items() if key not in ("name", "required")}


def _type(column: Column) -> str:
    spec = column.get("tensor-spec")
    if spec is not None:
        return f"a tensor of {spec['dtype']} of shape {tuple(spec['shape'])}"
    shape = "" if column.get("shape") is None else f" of shape {column['shape']}"
    return f"{column.get('type')}{shape}"
