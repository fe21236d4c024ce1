"""The command itself: its options, the client that it gives its subcommands, and how it reports errors."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from mlflow_restaurant._version import __version__
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.home import TARGET, home_of_target

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
