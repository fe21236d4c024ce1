"""What listings look like on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlflow_restaurant.entities import traffic_text
from mlflow_restaurant.errors import one_line

LONGEST = 2000
"""Characters of a reason or message that are shown; ``--json`` has all of it."""

STATE_STYLES = {
    "HEALTHY": "green",
    "SERVING": "green",
    "UPDATING": "yellow",
    "PENDING": "yellow",
    "DELETING": "yellow",
    "UNHEALTHY": "red",
    "DEPLOY_FAILED": "red",
}
EVENT_STYLES = {
    "promoted": "green",
    "failed": "red",
    "rollback": "red",
    "unhealthy": "red",
    "replica": "yellow",
    "memory": "yellow",
    "gateway": "yellow",
}
MISSING = "–"
UNCUT_WIDTH = 400


def console() -> Console:
    """Return a console for stdout that cuts nothing off when that is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=UNCUT_WIDTH)


def status_table(deployments: Iterable[Mapping[str, Any]]) -> Table:
    """Return the table of deployments, as `ControlClient.status` lists them."""
    table = _table("name", "state", "rev", "version", "replicas", "req/s", "p50 ms", "p95 ms", "errors")
    for column in table.columns[2:]:
        column.justify = "right"
    _fold_only(table, 0)
    for d in deployments:
        minute = d["last_minute"]
        running = sum(r["state"] == "RUNNING" and r["revision"] == d["revision"] for r in d["replicas"])
        table.add_row(
            Text(d["name"]),
            _state(d["state"]),
            str(d["revision"]),
            _shown(d["model_version"]),
            f"{running}/{d['config']['replicas']}",
            _shown(minute["requests_per_s"] if minute["requests"] else None),
            _shown(minute["p50_ms"]),
            _shown(minute["p95_ms"]),
            str(minute["errors"]),
        )
    return table


def history_table(name: str, revisions: Iterable[Mapping[str, Any]]) -> Table:
    """Return the table of a deployment's revisions."""
    table = _table("rev", "state", "model", "version", "by", "created")
    table.title = Text(name)
    _fold_only(table, 2, 4)
    for r in revisions:
        table.add_row(
            str(r["revision"]),
            _state(r["state"]),
            Text(r["model_uri"]),
            _shown(r["model_version"]),
            Text(r["by"] or MISSING),
            r["created_at"][:16].replace("T", " "),
        )
    return table


def events_table(events: Iterable[Mapping[str, Any]]) -> Table:
    """Return the table of what happened."""
    table = _table("time", "name", "rev", "kind", "by", "what")
    _fold_only(table, 1, 5)
    table.columns[2].justify = "right"
    for e in events:
        kind = Text(e["kind"], style=EVENT_STYLES.get(e["kind"], ""))
        table.add_row(
            _moment(e), Text(_whose(e)), _shown(e["revision"]), kind, Text(e["by"]), Text(e["message"])
        )
    return table


def event_line(event: Mapping[str, Any]) -> str:
    """Return a row of such a table by itself."""
    parts = (f"{_whose(event):16}", f"{_shown(event['revision']):>3}", f"{event['kind']:9}")
    by = f" ({event['by']})" if event["by"] else ""
    return f"{_moment(event)}  {'  '.join(parts)}  {one_line(event['message'], LONGEST)}{by}"


def _whose(event: Mapping[str, Any]) -> str:
    return str(event["deployment"] or event["endpoint"] or MISSING)


def _moment(event: Mapping[str, Any]) -> str:
    return str(event["time"])[:19].replace("T", " ")


def endpoints_table(endpoints: Iterable[Mapping[str, Any]]) -> Table:
    """Return the table of endpoints."""
    table = _table("endpoint", "traffic", "sticky", "url")
    _fold_only(table, 1, 3)
    for e in endpoints:
        table.add_row(Text(e["name"]), Text(traffic_text(e["traffic"])), Text(e["sticky"]), Text(e["url"]))
    return table


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=0)


def _fold_only(table: Table, *flexible: int) -> None:
    """Let only these columns become narrower than their content; what does not fit goes on in the next line."""
    for index, column in enumerate(table.columns):
        column.no_wrap = index not in flexible
        column.overflow = "fold"


def _state(state: str) -> Text:
    return Text(state, style=STATE_STYLES.get(state, ""))


def _shown(value: object) -> str:
    return MISSING if value is None else str(value)
