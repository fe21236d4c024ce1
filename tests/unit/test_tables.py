"""Listings: what is in them, and that nothing is cut off or read as markup."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from mlflow_restaurant.entities import traffic_text
from mlflow_restaurant.tables import console, endpoints_table, history_table, status_table


def text(table: Table, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def cells(table: Table) -> list[list[str]]:
    return [line.split() for line in text(table).splitlines() if line.strip()]


def deployment(**changes: Any) -> dict[str, Any]:
    described = {
        "name": "spam",
        "state": "HEALTHY",
        "revision": 2,
        "model_version": "7",
        "replicas": [
            {"state": "RUNNING", "revision": 2},
            {"state": "BACKOFF", "revision": 2},
            {"state": "RUNNING", "revision": 1},
        ],
        "config": {"replicas": 2},
        "message": "",
        "last_minute": {"requests": 3, "requests_per_s": 0.05, "p50_ms": 1.2, "p95_ms": 3.4, "errors": 1},
    }
    return {**described, **changes}


def test_status_of_a_deployment_is_one_row() -> None:
    rows = cells(status_table([deployment()]))

    assert rows[-1] == ["spam", "HEALTHY", "2", "7", "1/2", "0.05", "1.2", "3.4", "1"]


def test_status_without_requests_or_version_shows_dashes() -> None:
    quiet = {"requests": 0, "requests_per_s": 0.0, "p50_ms": None, "p95_ms": None, "errors": 0}

    rows = cells(status_table([deployment(model_version=None, last_minute=quiet)]))

    assert rows[-1] == ["spam", "HEALTHY", "2", "–", "1/2", "–", "–", "–", "0"]


def test_status_of_nothing_is_only_its_head() -> None:
    assert len(cells(status_table([]))) <= 2


def test_names_are_never_read_as_markup() -> None:
    revision = {
        "revision": 1,
        "state": "SERVING",
        "model_uri": "/models/[bold]x",
        "model_version": None,
        "by": "[red]me",
        "reason": "because",
        "created_at": "2026-01-01T00:00:00.000Z",
    }
    shown = text(history_table("spam", [revision]))

    assert "/models/[bold]x" in shown
    assert "2026-01-01 00:00" in shown
    assert "[red]me" in shown
    assert shown.startswith("spam")


def test_endpoints_show_their_split_and_url() -> None:
    url = "http://h/endpoints/e/invocations"

    shown = text(
        endpoints_table([{"name": "e", "traffic": {"a": 90, "b": 10}, "sticky": "client", "url": url}])
    )

    assert "a 90 %, b 10 %" in shown
    assert url in shown


def test_a_split_as_people_read_it() -> None:
    assert traffic_text({"a": 33.5, "b": 66.5}) == "a 33.5 %, b 66.5 %"
    assert traffic_text({}) == "no deployments yet"


def test_nothing_is_cut_off_where_stdout_is_no_terminal() -> None:
    assert console().width >= 200
