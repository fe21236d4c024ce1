"""Every pair of a model and a request."""

from __future__ import annotations

from . import frames, structures
from .formats import Case, Headers
from .models import MODELS

REQUESTS = {
    "sklearn_floats": frames.sklearn_floats,
    "sklearn_labels": frames.sklearn_flowers,
    "sklearn_probabilities": frames.sklearn_flowers,
    "sklearn_mixed": frames.sklearn_mixed,
    "sklearn_mixed_optional": frames.sklearn_mixed,
    "sklearn_unnamed": frames.sklearn_arrays,
    "sklearn_no_signature": frames.sklearn_arrays,
    "sklearn_tensor": frames.sklearn_arrays,
    "echo_required": frames.echo_columns,
    "echo_optional": frames.echo_columns,
    "echo_one_column": frames.echo_one_column,
    "echo_unnamed": frames.echo_unnamed,
    "echo_nested": structures.echo_nested,
    "echo_no_signature": frames.echo_no_signature,
    "echo_params": structures.echo_params,
    "echo_tensor": structures.echo_tensor,
    "echo_tensors": structures.echo_tensors,
    "hints_ints": structures.hints_ints,
    "hints_dicts": structures.hints_dicts,
    "hints_pydantic": structures.hints_pydantic,
    "outputs": structures.outputs,
}


def cases_of(model: str) -> list[Case]:
    """The cases of one model, each once: two tables may make the same request."""
    seen: dict[tuple[bytes, Headers, str, str], Case] = {}
    names: dict[str, int] = {}
    for request in REQUESTS[model]():
        case = request.to(model)
        key = (case.body, case.headers, case.method, case.path)
        if key in seen:
            continue
        count = names[request.name] = names.get(request.name, 0) + 1
        name = request.name if count == 1 else f"{request.name}-{count}"
        seen[key] = Case(model, name, case.body, case.headers, case.method, case.path)
    return list(seen.values())


def all_cases() -> list[Case]:
    return [case for model in MODELS for case in cases_of(model)]
