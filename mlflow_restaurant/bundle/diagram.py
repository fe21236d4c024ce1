"""The steps of a bundle as a small diagram: text for terminals, HTML for notebooks."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from .steps import module_name

__all__ = ["WIDTH", "Part", "Stage", "as_html", "as_text", "listed", "plain", "public_module", "stages_of"]

WIDTH = 78
"""Columns of the text; longer lines are cut."""

ROLES = ("preprocess", "model", "postprocess")
FIRST, LAST = "raw data", "predictions"
_SHOWN = 4
_INNER_SHOWN = 8
_NAME_WIDTH = 24


@dataclass(frozen=True)
class Part:
    """One step: its name, where its code comes from, and what else there is to say, a line each."""

    name: str
    origin: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """The steps of one role, in their order."""

    role: str
    parts: tuple[Part, ...]


def stages_of(bundle: Any) -> list[Stage]:
    """Return what the diagram of a `Bundle` shows; roles without steps are left out."""
    stages = []
    for role in ROLES:
        parts = tuple(_part(step, bundle) for step in bundle.steps if step.role == role)
        if parts:
            stages.append(Stage(role, parts))
    return stages


def as_text(stages: Iterable[Stage], width: int = WIDTH) -> str:
    """Return the diagram as text: a box for each stage, from raw data to predictions."""
    boxes = [_box_lines(stage) for stage in stages]
    inner = min(width - 4, max((_width(line) for box in boxes for line in box[1:]), default=0))
    lines = [FIRST]
    for role, *content in boxes:
        lines += [
            "   │",
            f"┌─ {role} {'─' * max(0, inner - len(role) - 1)}┐",
            *(f"│ {_fitted(line, inner)} │" for line in content),
            f"└──{'─' * inner}┘",
        ]
    return "\n".join([*lines, "   │", LAST])


def as_html(stages: Iterable[Stage]) -> str:
    """Return the diagram as HTML, without scripts or colours of its own; all text is escaped."""
    arrow = '<span style="align-self:center">&rarr;</span>'
    boxes = arrow.join(_box_html(stage) for stage in stages)
    ends = [f'<i style="align-self:center">{text}</i>' for text in (FIRST, LAST)]
    style = "display:flex;flex-wrap:wrap;gap:8px;align-items:stretch;font-size:90%"
    return f'<div style="{style}">{ends[0]}{arrow}{boxes}{arrow}{ends[1]}</div>'


def listed(values: Iterable[Any], shown: int = _SHOWN) -> str:
    """Return the first few values, and how many more there are."""
    values = list(values)
    more = len(values) - shown
    names = ", ".join(str(value) for value in values[:shown])
    return f"{names} and {more} more" if more > 0 else names


def public_module(module: str) -> str:
    """Return a module's name up to its private parts: ``sklearn.svm`` of ``sklearn.svm._classes``."""
    parts = module.split(".")
    private = next((at for at, part in enumerate(parts) if at and part.startswith("_")), len(parts))
    return ".".join(parts[:private])


def plain(text: Any) -> str:
    """Return text on one line, without characters that would move the cursor or colour a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def _part(step: Any, bundle: Any) -> Part:
    target = step.target
    is_function = hasattr(target, "__qualname__")
    module = public_module(module_name(target))
    arguments = (
        [listed(f"{name}={value!r:.40}" for name, value in step.kwargs.items())] if step.kwargs else []
    )
    details = [*arguments, *_inner_lines(target)]
    if step.role == "model":
        details += _model_lines(bundle)
    return Part(step.name, f"function of {module}" if is_function else module, tuple(details))


def _model_lines(bundle: Any) -> list[str]:
    lines = [f"method {bundle.predict_method}"]
    if bundle.labels:
        lines.append(f"labels {listed(bundle.labels.values())}")
    params = [
        f"{name}={default!r:.40}" for name, default in bundle.params.items() if name != "predict_method"
    ]
    return [*lines, f"params {listed(params)}"] if params else lines


def _inner_lines(target: Any) -> list[str]:
    """The estimators inside a ``Pipeline`` or ``ColumnTransformer`` of scikit-learn, or one like them."""
    if (columns := getattr(target, "transformers_", None)) is not None:
        more = len(columns) - _INNER_SHOWN
        lines = [_columns_line(*item) for item in columns[:_INNER_SHOWN]]
        return [*lines, f"and {more} more"] if more > 0 else lines
    steps = getattr(target, "steps", None)
    return [_name_of(target)] if isinstance(steps, list) and steps else []


def _columns_line(name: str, transformer: Any, columns: Any) -> str:
    is_list = isinstance(columns, (list, tuple)) or hasattr(columns, "tolist")
    return f"{listed(columns) if is_list else columns}: {_name_of(transformer)} ({name})"


def _name_of(target: Any) -> str:
    if isinstance(target, str):  # "drop", "passthrough"
        return target
    steps = getattr(target, "steps", None)
    if isinstance(steps, list) and steps:
        return " → ".join(_name_of(step[-1]) for step in steps if isinstance(step, tuple))
    return type(target).__name__


def _box_lines(stage: Stage) -> list[str]:
    lines = [stage.role]
    for number, part in enumerate(stage.parts, 1):
        mark = f"{number}  " if len(stage.parts) > 1 else ""
        name = plain(part.name)
        padding = " " * max(2, _NAME_WIDTH - _width(mark + name))
        lines.append(f"{mark}{name}{padding}{plain(part.origin)}")
        lines += [f"     {plain(detail)}" for detail in part.details]
    return lines


def _fitted(text: str, width: int) -> str:
    """Text of exactly so many columns, cut or filled up."""
    if _width(text) > width:
        while _width(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _box_html(stage: Stage) -> str:
    parts = "".join(_part_html(part) for part in stage.parts)
    style = "border:1px solid;border-radius:6px;padding:4px 10px"
    return f'<div style="{style}"><small>{escape(stage.role)}</small>{parts}</div>'


def _part_html(part: Part) -> str:
    lines = [f"<b>{escape(part.name)}</b>", f"<small>{escape(part.origin)}</small>"]
    lines += [f"<small><code>{escape(detail)}</code></small>" for detail in part.details]
    return f'<div style="margin:4px 0">{"<br>".join(lines)}</div>'
