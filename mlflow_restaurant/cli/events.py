"""What happened: ``events``."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import click

from mlflow_restaurant import tables
from mlflow_restaurant.cli.base import as_json, main, pass_client
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.entities import utcnow
from mlflow_restaurant.errors import HomeError, InvalidRequest, quoted

FOLLOW_INTERVAL_S = 0.5
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_S = 36_500 * 86_400


@main.command()
@click.argument("name", required=False)
@click.option("--since", metavar="DURATION", help="Only those of the last 90s, 15m, 2h, 7d or 1w.")
@click.option(
    "--number",
    "-n",
    default=100,
    show_default=True,
    type=click.IntRange(min=0),
    help="How many, the newest ones.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on printing what happens, until Ctrl-C.")
@as_json
@pass_client
def events(
    client: ControlClient, name: str | None, since: str | None, number: int, follow: bool, as_json: bool
) -> None:
    """List what happened: changes, rollbacks, scaling, deaths of replicas, and why.

    NAME is a deployment or an endpoint, also one that is deleted. With --follow, --json prints one object a line.
    """
    begin = None if since is None else utcnow() - duration(since)
    client.ensure_running()
    found = client.events(name, since=begin, limit=number)
    if follow:
        _follow(client, name, found, as_json)
    elif as_json:
        click.echo(json.dumps(found))
    elif found:
        tables.console().print(tables.events_table(found))
    else:
        click.echo("No events.")


def _follow(client: ControlClient, name: str | None, found: list[dict[str, Any]], as_json: bool) -> None:
    for event in itertools.chain(found, _new_events(client, name, found)):
        click.echo(json.dumps(event) if as_json else tables.event_line(event))


def _new_events(client: ControlClient, name: str | None, known: list[dict[str, Any]]) -> Iterator[Any]:
    """Yield what happens from now on; while the server is down, that is nothing."""
    last = max((event["id"] for event in known or client.events(limit=1)), default=0)
    while True:
        time.sleep(FOLLOW_INTERVAL_S)
        try:
            new = client.events(name, after=last, revive=False)
        except HomeError:
            continue
        last = max((event["id"] for event in new), default=last)
        yield from new


def duration(text: str) -> timedelta:
    """Read a length of time: ``90s``, ``15m``, ``2h``, ``7d``, ``1w``, or several, as ``1h30m``.

    Raises:
        InvalidRequest: it is none.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise InvalidRequest(f"Write a duration as 90s, 15m, 2h, 7d or 1w, not {quoted(text)}.")
    return timedelta(seconds=min(LONGEST_S, sum(float(number) * UNITS_S[unit] for number, unit in parts)))
