"""Asks the gateway for predictions, over HTTP as any caller does."""

from __future__ import annotations

import json

from mlflow.deployments import PredictionsResponse

from mlflow_restaurant.control.client import ControlClient
from mlflow_restaurant.errors import Unavailable
from mlflow_restaurant.plugin_errors import DeploymentError

__all__ = ["ScoringClient"]

CONNECT_TIMEOUT_S = 5


class ScoringClient:
    """Asks the gateway of one home; its address is looked up on first use, and again when nobody answers there.

    Args:
        control: the home's controller, which is started when it is needed.
    """

    def __init__(self, control: ControlClient) -> None:
        self._control = control
        self._url: str | None = None

    def predict(self, path: str, body: bytes) -> PredictionsResponse:
        """Post a scoring request.

        Args:
            path: of the deployment or endpoint, percent-encoded: ``deployments/NAME``.
            body: JSON of MLflow's scoring protocol.

        Raises:
            DeploymentError: the answer is an error.
            Unavailable: the gateway does not answer.
        """
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
    parsed = json.loads(text)
    return PredictionsResponse(parsed if isinstance(parsed, dict) else {"predictions": parsed})


def _scoring_error(text: str, status: int) -> DeploymentError:
    try:
        payload = json.loads(text)
        return DeploymentError(payload["message"], error_code=payload["error_code"])
    except (ValueError, KeyError, TypeError):
        return DeploymentError(f"The deployment answered with status {status}: {text[:500]}")
