"""``mlflow-restaurant demo``: is this e-mail spam?

Trains two versions of a bundle, registers them, deploys the first, asks it over HTTP, and moves on to the second while
it serves. Everything it makes is removed again unless asked to keep it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
import time
import urllib.request
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from mlflow_restaurant.emails import (
    TEXT_COLUMNS,
    DemoDataError,
    TrainedVersion,
    load_emails,
    samples,
    train_versions,
)
from mlflow_restaurant.errors import InvalidRequest
from mlflow_restaurant.home import TARGET, default_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

__all__ = ["DemoDataError", "DemoResult", "TrainedVersion", "load_emails", "run_demo", "train_versions"]

MODEL_NAME = "spam"
ALIAS = "champion"
REMOVE_TIMEOUT_S = 10.0
REMOVE_INTERVAL_S = 0.1
HTTP_TIMEOUT_S = 60


@dataclass(frozen=True)
class Answer:
    """What the deployment said about one e-mail: its subject, its real label, the prediction, and who predicted."""

    subject: str
    label: str
    prediction: str
    model_version: str


@dataclass(frozen=True)
class DemoResult:
    """What the demo did.

    Attributes:
        emails: number of e-mails in the data.
        accuracy: accuracy on the e-mails kept apart, by model version.
        answers: every answer over HTTP, in order.
        deployments: one row a deployment: name, state, revision, version, replicas.
        home: home of the server that was used.
        url: URL of the deployment.
        curl: a command that asks the deployment, if it was kept; else None.
    """

    emails: int
    accuracy: dict[str, float]
    answers: list[Answer]
    deployments: list[dict[str, Any]]
    home: str
    url: str
    curl: str | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists, for JSON."""
        return asdict(self)


def run_demo(data: Path | None, keep: bool, home: Path | None, console: Console) -> DemoResult:
    """Run the demo.

    Args:
        data: CSV file with the columns ``label`` (``spam`` or ``ham``), ``subject`` and ``body``; by default the
            e-mails that come with the package.
        keep: leave the deployment running; by default everything is removed at the end, also after an error.
        home: home of the server; by default a temporary one, or with `keep` the default home.
        console: where to print.

    Raises:
        DemoDataError: the e-mails cannot be used.
        MlflowException: the deployment failed.
    """
    emails = load_emails(data)
    import skops.io  # noqa: F401 - after MLflow it takes seconds more: it goes through all modules that are there already

    with _quiet(), ExitStack() as cleanup:
        # Removed after the server is down: a job of the server may still write to it until then.
        folder = _store_folder(cleanup)
        home = _prepare_home(home, keep, cleanup)
        folder = home / "demo" if keep else folder
        _refuse_existing(home)
        console.print(f"Training two versions of a spam filter on {len(emails)} e-mails ...")
        versions = train_versions(emails)
        numbers = _register_all(versions, folder, cleanup)
        accuracy = {number: version.accuracy for number, version in zip(numbers, versions, strict=True)}
        for number, version in zip(numbers, versions, strict=True):
            console.print(
                f"  version {number}: {version.description}, {version.accuracy:.1%} right on e-mails kept apart"
            )
        answers, deployments, url = _serve(emails, numbers, home, console, cleanup)
        curl = _curl_command(url) if keep else None
        if curl:
            _show_how_to_go_on(curl, home, console)
            cleanup.pop_all()
    if not keep:
        console.print(
            "All of it is removed again. 'mlflow-restaurant demo --keep' leaves the deployment running."
        )
    return DemoResult(len(emails), accuracy, answers, deployments, str(home), url, curl)


# The registry


def _register_all(versions: list[TrainedVersion], folder: Path, cleanup: ExitStack) -> list[str]:
    """Log and register every version in a tracking store of its own; return their version numbers."""
    with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints every step of a registration
        cleanup.enter_context(_tracking_store(folder))
        first, *others = versions
        # That such a bundle predicts the same elsewhere, the first one shows.
        return [_register(first), *(_register(other, check_example=False) for other in others)]


def _register(version: TrainedVersion, check_example: bool = True) -> str:
    import mlflow

    from mlflow_restaurant import flavor

    with mlflow.start_run(run_name=version.description):
        mlflow.log_metric("accuracy", version.accuracy)
        info = flavor.log_model(
            version.bundle,
            name=MODEL_NAME,
            registered_model_name=MODEL_NAME,
            input_example=pd.DataFrame([_EXAMPLE], columns=TEXT_COLUMNS),
            pip_requirements=flavor.get_default_pip_requirements(),  # known here, so nothing need be inferred
            check_example=check_example,
        )
    return str(info.registered_model_version)


