"""The model behind LitServe, batched."""

from typing import Any

import litserve
from served_model import BATCH_WAIT_S, MAX_BATCH, PORT, Rows, ServedModel, rows_of


class Api(litserve.LitAPI):
    # What requests and responses are is left open: annotated, FastAPI would check each of them as well.

    def setup(self, device: str) -> None:
        self.served = ServedModel()

    def decode_request(self, request) -> Rows:
        return rows_of(request)

    def batch(self, inputs: list[Rows]) -> list[Rows]:
        return inputs

    def predict(self, requests: list[Rows]) -> list[list[Any]]:
        return self.served.predict_many(requests)

    def unbatch(self, output: list[list[Any]]) -> list[list[Any]]:
        return output

    def encode_response(self, output: list[Any]):
        return {"predictions": output}


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=BATCH_WAIT_S, api_path="/invocations")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
