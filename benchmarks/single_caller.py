"""One caller through the gateway against `mlflow models serve`, and the time from `create` to the first prediction.

Same machine, same run, alternating; a scikit-learn pipeline over four float columns, single-row JSON. Run it with

    python benchmarks/single_caller.py [--rounds 5] [--requests 500]
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

BODY = b'{"dataframe_split": {"columns": ["a", "b", "c", "d"], "data": [[0.1, 0.2, 0.3, 0.4]]}}'
HEADERS = {"Content-Type": "application/json"}
COLUMNS = list("abcd")


def save_model(path: Path) -> None:
    import mlflow
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame = pd.DataFrame(np.random.default_rng(0).random((200, 4)), columns=COLUMNS)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, frame.a + frame.b > 1)
    mlflow.sklearn.save_model(model, path, input_example=frame.head(2))


@contextlib.contextmanager
def mlflow_serve(model: Path, log: Path) -> Iterator[tuple[str, float]]:
    """Yields the URL and the seconds from the command to the first prediction."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-w", "1", "-p", str(port)],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PATH": path},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url)
        yield url, time.perf_counter() - started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(url, 1)
            return
        time.sleep(0.02)
    raise SystemExit(f"{url} does not answer")


def ask(url: str, requests: int) -> list[float]:
    """Return the latencies of requests in a row on one connection, in milliseconds."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    took = []
    for _ in range(requests):
        started = time.perf_counter()
        connection.request("POST", f"{parts.path}/invocations", BODY, HEADERS)
        response = connection.getresponse()
        content = response.read()
        took.append((time.perf_counter() - started) * 1000)
        if response.status != 200:
            raise SystemExit(f"{url} answered {response.status}: {content[:200]!r}")
    connection.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["MLFLOW_RESTAURANT_PORT"] = "0"
    from mlflow.deployments import get_deploy_client

    from mlflow_restaurant.control.client import ControlClient

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        model, home = folder / "model", folder / "home"
        save_model(model)
        client = get_deploy_client(f"restaurant:{home}")
        try:
            started = time.perf_counter()
            ours = client.create_deployment("bench", str(model))["url"]
            ask(ours, 1)
            from_nothing = time.perf_counter() - started
            running = []
            for number in range(options.rounds):
                started = time.perf_counter()
                ask(client.create_deployment(f"again-{number}", str(model))["url"], 1)
                running.append(time.perf_counter() - started)
                client.delete_deployment(f"again-{number}")
            with mlflow_serve(model, folder / "serve.log") as (theirs, serve_s):
                ask(ours, 200)
                ask(theirs, 200)
                pairs = []
                for _ in range(options.rounds):
                    mine = statistics.median(ask(ours, options.requests))
                    pairs.append((mine, statistics.median(ask(theirs, options.requests))))
        finally:
            ControlClient(home).down()
    mine, other = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratio = statistics.median(a / b for a, b in pairs)
    more = statistics.median(a - b for a, b in pairs)
    print(
        f"p50, one caller: {mine:.2f} ms, mlflow models serve {other:.2f} ms: {ratio:.2f} x, {more:+.2f} ms"
    )
    print(f"create to first prediction, server running: {statistics.median(running):.2f} s")
    print(f"create to first prediction, from nothing:   {from_nothing:.2f} s")
    print(f"mlflow models serve to first prediction:    {serve_s:.2f} s")


if __name__ == "__main__":
    main()
