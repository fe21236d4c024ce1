"""What deployments printed: ``logs``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click

from mlflow_restaurant.cli.base import main, pass_client
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.entities import check_name
from mlflow_restaurant.errors import DoesNotExist

FOLLOW_INTERVAL_S = 0.2


@main.command()
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on printing what is added, until Ctrl-C.")
@click.option(
    "--lines", "-n", default=200, show_default=True, type=click.IntRange(min=0), help="How many lines."
)
@pass_client
def logs(client: ControlClient, name: str, follow: bool, lines: int) -> None:
    """Print the log of a deployment: its events, errors of requests, and what its replicas print."""
    path = client.home.deployment_log(check_name(name))
    if not path.is_file():
        raise DoesNotExist(f"There is no log of a deployment '{name}' in {client.home.logs}.")
    for text in _log_lines(path, lines, follow):
        click.echo(text, nl=False)


def _log_lines(path: Path, last: int, follow: bool) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        kept = file.readlines()
        yield from kept[len(kept) - min(last, len(kept)) :]
        while follow:
            text = file.read()
            if text:
                yield text
            else:
                time.sleep(FOLLOW_INTERVAL_S)
