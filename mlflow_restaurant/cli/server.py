"""The server: ``up``, ``down``, ``status``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from mlflow_restaurant import tables
from mlflow_restaurant.cli.base import as_json, main, pass_client
from mlflow_restaurant.config import ENV_PREFIX, HOME_VARIABLE
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.errors import InvalidRequest


@main.command()
@click.option(
    "--foreground",
    is_flag=True,
    help="Run the server in this process until Ctrl-C or SIGTERM; it takes over from one in the background.",
)
@click.option(
    "--systemd", is_flag=True, help="Print a unit file that keeps the server running, from boot on."
)
@pass_client
def up(client: ControlClient, foreground: bool, systemd: bool) -> None:
    """Start the server and bring every deployment back."""
    if systemd:
        click.echo(_unit_file(client), nl=False)
        return
    if foreground:
        _run_in_foreground(client)
        return
    running = client.is_running()
    client.ensure_running()
    status = client.status()
    click.echo(
        f"The server {'runs already' if running else 'runs'} at {status['url']} (home {status['home']})."
    )


def _unit_file(client: ControlClient) -> str:
    from mlflow_restaurant.systemd import unit_file

    settings = {k: v for k, v in os.environ.items() if k.startswith(ENV_PREFIX) and k != HOME_VARIABLE}
    command = Path(sys.executable).with_name("mlflow-restaurant")
    return unit_file(command, client.home.path, settings, system=os.geteuid() == 0)


def _run_in_foreground(client: ControlClient) -> None:
    from mlflow_restaurant.control import server

    def say(message: dict[str, Any]) -> None:
        if message.get("already"):
            raise InvalidRequest(
                f"A server of {client.home.path} runs already; stop it with 'mlflow-restaurant down'."
            )
        if "url" in message:
            click.echo(
                f"The server runs at {message['url']} (home {client.home.path}). Press Ctrl-C to stop."
            )
        if "error" in message:
            raise InvalidRequest(message["error"]["message"])

    server.run(client.home, say, foreground=True)


@main.command()
@pass_client
def down(client: ControlClient) -> None:
    """Stop the server and everything it started; its deployments come back with the next `up`."""
    click.echo("The server is down." if client.down() else "No server was running.")


@main.command()
@as_json
@pass_client
def status(client: ControlClient, as_json: bool) -> None:
    """Show the server and its deployments: state, version, replicas, requests, latencies, errors."""
    if not client.is_running():
        if as_json:
            click.echo(json.dumps({"running": False, "home": str(client.home.path)}))
        else:
            click.echo(f"No server is running in {client.home.path}; start it with 'mlflow-restaurant up'.")
        return
    found = client.status()
    if as_json:
        click.echo(json.dumps({"running": True, **found}))
        return
    click.echo(f"Server {found['url']}, home {found['home']}, version {found['version']}")
    if found["deployments"]:
        tables.console().print(tables.status_table(found["deployments"]))
        for deployment in found["deployments"]:
            if deployment["message"]:
                click.echo(f"{deployment['name']}: {deployment['message']}")
    else:
        click.echo("No deployments yet: mlflow deployments create -t restaurant --name NAME -m MODEL_URI")
