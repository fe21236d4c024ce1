"""The ``mlflow-restaurant`` command: the server, what it does, its endpoints, bundles, and the demo.

Errors are one line on stderr; ``--debug`` shows where they came from. Nothing here imports MLflow until it must.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from mlflow_restaurant import tables
from mlflow_restaurant._version import __version__
from mlflow_restaurant.config import ENV_PREFIX, HOME_VARIABLE
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
            for text in filter(None, (revision["reason"], revision["message"])):
                click.echo(f"revision {revision['revision']}: {text}")


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


@main.group()
def endpoints() -> None:
    """Names whose requests are split over deployments."""


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
    click.echo(f"Deployment {name} serves revision {deployment['revision']}.")


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
    click.echo(
        f"Endpoint {endpoint['name']}: {tables.traffic_text(endpoint['traffic'])}, at {endpoint['url']}"
    )


@main.command("inspect")
@click.argument("uri")
@as_json
def inspect_model(uri: str, as_json: bool) -> None:
    """Show what a saved bundle holds, without running any of its code; exit status 1 if a file was changed.

    URI is a path, models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/NAME.
    """
    from mlflow_restaurant.inspection.report import inspect_bundle
    from mlflow_restaurant.inspection.text import inspection_text

    report = inspect_bundle(uri)
    click.echo(json.dumps(report) if as_json else inspection_text(report))
    if not report["intact"]:
        raise SystemExit(1)


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
