"""What a bundle costs over its steps, and over the same pipeline saved with `mlflow.sklearn`.

Medians of alternating rounds on one machine. Run it with

    python benchmarks/bundle.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mlflow_restaurant

COLUMNS = list("abcd")
CALLS = {1: 500, 10_000: 400}
"""How often the steps are called in one round, by rows."""

GIVEN = ["scikit-learn", "skops"]
TRUSTED = ["sklearn.tree._tree.Tree"]
"""What `mlflow.sklearn` has to be told of a forest; a bundle lists it by itself."""
IMPORTS = """
import time
started = time.perf_counter()
import mlflow
after_mlflow = time.perf_counter()
import mlflow_restaurant
after_package = time.perf_counter()
mlflow_restaurant.Bundle, mlflow_restaurant.save_model
after_names = time.perf_counter()
print(after_mlflow - started, after_package - after_mlflow, after_names - after_package)
"""


def with_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(ratio=frame["a"] / (1 + frame["b"]))


def to_names(codes: np.ndarray) -> np.ndarray:
    return np.where(codes, "high", "low")


def data(rows: int) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).random((rows, len(COLUMNS))), columns=COLUMNS)


def seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def medians(first: Callable[[], Any], second: Callable[[], Any], calls: int) -> tuple[float, float]:
    """Median seconds of two calls, made in turn; which one is made first changes each time."""
    pairs = []
    for number in range(calls):
        if number % 2:
            pairs.append((seconds(first), seconds(second)))
        else:
            pairs.append((seconds(second), seconds(first))[::-1])
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def measure_predict(rounds: int) -> None:
    train = with_ratio(data(200))
    scaler = StandardScaler().fit(train)
    model = LogisticRegression().fit(scaler.transform(train), train["a"] > 0.5)
    bundle = mlflow_restaurant.Bundle([with_ratio, scaler], model, to_names)
    for rows, calls in CALLS.items():
        frame = data(rows)

        def by_hand(frame: pd.DataFrame = frame) -> Any:
            return to_names(model.predict(scaler.transform(with_ratio(frame))))

        def bundled(frame: pd.DataFrame = frame) -> Any:
            return bundle.predict(frame)

        medians(bundled, by_hand, calls // 10)
        found = [medians(bundled, by_hand, calls) for _ in range(rounds)]
        ours, theirs = (statistics.median(pair[at] for pair in found) * 1e6 for at in (0, 1))
        more = statistics.median(a - b for a, b in found) * 1e6
        print(
            f"predict, {rows:>6,} rows: {ours:8.1f} us, steps by hand {theirs:8.1f} us: "
            f"{more:+.1f} us, {more / theirs:+.2%}"
        )


def folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measure_files(rounds: int, classifier: Any, requirements: list[str] | None) -> None:
    """Save and load the same scaler and classifier as a bundle and as a scikit-learn pipeline, in turn."""
    train = data(2000)
    pipeline = make_pipeline(StandardScaler(), classifier).fit(train, train["a"] * train["b"] > 0.25)
    bundle = mlflow_restaurant.Bundle(pipeline[0], pipeline[1])
    example = train.head(2)
    rows: dict[str, list[tuple[float, float]]] = {"save, s": [], "load, s": [], "size, kB": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
            saves = (
                seconds(
                    lambda to=ours: mlflow_restaurant.save_model(
                        bundle, to, input_example=example, pip_requirements=requirements
                    )
                ),
                seconds(
                    lambda to=theirs: mlflow.sklearn.save_model(
                        pipeline,
                        str(to),
                        input_example=example,
                        pip_requirements=requirements,
                        skops_trusted_types=TRUSTED,
                    )
                ),
            )
            rows["save, s"].append(saves)
            rows["size, kB"].append((folder_size(ours) / 1000, folder_size(theirs) / 1000))
            loads = medians(
                lambda path=ours: mlflow.pyfunc.load_model(str(path)),
                lambda path=theirs: mlflow.pyfunc.load_model(str(path)),
                10,
            )
            rows["load, s"].append(loads)
    how = f"{type(classifier).__name__}, requirements {'inferred' if requirements is None else 'given'}"
    for name, pairs in rows.items():
        mine, other = (statistics.median(pair[at] for pair in pairs) for at in (0, 1))
        print(f"{name} ({how}): {mine:.3f}, mlflow.sklearn {other:.3f}: {mine / other:.2f} x")


def measure_imports(rounds: int) -> None:
    found = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
        found.append([float(number) * 1000 for number in done.stdout.split()])
    base, package, names = (statistics.median(times) for times in zip(*found, strict=True))
    print(f"import mlflow: {base:.0f} ms; mlflow_restaurant after it: {package:+.1f} ms")
    print(
        f"its Bundle and save_model: {names:+.1f} ms; together {(base + package + names) / base:.2f} x mlflow"
    )


@contextlib.contextmanager
def quiet() -> Any:
    """MLflow warns of the environment on each save."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with quiet():
        measure_predict(rounds)
        measure_files(rounds, LogisticRegression(), None)
        measure_files(rounds, LogisticRegression(), GIVEN)
        measure_files(rounds, RandomForestClassifier(100, random_state=0), GIVEN)
        measure_imports(rounds)


if __name__ == "__main__":
    main()
