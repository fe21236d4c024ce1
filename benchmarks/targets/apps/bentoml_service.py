"""The model behind BentoML, with adaptive batching: rows of all requests arrive as one list."""

from typing import Any

import bentoml
from served_model import MAX_BATCH, ServedModel

MAX_BATCH_ROWS = 100 * MAX_BATCH
"""BentoML counts rows where the others count requests: room for as many requests of 100 rows."""


@bentoml.service(workers=1)
class Service:
    def __init__(self) -> None:
        self.served = ServedModel()

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=MAX_BATCH_ROWS, route="/invocations")
    def invocations(self, rows: list[list[Any]]) -> list[Any]:
        return self.served.predict(rows)
