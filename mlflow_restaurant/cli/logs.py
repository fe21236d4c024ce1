"""What deployments printed: ``logs``."""

from __future__ import annotations

import time

import click

from mlflow_restaurant.cli.base import main, pass_client
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.entities import check_name
from mlflow_restaurant.errors import DoesNotExist
from mlflow_restaurant.logs import LogReader

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
    reader = LogReader(path)
    click.echo(reader.last(lines), nl=False)
    while follow:
        time.sleep(FOLLOW_INTERVAL_S)
        click.echo(reader.more(), nl=False)
