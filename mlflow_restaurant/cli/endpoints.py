"""The ``endpoints`` commands."""

from __future__ import annotations

import json
from typing import Any

import click

from mlflow_restaurant import tables
from mlflow_restaurant.cli.base import as_json, main, pass_client
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.entities import traffic_text
from mlflow_restaurant.errors import InvalidRequest


@main.group()
def endpoints() -> None:
    """Names whose requests are split over deployments."""


traffic = click.option("--traffic", metavar="A=90,B=10", help="Percentages that add up to 100.")
sticky = click.option(
    "--sticky",
    metavar="header:NAME|client|off",
    help="Let each caller stay with one deployment, by a header or by its address.",
)


@endpoints.command("create")
@click.argument("name")
@traffic
@sticky
@pass_client
def create_endpoint(client: ControlClient, name: str, traffic: str | None, sticky: str | None) -> None:
    """Make an endpoint, with a traffic split or without."""
    client.ensure_running()
    _show_endpoint(client.create_endpoint(name, traffic, sticky))


@endpoints.command("update")
@click.argument("name")
@traffic
@sticky
@pass_client
def update_endpoint(client: ControlClient, name: str, traffic: str | None, sticky: str | None) -> None:
    """Change the traffic split of an endpoint, or whether callers stay with one deployment."""
    if traffic is None and sticky is None:
        raise InvalidRequest("Give the new split with --traffic a=90,b=10, or --sticky header:NAME.")
    client.ensure_running()
    _show_endpoint(client.update_endpoint(name, traffic, sticky))


@endpoints.command("list")
@as_json
@pass_client
def list_endpoints(client: ControlClient, as_json: bool) -> None:
    """List the endpoints and their traffic splits."""
    client.ensure_running()
    found = client.list_endpoints()
    if as_json:
        click.echo(json.dumps(found))
    elif found:
        tables.console().print(tables.endpoints_table(found))
    else:
        click.echo("No endpoints yet: mlflow-restaurant endpoints create NAME --traffic a=90,b=10")


@endpoints.command("delete")
@click.argument("name")
@pass_client
def delete_endpoint(client: ControlClient, name: str) -> None:
    """Remove an endpoint; its deployments stay."""
    client.ensure_running()
    client.delete_endpoint(name)
    click.echo(f"Endpoint {name} is deleted.")


def _show_endpoint(endpoint: dict[str, Any]) -> None:
    click.echo(f"Endpoint {endpoint['name']}: {traffic_text(endpoint['traffic'])}, at {endpoint['url']}")
