"""The model as the programs beside this file serve it: many requests become one frame and one call of MLflow.

These programs run in the environments of other servers, where this package is not installed.
"""

from __future__ import annotations

import os
from itertools import accumulate, pairwise
from typing import Any

import mlflow
import numpy as np
import pandas as pd

MAX_BATCH = int(os.environ["BENCH_MAX_BATCH"])
BATCH_WAIT_S = float(os.environ["BENCH_BATCH_WAIT_S"])
PORT = int(os.environ["BENCH_PORT"])

Rows = list[list[Any]]


class ServedModel:
    """A saved MLflow model and the names of its columns."""

    def __init__(self) -> None:
        self.model = mlflow.pyfunc.load_model(os.environ["BENCH_MODEL"])
        self.schema = self.model.metadata.get_input_schema()
        self.columns = self.schema.input_names()

    def predict(self, rows: Rows) -> list[Any]:
        """Predict rows; values are read as MLflow's scoring server reads them."""
        frame = pd.DataFrame(rows, columns=self.columns)
        return list(np.asarray(self.model.predict(frame)).tolist())

    def predict_many(self, requests: list[Rows]) -> list[list[Any]]:
        """Predict the rows of several requests in one call, and split the predictions by request."""
        predictions = self.predict([row for rows in requests for row in rows])
        ends = accumulate((len(rows) for rows in requests), initial=0)
        return [predictions[start:end] for start, end in pairwise(ends)]


def rows_of(body: dict[str, Any]) -> Rows:
    """Return the rows of a request in MLflow's form `dataframe_split`; its columns are in the model's order."""
    rows: Rows = body["dataframe_split"]["data"]
    return rows
