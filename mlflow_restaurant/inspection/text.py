"""What an inspected bundle looks like on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlflow_restaurant.bundle.diagram import ROLES, WIDTH, Part, Stage, as_text, listed, plain, public_module
from mlflow_restaurant.bundle.files import INTACT

__all__ = ["inspection_text", "size_text"]

_LABEL_WIDTH = 16
_COLUMNS_SHOWN = 20
_TOP_SHOWN = 3
_FILES_SHOWN = 3
_HASH_SHOWN = 12
_UNITS = ("kB", "MB", "GB")
_OPTIONS_SHOWN = 10
_ROW_WISE = {True: "yes", False: "no", None: "not known"}


def inspection_text(report: Mapping[str, Any], width: int = WIDTH) -> str:
    """Return the report of `inspection.inspect_bundle` as text of at most so many columns."""
    lines = [
        plain(f"Bundle {report['uri']}"),
        *_fields(_summary(report), width),
        "",
        as_text(_stages(report["steps"]), width),
        "",
        *_fields(_signature(report["signature"] or {}), width),
        *_profile(report["profile"], width),
        *_fields([("requires", ", ".join(report["requirements"]) or "nothing")], width),
    ]
    return "\n".join(line.rstrip() for line in lines)


def size_text(size: int | None) -> str:
    """Return a number of bytes as people read it: ``1.2 kB``."""
    if size is None:
        return "–"
    if size < 1000:
        return f"{size} B"
    value = float(size)
    unit = next((at for at, factor in enumerate((1e6, 1e9)) if value < factor * 0.9995), 2)
    value /= 1000 ** (unit + 1)
    return f"{value:.{0 if value >= 99.5 else 1}f} {_UNITS[unit]}"


def _fields(fields: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Labels and texts, side by side; long texts go on below."""
    for label, text in fields:
        wrapped = textwrap.wrap(plain(text), width - _LABEL_WIDTH - 2, break_on_hyphens=False) or [""]
        yield f"  {label:<{_LABEL_WIDTH}}{wrapped[0]}"
        yield from (" " * (_LABEL_WIDTH + 2) + line for line in wrapped[1:])


