"""The ``mlflow-restaurant`` command: the server, what it does, its endpoints, bundles, and the demo.

Errors are one line on stderr; ``--debug`` shows where they came from. Nothing here imports MLflow until it must.
"""

from mlflow_restaurant.cli import endpoints, events, logs, models, revisions, server
from mlflow_restaurant.cli.base import main

__all__ = ["endpoints", "events", "logs", "main", "models", "revisions", "server"]
