"""The deployment target ``restaurant`` of ``mlflow deployments``.

MLflow asks of this module exactly one subclass of ``BaseDeploymentClient``, and the functions `run_local` and
`target_help`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import quote

import mlflow
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse

from mlflow_restaurant import stores
from mlflow_restaurant.config import ENDPOINT_TABLE, parse_options
from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.entities import check_name
from mlflow_restaurant.errors import InvalidRequest, Unavailable, nearest
from mlflow_restaurant.explain import explain
from mlflow_restaurant.foreground import temporary_server, until_signalled
from mlflow_restaurant.home import home_of_target
from mlflow_restaurant.payload import dump, scoring_payload
from mlflow_restaurant.plugin_errors import DeploymentError, as_mlflow
from mlflow_restaurant.progress import progress_line
from mlflow_restaurant.reference import target_help
from mlflow_restaurant.scoring_client import ScoringClient

ENDPOINT_KEYS = tuple(key for key, _, _ in ENDPOINT_TABLE)


class RestaurantDeploymentClient(BaseDeploymentClient):  # type: ignore[misc]
    """Deploys models to the server of one home on this machine, which is started when it is first needed.

    Args:
        target_uri: ``restaurant`` (the default home) or ``restaurant:/abs/path`` (the server of that home).
    """

    @as_mlflow
    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        self.home = home_of_target(str(target_uri))
        self._control = ControlClient(self.home)
        self._scoring = ScoringClient(self._control)

    @as_mlflow
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

    @as_mlflow
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

    @as_mlflow
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

    @as_mlflow
    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Describe all deployments, or those of one endpoint, as `get_deployment` does."""
        self._control.ensure_running()
        return self._control.list_deployments(endpoint)

    @as_mlflow
    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Describe a deployment.

        Returns:
            ``name``, ``flavor``, ``model_uri`` (as given), ``model_version`` (of the registry, or None),
            ``model_uuid``, ``endpoint``, ``revision`` (from 1), ``state`` (``UPDATING``, ``HEALTHY``, ``UNHEALTHY``,
            ``DEPLOY_FAILED``, ``DELETING``), ``message``, ``replicas`` (each ``id``, ``state``, ``pid``,
            ``restarts``, ``revision``), ``url``, ``config``, ``env_manager`` and ``batching`` (what was decided and
            why), ``rollout`` (None, or the one under way: its ``revision`` and ``strategy``; once a canary or shadow
            is tried also ``step``, ``steps``, ``share`` in percent, ``old`` and ``new``, each with ``requests``,
            ``errors``, ``error_rate``, ``p95_ms`` and ``under_way``, of a shadow ``agreement``, and ``not_judged``
            where steps passed with too few requests), ``created_at`` and ``updated_at`` (ISO 8601, UTC).

        Raises:
            MlflowException: there is no such deployment.
        """
        self._control.ensure_running()
        return self._control.get_deployment(name, endpoint)

    @as_mlflow
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
            return self._scoring.predict(f"endpoints/{quote(str(endpoint), safe='')}", body)
        if endpoint is not None:
            self._control.ensure_running()
            self._control.get_deployment(deployment_name, endpoint)
        return self._scoring.predict(f"deployments/{quote(str(deployment_name), safe='')}", body)

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

    @as_mlflow
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

    @as_mlflow
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

    @as_mlflow
    def update_endpoint(self, endpoint: str, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Change the traffic split of an endpoint, or who stays where; returns it as `get_endpoint` does."""
        _refuse_keys(config, ENDPOINT_KEYS)
        self._control.ensure_running()
        return self._control.update_endpoint(endpoint, **(config or {}))

    @as_mlflow
    def delete_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint; its deployments stay. No error when there is none of that name."""
        self._control.ensure_running()
        self._control.delete_endpoint(endpoint)

    @as_mlflow
    def list_endpoints(self) -> list[dict[str, Any]]:
        """Describe all endpoints, as `get_endpoint` does."""
        self._control.ensure_running()
        return self._control.list_endpoints()

    @as_mlflow
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


def _refuse_keys(config: Mapping[str, Any] | None, known: tuple[str, ...]) -> None:
    for key in config or {}:
        if key not in known:
            hint = nearest(key, known) if known else "There are none."
            raise InvalidRequest(f"Unknown config key '{key}'. {hint}")


@as_mlflow
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
    with until_signalled() as serving, temporary_server() as home:
        client = RestaurantDeploymentClient(f"restaurant:{home.path}")
        deployment = client.create_deployment(name, model_uri, flavor, config)
        _say(f"Deployment {name} answers at {deployment['url']}/invocations. Press Ctrl-C to stop.")
        serving.append(True)
        control, never = ControlClient(home), threading.Event()
        while control.is_running():
            never.wait(1.0)
        raise Unavailable("The server ended unexpectedly.")


def _say(text: str) -> None:
    sys.stdout.write(text + os.linesep)
    sys.stdout.flush()


__all__ = ["RestaurantDeploymentClient", "run_local", "target_help"]
