"""The deployment target ``restaurant`` of ``mlflow deployments``.

MLflow asks of this module exactly one subclass of ``BaseDeploymentClient``, and the functions `run_local` and
`target_help`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar
from urllib.parse import quote

import mlflow
from click import ClickException
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from mlflow_restaurant import stores
from mlflow_restaurant.config import (
    ENDPOINT_TABLE,
    ChangeOptions,
    DeploymentConfig,
    ServerSettings,
    config_table,
    parse_options,
)
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.entities import check_name
from mlflow_restaurant.errors import InvalidRequest, RestaurantError, Unavailable, nearest
from mlflow_restaurant.explain import explain
from mlflow_restaurant.home import Home, home_of_target
from mlflow_restaurant.payload import dump, scoring_payload
from mlflow_restaurant.progress import progress_line

CONNECT_TIMEOUT_S = 5
ENDPOINT_KEYS = tuple(key for key, _, _ in ENDPOINT_TABLE)

P = ParamSpec("P")
R = TypeVar("R")


class DeploymentError(MlflowException, ClickException):  # type: ignore[misc]
    """An ``MlflowException`` that ``mlflow deployments`` shows as one line instead of a traceback."""

    def __init__(self, message: str, error_code: str = "INTERNAL_ERROR") -> None:
        MlflowException.__init__(self, message, error_code=ErrorCode.Value(error_code))


def _as_mlflow(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function raise ``DeploymentError`` in place of this package's errors."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except RestaurantError as e:
            raise DeploymentError(e.message, error_code=e.error_code) from None

    return wrapped


class RestaurantDeploymentClient(BaseDeploymentClient):  # type: ignore[misc]
    """Deploys models to the server of one home on this machine, which is started when it is first needed.

    Args:
        target_uri: ``restaurant`` (the default home) or ``restaurant:/abs/path`` (the server of that home).
    """

    @_as_mlflow
    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        self.home = home_of_target(str(target_uri))
        self._control = ControlClient(self.home)
        self._url: str | None = None

    @_as_mlflow
    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Deploy a model under a new name, and return once its predictions work.

        Args:
            name: 1 to 100 letters, digits, ``-``, ``_`` or ``.``.
            model_uri: ``models:/``, ``runs:/``, a path, or any other URI that MLflow can fetch.
            flavor: a flavor of the model; it is served through ``python_function`` in any case.
            config: settings as listed by ``mlflow deployments help -t restaurant``.
            endpoint: endpoint to join; it is made when it is missing. Its first deployment gets all its requests.

        Returns:
            The deployment, as `get_deployment` describes it.

        Raises:
            MlflowException: the request can't be met. Nothing is left of it but a log.
        """
        check_name(name)
        parse_options(config or {})
        request = self._request(model_uri, flavor, config, endpoint)
        self._control.ensure_running()
        with progress_line(f"Creating deployment {name}") as progress:
            return self._control.create_deployment(name, request, progress)

    @_as_mlflow
    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Bring a new revision into service without an interruption; settings not named stay as they are.

        Returns:
            The deployment, as `get_deployment` describes it.

        Raises:
            MlflowException: the new revision does not come into service. The old one goes on serving.
        """
        request = self._request(model_uri, flavor, config, endpoint)
        self._control.ensure_running()
        with progress_line(f"Updating deployment {name}") as progress:
            return self._control.update_deployment(name, request, progress)

    @_as_mlflow
    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Take a deployment out of service; no error when there is none of that name.

        Raises:
            MlflowException: an endpoint's traffic split still names it.
        """
        _refuse_keys(config, ())
        self._control.ensure_running()
        self._control.delete_deployment(name, endpoint)

    @_as_mlflow
    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Describe all deployments, or those of one endpoint, as `get_deployment` does."""
        self._control.ensure_running()
        return self._control.list_deployments(endpoint)

    @_as_mlflow
    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Describe a deployment.

        Returns:
            ``name``, ``flavor``, ``model_uri`` (as given), ``model_version`` (of the registry, or None),
            ``model_uuid``, ``endpoint``, ``revision`` (from 1), ``state`` (``UPDATING``, ``HEALTHY``, ``UNHEALTHY``,
            ``DEPLOY_FAILED``, ``DELETING``), ``message``, ``replicas`` (each ``id``, ``state``, ``pid``,
            ``restarts``, ``revision``), ``url``, ``config``, ``env_manager`` and ``batching`` (what was decided and
            why), ``created_at`` and ``updated_at`` (ISO 8601, UTC).

        Raises:
            MlflowException: there is no such deployment.
        """
        self._control.ensure_running()
        return self._control.get_deployment(name, endpoint)

    @_as_mlflow
    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Ask a deployment, or an endpoint's deployments by its traffic split, for predictions.

        Args:
            deployment_name: the deployment; or name an `endpoint`.
            inputs: DataFrame, Series, ndarray, CSC or CSR matrix, list, or a dict of columns or in the form of the
                scoring protocol (``{"dataframe_split": ..., "params": ...}``).
            endpoint: the endpoint; with a `deployment_name` too, that deployment must belong to it.

        Returns:
            The response; ``get_predictions()`` gives a DataFrame.

        Raises:
            MlflowException: the deployment is unknown, or the model refuses the inputs.
        """
        if deployment_name is None and endpoint is None:
            raise InvalidRequest("Name a deployment or an endpoint to predict with.")
        body = dump(scoring_payload(inputs))
        if deployment_name is None:
            return self._score(f"endpoints/{quote(str(endpoint), safe='')}", body)
        if endpoint is not None:
            self._control.ensure_running()
            self._control.get_deployment(deployment_name, endpoint)
        return self._score(f"deployments/{quote(str(deployment_name), safe='')}", body)

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> NoReturn:
        """Not available: MLflow's scoring server does not stream.

        Raises:
            MlflowException: always.
        """
        raise DeploymentError(
            "Predictions can't be streamed: MLflow's scoring server answers as a whole. Use predict().",
            error_code="NOT_IMPLEMENTED",
        )

    @_as_mlflow
    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> Any:
        """Explain predictions: the effect of each value of `df` on its row's prediction.

        Args:
            deployment_name: the deployment; or name an `endpoint`.
            df: DataFrame of at least two rows, each other's background.
            endpoint: the endpoint.

        Returns:
            A DataFrame of the shape of `df`: the prediction minus its mean with the value replaced by those of other
            rows; for predictions that are labels, the share of replacements that change the label.
        """
        import pandas as pd

        frame = df if isinstance(df, pd.DataFrame) else pd.DataFrame(df)
        return explain(frame, lambda rows: self.predict(deployment_name, rows, endpoint)["predictions"])

    @_as_mlflow
    def create_endpoint(self, name: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Make an endpoint.

        Args:
            name: as for a deployment.
            config: ``traffic``, as ``a=90,b=10`` or JSON; weights are percentages and add up to 100. ``sticky``:
                ``client`` or ``header:NAME`` lets each caller stay with one deployment, ``off`` ends that.

        Returns:
            ``name``, ``traffic``, ``sticky``, ``deployments``, ``url``, ``created_at``, ``updated_at``.
        """
        _refuse_keys(config, ENDPOINT_KEYS)
        self._control.ensure_running()
        return self._control.create_endpoint(name, **(config or {}))

    @_as_mlflow
    def update_endpoint(self, endpoint: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Change the traffic split of an endpoint, or who stays where; returns it as `get_endpoint` does."""
        _refuse_keys(config, ENDPOINT_KEYS)
        self._control.ensure_running()
        return self._control.update_endpoint(endpoint, **(config or {}))

    @_as_mlflow
    def delete_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint; its deployments stay. No error when there is none of that name."""
        self._control.ensure_running()
        self._control.delete_endpoint(endpoint)

    @_as_mlflow
    def list_endpoints(self) -> list[dict[str, Any]]:
        """Describe all endpoints, as `get_endpoint` does."""
        self._control.ensure_running()
        return self._control.list_endpoints()

    @_as_mlflow
    def get_endpoint(self, endpoint: str) -> dict[str, Any]:
        """Describe an endpoint: ``name``, ``traffic``, ``sticky``, ``deployments``, ``url``, ``created_at``, ``updated_at``."""
        self._control.ensure_running()
        return self._control.get_endpoint(endpoint)

    def _request(
        self, model_uri: Any, flavor: str | None, config: Mapping[str, Any] | None, endpoint: str | None
    ) -> dict[str, Any]:
        return {
            "model_uri": None if model_uri is None else stores.absolute_uri(str(model_uri)),
            "flavor": flavor,
            "config": dict(config or {}),
            "endpoint": endpoint,
            "tracking_uri": stores.absolute_store_uri(mlflow.get_tracking_uri()),
            "registry_uri": stores.absolute_store_uri(mlflow.get_registry_uri()),
            "environ": stores.forwarded_environment(),
        }

    def _score(self, path: str, body: bytes) -> PredictionsResponse:
        import requests

        for attempt in (1, 2):
            if self._url is None:
                self._control.ensure_running()
                self._url = self._control.status()["url"]
            try:
                with requests.Session() as session:
                    session.trust_env = False  # the server is on this machine: no proxy
                    response = session.post(
                        f"{self._url}/{path}/invocations",
                        data=body,
                        headers={"Content-Type": "application/json"},
                        timeout=(CONNECT_TIMEOUT_S, None),
                    )
                break
            except requests.ConnectionError as e:
                self._url = None
                if attempt == 2:
                    raise Unavailable(f"The gateway does not answer: {e}.") from None
        if response.status_code != 200:
            raise _scoring_error(response.text, response.status_code)
        return _predictions(response.text)


def _predictions(text: str) -> PredictionsResponse:
    import json

    parsed = json.loads(text)
    return PredictionsResponse(parsed if isinstance(parsed, dict) else {"predictions": parsed})


def _scoring_error(text: str, status: int) -> MlflowException:
    import json

    try:
        payload = json.loads(text)
        return DeploymentError(payload["message"], error_code=payload["error_code"])
    except (ValueError, KeyError, TypeError):
        return DeploymentError(f"The deployment answered with status {status}: {text[:500]}")


def _refuse_keys(config: Mapping[str, Any] | None, known: tuple[str, ...]) -> None:
    for key in config or {}:
        if key not in known:
            hint = nearest(key, known) if known else "There are none."
            raise InvalidRequest(f"Unknown config key '{key}'. {hint}")


@_as_mlflow
def run_local(
    name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None
) -> None:
    """Serve one model on a free port, in the foreground, until Ctrl-C; nothing of it is left behind.

    Args:
        name: name of the deployment.
        model_uri: the model, as for `RestaurantDeploymentClient.create_deployment`.
        flavor: likewise.
        config: likewise.
    """
    with _until_signalled() as serving, _temporary_server() as home:
        client = RestaurantDeploymentClient(f"restaurant:{home.path}")
        deployment = client.create_deployment(name, model_uri, flavor, config)
        _say(f"Deployment {name} answers at {deployment['url']}/invocations. Press Ctrl-C to stop.")
        serving.append(True)
        control, never = ControlClient(home), threading.Event()
        while control.is_running():
            never.wait(1.0)
        raise Unavailable("The server ended unexpectedly.")


@contextlib.contextmanager
def _until_signalled() -> Iterator[list[bool]]:
    """Turn SIGINT, SIGTERM and SIGHUP into ``KeyboardInterrupt``, which ends the block quietly once it serves."""
    serving: list[bool] = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield serving
    except KeyboardInterrupt:
        if not serving:
            raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def _temporary_server() -> Iterator[Home]:
    """Give a home of its own with a server on a free port, and end and remove both."""
    home = Home(Path(tempfile.mkdtemp(prefix="mlflow-restaurant-")))
    try:
        with ControlClient(home).running(environ={"MLFLOW_RESTAURANT_PORT": "0"}):
            yield home
    finally:
        shutil.rmtree(home.path, ignore_errors=True)


def _say(text: str) -> None:
    sys.stdout.write(text + os.linesep)
    sys.stdout.flush()


def target_help() -> str:
    """Return the help of the target: its URIs and its settings, from where they are defined."""
    return "\n".join(
        [
            "Deploy MLflow models to a server on this machine. It is started with the first call that needs it.",
            "",
            "Targets:",
            "  restaurant            the server of the default home, $MLFLOW_RESTAURANT_HOME or ~/.mlflow-restaurant",
            "  restaurant:/abs/path  the server of that home",
            "",
            "Config of a deployment (create, update, run-local), as -C key=value:",
            *_rows(config_table(DeploymentConfig)),
            "",
            "Said of one change only (create, update), as -C key=value:",
            *_rows(config_table(ChangeOptions)),
            "",
            "Config of an endpoint (create-endpoint, update-endpoint):",
            *_rows(ENDPOINT_TABLE),
            "",
            "Settings of the server, in config.toml of its home or as MLFLOW_RESTAURANT_<NAME>:",
            *_rows(config_table(ServerSettings)),
            "",
            "The command `mlflow-restaurant` shows status, logs and history, and stops the server.",
        ]
    )


def _rows(table: list[tuple[str, str, str]]) -> list[str]:
    return [f"  {key:<18} {default:<9} {meaning}".rstrip() for key, default, meaning in table]


__all__ = ["RestaurantDeploymentClient", "run_local", "target_help"]
