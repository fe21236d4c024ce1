"""Whether the requests of a revision may be merged: decided once, at rollout, and explained.

What MLmodel says is taken down when a model is fetched (`facts_of`); the rows of its input example are scored alone and
together by the first replica (`disagreement`); from both and the setting follows the decision (`decide`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlflow_restaurant.comparing import difference
from mlflow_restaurant.entities import BatchDecision, BatchFacts
from mlflow_restaurant.gateway.values import COLUMN_KINDS

FLAVOR = "restaurant"
PYFUNC = "python_function"
ROW_WISE_LOADERS = {
    "mlflow.sklearn": "scikit-learn",
    "mlflow.xgboost": "XGBoost",
    "mlflow.lightgbm": "LightGBM",
    "mlflow.catboost": "CatBoost",
}
"""Flavors whose models predict each row by itself, with one type of output, by contract."""

ROWS_COMPARED = 10
ONE_ROW = "its input example has one row, which shows nothing; save it with two or more, or set batching=on"
EQUAL_ROWS = (
    "the rows of its input example are all the same, which shows nothing; save it with rows that differ, or set"
    " batching=on"
)
TOLERANCE = 1e-9


def facts_of(flavors: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]] | None) -> BatchFacts:
    """Return what MLmodel says of merging requests.

    Args:
        flavors: its flavors.
        inputs: the input schema of its signature as MLflow writes it, or None.
    """
    row_wise, reason = _row_wise(flavors)
    columns, tensor, obstacle = _mergeable_input(inputs)
    return BatchFacts(
        row_wise=row_wise,
        reason=reason,
        columns=columns,
        tensor=tensor,
        obstacle=obstacle,
        library=FLAVOR not in flavors and _loader(flavors) in ROW_WISE_LOADERS,
    )


def _row_wise(flavors: Mapping[str, Any]) -> tuple[bool, str]:
    if FLAVOR in flavors:
        conf = flavors[FLAVOR]
        if conf.get("row_wise"):
            return True, "the bundle was saved as row-wise"
        why = conf.get("row_wise_reason") or "not known"
        return False, f"the bundle was not saved as row-wise ({why})"
    loader = _loader(flavors)
    if loader in ROW_WISE_LOADERS:
        return True, f"models of {ROW_WISE_LOADERS[loader]} predict each row by itself"
    return False, f"models of {loader} need not predict each row by itself; batching=on merges all the same"


def _loader(flavors: Mapping[str, Any]) -> str:
    return str(flavors.get(PYFUNC, {}).get("loader_module"))


Input = tuple[dict[str, str] | None, tuple[str, tuple[int, ...]] | None, str]


def _mergeable_input(inputs: Sequence[Mapping[str, Any]] | None) -> Input:
    """Return the columns or the tensor of a signature, or what stands in the way."""
    if not inputs:
        return None, None, "the model has no signature, so that types of its input are not known"
    if "tensor-spec" in inputs[0]:
        return _mergeable_tensor(inputs)
    columns: dict[str, str] = {}
    for column in inputs:
        name, kind = column.get("name"), column.get("type")
        if not isinstance(name, str):
            return None, None, "the columns of its signature have no names"
        if kind not in COLUMN_KINDS:
            return None, None, f"its column '{name}' has the type {kind}, whose values depend on each other"
        columns[name] = str(kind)
    return columns, None, ""


def _mergeable_tensor(inputs: Sequence[Mapping[str, Any]]) -> Input:
    spec = inputs[0]["tensor-spec"]
    shape = tuple(int(size) for size in spec["shape"])
    if len(inputs) > 1 or inputs[0].get("name") is not None:
        return None, None, "its input is made of named tensors"
    if len(shape) < 2 or shape[0] != -1 or min(shape[1:]) < 1:
        return None, None, f"its input is a tensor of shape {shape}, not of rows of one fixed shape"
    return None, (str(spec["dtype"]), shape[1:]), ""


def needs_comparison(setting: Literal["auto", "on", "off"], facts: BatchFacts | None) -> bool:
    """Tell whether the decision depends on how the rows of the input example score."""
    return setting == "auto" and facts is not None and facts.row_wise and not facts.obstacle


def disagreement(together: Sequence[bytes] | None, alone: Sequence[Sequence[bytes] | None]) -> str:
    """Say where predictions differ between rows scored together and each alone; empty if nowhere.

    Args:
        together: the items of the predictions of all rows, as JSON; None if they are no list.
        alone: the same of each row by itself; as many as were compared.
    """
    if together is None or any(items is None for items in alone):
        return "its predictions are no list"
    for number, items in enumerate(alone):
        if items is None or len(items) != 1 or number >= len(together):
            return f"row {number + 1} of its input example alone does not give one prediction"
        text = difference(json.loads(together[number]), json.loads(items[0]), TOLERANCE)
        if text:
            return (
                f"row {number + 1} of its input example predicts otherwise alone than with the others: {text}"
            )
    return ""


def decide(
    setting: Literal["auto", "on", "off"],
    facts: BatchFacts | None,
    disagrees: str | None,
    own_step: str | None = None,
    *,
    tells_requests_apart: bool = False,
) -> BatchDecision:
    """Decide whether requests are merged.

    Args:
        setting: of the deployment.
        facts: what MLmodel says; None for a model that was fetched before this was looked at.
        disagrees: what `disagreement` found in its input example; None if there was none to compare.
        own_step: what in a model of scikit-learn is not scikit-learn's own work; empty if nothing; None: not known.
        tells_requests_apart: see `BatchRoute`; what the replicas said.
    """
    chosen, reason = _decided(setting, facts, disagrees, own_step)
    own_code = facts is None or not facts.library or own_step != ""
    return BatchDecision(
        chosen=chosen, reason=reason, own_code=own_code, tells_requests_apart=tells_requests_apart
    )


def _decided(
    setting: Literal["auto", "on", "off"],
    facts: BatchFacts | None,
    disagrees: str | None,
    own_step: str | None,
) -> tuple[Literal["on", "off"], str]:
    if setting == "off":
        return "off", "as asked for"
    if facts is None:
        return "off", "the model was fetched by a version that merged nothing"
    if facts.obstacle:
        return "off", facts.obstacle
    if setting == "on":
        return "on", "as asked for"
    if not facts.row_wise:
        return "off", facts.reason
    if own_step:
        return "off", f"{own_step} may look at several rows at once; batching=on merges all the same"
    if disagrees is None:
        reason = (
            f"{facts.reason}, but there is no input example to see it by; batching=on merges all the same"
        )
        return "off", reason
    if disagrees:
        return "off", disagrees
    reason = f"{facts.reason}, and the rows of the input example score the same alone and together"
    return "on", reason
