"""What all settings have in common: how a bad value is told of, and the tables of help texts and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mlflow_restaurant.errors import InvalidRequest, quoted

Model = TypeVar("Model", bound=BaseModel)


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number_needed", "a number is needed")
    return value


Number = BeforeValidator(_refuse_bool)
"""A number that is no boolean."""


def public_name(name: str, field: FieldInfo) -> str:
    """Return the name under which users give the field."""
    return field.alias or name


def validate(cls: type[Model], values: Mapping[str, Any], what: str) -> Model:
    """Return settings of a class.

    Args:
        what: what the message calls a value, such as ``Config key``.

    Raises:
        InvalidRequest: a value has the wrong type or is out of bounds; the message names the first.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        key = str(first["loc"][0]) if first["loc"] else "?"
        raise InvalidRequest(f"{what} '{key}' {_reason(first)}, not {_shown(values.get(key))}.") from None


_REASONS = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "number_needed": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "dict_type": "must be a JSON object",
    "string_type": "must be a string",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
}


def _reason(error: Any) -> str:
    if error["type"] == "steps":
        return str(error["msg"])
    template = _REASONS.get(error["type"])
    if template is None:
        return f"is not allowed ({error['msg']})"
    context = {key: f"{v:g}" if isinstance(v, float) else v for key, v in error.get("ctx", {}).items()}
    return template.format(**context)


def _shown(value: object) -> str:
    return quoted(value, 80)


def config_table(cls: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of every setting of `cls`, for help texts and documentation."""
    rows = []
    for name, field in cls.model_fields.items():
        key = "env.NAME" if name == "env" else public_name(name, field)
        default = field.get_default(call_default_factory=True)
        shown = (
            "" if default in (None, {}) else f"{default:g}" if isinstance(default, float) else str(default)
        )
        rows.append((key, shown, field.description or ""))
    return rows
