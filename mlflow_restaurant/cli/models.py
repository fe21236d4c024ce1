"""What needs no server of its own: ``inspect`` and ``demo``."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import click
from rich.console import Console

from mlflow_restaurant.cli.base import as_json, main
from mlflow_restaurant.config import HOME_VARIABLE


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
