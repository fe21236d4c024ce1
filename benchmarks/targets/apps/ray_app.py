"""The model behind Ray Serve, with `serve.batch`."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import ray
from ray import serve
from served_model import BATCH_WAIT_S, MAX_BATCH, PORT, Rows, ServedModel, rows_of
from starlette.requests import Request

OBJECT_STORE_BYTES = 100_000_000


@serve.deployment(num_replicas=1, max_ongoing_requests=2 * MAX_BATCH)
class Model:
    def __init__(self) -> None:
        self.served = ServedModel()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def predict(self, requests: list[Rows]) -> list[list[Any]]:
        return self.served.predict_many(requests)

    async def __call__(self, request: Request) -> dict[str, Any]:
        return {"predictions": await self.predict(rows_of(await request.json()))}


def main() -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=os.environ["BENCH_SCRATCH"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Model.bind(), route_prefix="/invocations")
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
