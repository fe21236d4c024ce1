"""The ``mlflow-restaurant`` command: the server, what it does, its endpoints, and the demo.

Errors are one line on stderr; ``--debug`` shows where they came from. Nothing here imports MLflow until it must.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mlflow_restaurant import tables
from mlflow_restaurant._version import __version__
from mlflow_restaurant.config import HOME_VARIABLE
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.entities import check_name
from mlflow_restaurant.errors import DoesNotExist, InvalidRequest, RestaurantError
from mlflow_restaurant.home import TARGET, home_of_target
from mlflow_restaurant.progress import progress_line

FOLLOW_INTERVAL_S = 0.2
INTERRUPTED = 130


class _OneLineErrors(click.Group):
    """A group whose commands report errors in one line, and end with a status that tells of them."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except Exception as e:
            if ctx.params.get("debug"):
                raise
            click.echo(f"Error: {_sentence(e)}", err=True)
            ctx.exit(1)


def _sentence(error: Exception) -> str:
    if isinstance(error, RestaurantError) or type(error).__name__ == "MlflowException":
        return str(getattr(error, "message", error))
    if isinstance(error, OSError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--target", "-t", default=TARGET, show_default=True, help=f"'{TARGET}' or '{TARGET}:/path/of/a/home'."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="mlflow-restaurant")
@click.pass_context
def main(ctx: click.Context, target: str, debug: bool) -> None:
    """Put MLflow models into service on your own machine.

    Models are deployed with `mlflow deployments create -t restaurant`; this command runs and shows the server.
    """
    del debug  # read from the context where errors are reported
    ctx.obj = ControlClient(home_of_target(target))


pass_client = click.make_pass_decorator(ControlClient)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@main.command()
@click.option("--foreground", is_flag=True, help="Run the server in this process until Ctrl-C or SIGTERM.")
@pass_client
def up(client: ControlClient, foreground: bool) -> None:
    """Start the server and bring every deployment back."""
    if foreground:
        _run_in_foreground(client)
        return
    running = client.is_running()
    client.ensure_running()
    status = client.status()
    click.echo(
        f"The server {'runs already' if running else 'runs'} at {status['url']} (home {status['home']})."
    )


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

    server.run(client.home, say)


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
            if revision["message"]:
                click.echo(f"revision {revision['revision']}: {revision['message']}")


@main.command()
@click.argument("name")
@click.option("--revision", type=click.IntRange(min=1), help="By default the one that served before.")
@pass_client
def rollback(client: ControlClient, name: str, revision: int | None) -> None:
    """Bring an earlier revision of a deployment back, without an interruption, as a new revision."""
    client.ensure_running()
    with progress_line(f"Rolling back {name}") as progress:
        deployment = client.rollback(name, revision, progress)
    version = f", version {deployment['model_version']}" if deployment["model_version"] else ""
    click.echo(f"Deployment {name} serves revision {deployment['revision']}{version}.")


@main.group()
def endpoints() -> None:
    """Names whose requests are split over deployments."""


traffic = click.option("--traffic", metavar="A=90,B=10", help="Percentages that add up to 100.")


@endpoints.command("create")
@click.argument("name")
@traffic
@pass_client
def create_endpoint(client: ControlClient, name: str, traffic: str | None) -> None:
    """Make an endpoint, with a traffic split or without."""
    client.ensure_running()
    _show_endpoint(client.create_endpoint(name, traffic))


@endpoints.command("update")
@click.argument("name")
@traffic
@pass_client
def update_endpoint(client: ControlClient, name: str, traffic: str | None) -> None:
    """Change the traffic split of an endpoint."""
    if traffic is None:
        raise InvalidRequest("Give the new split with --traffic a=90,b=10.")
    client.ensure_running()
    _show_endpoint(client.update_endpoint(name, traffic))


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
    click.echo(
        f"Endpoint {endpoint['name']}: {tables.traffic_text(endpoint['traffic'])}, at {endpoint['url']}"
    )


@main.command()
@click.option("--data", type=click.Path(path_type=Path), help="E-mails of your own: label, subject, body.")
@click.option("--keep", is_flag=True, help="Leave the deployment running, in the home of --target.")
@as_json
@click.pass_context
def demo(ctx: click.Context, data: Path | None, keep: bool, as_json: bool) -> None:
    """Train, register, deploy, ask and update a spam filter, and clean up again."""
    from mlflow_restaurant.demo import run_demo

    for signum in (signal.SIGTERM, signal.SIGHUP):  # clean up as after Ctrl-C
        signal.signal(signum, signal.default_int_handler)
    named = ctx.find_root().get_parameter_source("target") is not click.core.ParameterSource.DEFAULT
    home = ctx.obj.home.path if named or HOME_VARIABLE in os.environ else None
    result = run_demo(data, keep, home, Console(stderr=as_json, highlight=False))
    if as_json:
        click.echo(json.dumps(result.to_dict()))


if __name__ == "__main__":
    main()