def _summary(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    versions = (
        ("mlflow-restaurant", "mlflow_restaurant_version"),
        ("MLflow", "mlflow_version"),
        ("Python", "python_version"),
    )
    by = ", ".join(f"{name} {report[key]}" for name, key in versions if report[key])
    yield "saved", f"{str(report['utc_time_created'] or '')[:19]} UTC by {by}"
    yield "size", f"{size_text(report['size_bytes'])} in {report['file_count']} files"
    yield "files", _files_text(report)
    yield "pickled", _pickled_text(report)
    for part in report["opened"]:
        size = size_text(sum(file["size_bytes"] or 0 for file in part["files"]))
        yield "opens", f"{part['label']}: {part['file']}, {size}"
    reason = f" ({report['row_wise_reason']})" if report["row_wise_reason"] else ""
    yield "row-wise", f"{_ROW_WISE.get(report['row_wise'], report['row_wise'])}{reason}"
    for name, value in (report["options"] or {}).items():
        if name not in report:  # row_wise is told already
            yield name.replace("_", " "), listed(_items(value), _OPTIONS_SHOWN)


def _items(value: Any) -> list[str]:
    """Items of an option; of labels, which are pairs, the names."""
    items = value if isinstance(value, list) else [value]
    return [str(item[1] if isinstance(item, list) and len(item) == 2 else item) for item in items]


def _files_text(report: Mapping[str, Any]) -> str:
    parts = [*report["steps"], *report["opened"], report["profile"] or {}, {"files": report["code"]}]
    files = [file for part in parts for file in part.get("files", ())]
    odd = [f"{file['file']} is {file['state']}" for file in files if file["state"] != INTACT]
    if odd:
        return f"NOT as they were saved: {', '.join(odd)}"
    return f"as they were saved ({len(files)} hashes match)"


def _pickled_text(report: Mapping[str, Any]) -> str:
    labels, count = report["pickled"], len(report["steps"]) + len(report["opened"])
    if not labels:
        return "nothing"
    kind = "parts" if report["opened"] else "steps"
    return f"{len(labels)} of {count} {kind}: {', '.join(labels)}; loading them runs code in their files"


def _stages(steps: Iterable[Mapping[str, Any]]) -> Iterator[Stage]:
    steps = list(steps)
    for role in ROLES:
        parts = tuple(_part(step) for step in steps if step["role"] == role)
        if parts:
            yield Stage(role, parts)


def _part(step: Mapping[str, Any]) -> Part:
    module, _, _ = str(step.get("class", "")).rpartition(".")
    details = [f"{name}={value!r}" for name, value in (step.get("kwargs") or {}).items()]
    how = str(step.get("flavor") or " ".join(filter(None, (step["serializer"], step.get("object")))))
    pickles = f", pickled: {listed(step['pickles'])}" if step["pickles"] else ""
    details.append(f"{how}{pickles or (', pickled' if step['pickled'] else '')}")
    details += _file_lines(step)
    if types := step.get("skops_trusted_types"):
        details.append(f"trusts {listed(types)}")
    return Part(str(step["name"]), public_module(module), tuple(details))


def _file_lines(step: Mapping[str, Any]) -> list[str]:
    files = step["files"]
    if len(files) <= _FILES_SHOWN:
        return [_file_line(file) for file in files]
    size = size_text(sum(file["size_bytes"] or 0 for file in files))
    odd = [_file_line(file) for file in files if file["state"] != INTACT]
    return [f"{step['file']}/  {size} in {len(files)} files", *odd]


def _file_line(file: Mapping[str, Any]) -> str:
    state = "" if file["state"] == INTACT else f"  {file['state'].upper()}"
    return f"{file['file']}  {size_text(file['size_bytes'])}  {(file['sha256'] or '')[:_HASH_SHOWN]}{state}"


def _signature(signature: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for label, part in (("input", "inputs"), ("output", "outputs"), ("params", "params")):
        specs = signature.get(part)
        yield label, ", ".join(map(_spec, specs)) if specs else "not in the signature"


def _spec(spec: Mapping[str, Any]) -> str:
    """A column, tensor or param of a signature."""
    tensor = spec.get("tensor-spec")
    kind = f"{tensor['dtype']} tensor {tuple(tensor['shape'])}" if tensor else str(spec.get("type", "?"))
    name = f"{spec['name']}: " if spec.get("name") is not None else ""
    optional = " (optional)" if spec.get("required") is False else ""
    default = f" = {spec['default']!r}" if "default" in spec else ""
    return f"{name}{kind}{default}{optional}"


def _profile(profile: Mapping[str, Any] | None, width: int) -> Iterator[str]:
    if profile is None:
        yield from _fields([("profile", "none")], width)
        return
    size = sum(file["size_bytes"] or 0 for file in profile["files"])
    rows = f"{profile.get('rows', 0):,} rows of {profile.get('columns')} columns"
    kept = f"{profile.get('sample_rows', 0):,} of them kept, {size_text(size)}"
    yield from _fields([("profile", f"{rows}; {kept}")], width)
    columns = profile["summary"] or []
    for column in columns[:_COLUMNS_SHOWN]:
        yield _cut(f"    {plain(_column(column))}", width)
    if len(columns) > _COLUMNS_SHOWN:
        yield f"    and {len(columns) - _COLUMNS_SHOWN} more columns"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _column(column: Mapping[str, Any]) -> str:
    missing = f"{column['missing']:,} missing, " if column["missing"] else ""
    return f"{column['name']!s:<18} {column['type']:<9} {missing}{_values(column)}"


def _values(column: Mapping[str, Any]) -> str:
    if "top" in column and column["distinct"] < column["count"]:
        top = ", ".join(f"{item['value']} ({item['count']:,})" for item in column["top"][:_TOP_SHOWN])
        return f"{column['distinct']:,} distinct: {top}"
    if "mean" in column:
        return f"{_number(column['min'])} to {_number(column['max'])}, mean {_number(column['mean'])}"
    if "earliest" in column:
        return f"{column['earliest']} to {column['latest']}"
    return f"{column['distinct']:,} distinct"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
