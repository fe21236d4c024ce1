"""The revisions of a deployment: ``history``, ``rollback``, ``promote``, ``abort``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from mlflow_restaurant import tables
from mlflow_restaurant.cli.base import as_json, main, pass_client
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.errors import one_line
from mlflow_restaurant.progress import progress_line


@main.command()
@click.argument("name")
@as_json
@pass_client
def history(client: ControlClient, name: str, as_json: bool) -> None:
    """List the revisions of a deployment, the newest first."""
    client.ensure_running()
    revisions = client.history(name)
    if as_json:
        click.echo(json.dumps(revisions))
    else:
        tables.console().print(tables.history_table(name, revisions))
        for revision in revisions:
            for text in filter(None, (revision["reason"], revision["message"])):
                click.echo(f"revision {revision['revision']}: {one_line(text, tables.LONGEST)}")


@main.command()
@click.argument("name")
@click.option("--revision", type=click.IntRange(min=1), help="By default the one that served before.")
@click.option("--reason", default="", help="Why; shown by `history`.")
@click.option("--wait", is_flag=True, help="Wait until another change of the deployment is done.")
@pass_client
def rollback(client: ControlClient, name: str, revision: int | None, reason: str, wait: bool) -> None:
    """Bring an earlier revision of a deployment back, without an interruption, as a new revision."""
    client.ensure_running()
    with progress_line(f"Rolling back {name}") as progress:
        deployment = client.rollback(name, revision, progress, reason=reason, wait=wait)
    version = f", version {deployment['model_version']}" if deployment["model_version"] else ""
    click.echo(f"Deployment {name} serves revision {deployment['revision']}{version}.")


@main.command()
@click.argument("name")
@pass_client
def promote(client: ControlClient, name: str) -> None:
    """Let the canary or shadow of a deployment serve now, whatever its trial says."""
    _end_rollout(client, name, "Promoting", client.promote)


@main.command()
@click.argument("name")
@pass_client
def abort(client: ControlClient, name: str) -> None:
    """Give up the rollout of a deployment; the revision before goes on alone."""
    _end_rollout(client, name, "Aborting", client.abort)


def _end_rollout(client: ControlClient, name: str, doing: str, end: Callable[..., dict[str, Any]]) -> None:
    client.ensure_running()
    with progress_line(f"{doing} the rollout of {name}") as progress:
        deployment = end(name, progress)
    if deployment:
        click.echo(f"Deployment {name} serves revision {deployment['revision']}.")
    else:
        click.echo(f"Deployment {name} was given up; nothing is left of it.")