@contextmanager
def _tracking_store(folder: Path) -> Iterator[None]:
    """Within, MLflow tracks and registers in `folder`."""
    import mlflow

    tracking, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        if mlflow.get_experiment_by_name(MODEL_NAME) is None:
            mlflow.create_experiment(MODEL_NAME, artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_experiment(MODEL_NAME)
        yield
    finally:
        mlflow.set_tracking_uri(tracking)
        mlflow.set_registry_uri(registry)


def _set_champion(version: str) -> None:
    from mlflow import MlflowClient

    MlflowClient().set_registered_model_alias(MODEL_NAME, ALIAS, version)


# Serving

_EXAMPLE = ["You have won!", "Claim your free prize now, just send your card number."]


def _serve(
    emails: pd.DataFrame, versions: list[str], home: Path, console: Console, cleanup: ExitStack
) -> tuple[list[Answer], list[dict[str, Any]], str]:
    """Deploy the first version, ask it, update to the second, ask again; return the answers, the table, the URL."""
    from mlflow.deployments import get_deploy_client

    first, second = versions
    uri = f"models:/{MODEL_NAME}@{ALIAS}"
    chosen = samples(emails)
    client = get_deploy_client(f"{TARGET}:{home}")

    _set_champion(first)
    console.print(f"Deploying {uri}, which is version {first} ...")
    cleanup.callback(client.delete_deployment, MODEL_NAME)
    url = str(client.create_deployment(MODEL_NAME, uri)["url"])
    answers = _ask(url, chosen)
    _show_answers(answers, console)

    _set_champion(second)
    console.print(f"Moving {ALIAS} to version {second} and updating the deployment while it serves ...")
    client.update_deployment(MODEL_NAME, model_uri=uri)
    updated = _ask(url, chosen)
    _show_answers(updated, console)

    deployments = [_summary(deployment) for deployment in client.list_deployments()]
    console.print("The deployments of this server:")
    _show_deployments(deployments, console)
    return answers + updated, deployments, url


def _refuse_existing(home: Path) -> None:
    from mlflow.deployments import get_deploy_client

    deployments = get_deploy_client(f"{TARGET}:{home}").list_deployments()
    if MODEL_NAME in {deployment["name"] for deployment in deployments}:
        raise InvalidRequest(
            f"The server of {home} has a deployment '{MODEL_NAME}' already: delete it with "
            f"'mlflow deployments delete -t {TARGET}:{home} --name {MODEL_NAME}', or name another home."
        )


def _ask(url: str, emails: pd.DataFrame) -> list[Answer]:
    return [
        _ask_one(url, str(row["label"]), [str(row[name]) for name in TEXT_COLUMNS])
        for _, row in emails.iterrows()
    ]


def _ask_one(url: str, label: str, texts: list[str]) -> Answer:
    request = urllib.request.Request(
        f"{url}/invocations", data=_body(texts).encode(), headers={"Content-Type": "application/json"}
    )
    # No proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=HTTP_TIMEOUT_S) as response:
        prediction = json.load(response)["predictions"][0]
        version = response.headers.get("x-mlflow-model-version", "?")
    return Answer(texts[0], label, str(prediction), str(version))


def _body(texts: list[str]) -> str:
    return json.dumps({"dataframe_split": {"columns": TEXT_COLUMNS, "data": [texts]}})


def _curl_command(url: str) -> str:
    header = shlex.quote("Content-Type: application/json")
    return f"curl {shlex.quote(f'{url}/invocations')} -H {header} -d {shlex.quote(_body(_EXAMPLE))}"


def _summary(deployment: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": deployment["name"],
        "state": deployment["state"],
        "revision": deployment["revision"],
        "version": deployment["model_version"],
        "replicas": sum(replica["revision"] == deployment["revision"] for replica in deployment["replicas"]),
    }


# What is printed


def _show_answers(answers: list[Answer], console: Console) -> None:
    table = _table("e-mail", "label", "answer", "model version")
    for answer in answers:
        subject = re.sub(r"\s+", " ", answer.subject).strip()
        short = subject if len(subject) <= 50 else f"{subject[:47]}..."
        style = "red" if answer.prediction == "spam" else "green"
        table.add_row(Text(short), answer.label, Text(answer.prediction, style), answer.model_version)
    console.print(table)


def _show_deployments(deployments: list[dict[str, Any]], console: Console) -> None:
    columns = ("name", "state", "revision", "version", "replicas")
    table = _table(*columns)
    for deployment in deployments:
        table.add_row(*(Text(str(deployment[column])) for column in columns))
    console.print(table)


def _show_how_to_go_on(curl: str, home: Path, console: Console) -> None:
    target = TARGET if home == default_home().path else f"{TARGET}:{home}"
    console.print("The deployment keeps running. Ask it:")
    _print_command(curl, console)
    console.print("Remove it:")
    _print_command(f"mlflow deployments delete -t {shlex.quote(target)} --name {MODEL_NAME}", console)


def _print_command(command: str, console: Console) -> None:
    console.print(command, soft_wrap=True, markup=False, highlight=False)


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


# Where it runs, and cleaning up


def _prepare_home(home: Path | None, keep: bool, cleanup: ExitStack) -> Path:
    """The home to use; the server is stopped at the end if it was not running before."""
    from mlflow_restaurant.control.client import ControlClient

    if home is None and keep:
        home = default_home().path
    if home is None:
        home = Path(tempfile.mkdtemp(prefix="mlflow-restaurant-demo-"))
        cleanup.callback(_remove, home)
        cleanup.enter_context(ControlClient(home).running(environ={"MLFLOW_RESTAURANT_PORT": "0"}))
        return home
    home = home.expanduser().absolute()
    control = ControlClient(home)
    if not control.is_running():
        cleanup.callback(control.down)
    return home


def _remove(folder: Path) -> None:
    """Remove a home or a store; a job that was forked as the server ended may write there until it sees that it did."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(REMOVE_INTERVAL_S)
        shutil.rmtree(folder, ignore_errors=True)


def _store_folder(cleanup: ExitStack) -> Path:
    """Where the models are registered, unless they are to stay."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-restaurant-demo-store-"))
    cleanup.callback(_remove, folder)
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, MLflow and the libraries below it neither log nor warn, and show no progress bars."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    progress_bar = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
    before = os.environ.get(progress_bar)
    os.environ[progress_bar] = "false"
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if before is None:
            del os.environ[progress_bar]
        else:
            os.environ[progress_bar] = before
