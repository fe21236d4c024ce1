"""Saves a bundle to keep for ever: run once a release, as ``python tests/data/save_bundle.py``, by the oldest Python.

Nothing in it is pickled, so that every Python and every scikit-learn that comes can read it.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import mlflow_restaurant

HERE = Path(__file__).parent
CODE = '''"""Steps of the bundle that is kept."""


def area(frame, unit):
    """Keep the columns of the model, and add one."""
    return frame[["length", "width"]].assign(area=frame["length"] * frame["width"] / unit)


def sentence(labels, params):
    """Say it as the request wants it."""
    return [params["prefix"] + label for label in labels]
'''


def main() -> None:
    """Save the bundle and what it predicts from its example."""
    raw = pd.DataFrame({"id": list("abcd"), "length": [1.0, 2.0, 3.0, 4.0], "width": [4.0, 1.0, 5.0, 2.0]})
    path = HERE / f"bundle_{mlflow_restaurant.__version__.replace('.', '_')}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kept_steps.py"
        file.write_text(CODE)
        sys.path.insert(0, folder)
        steps = importlib.import_module("kept_steps")
        features = steps.area(raw, 2.0)
        scaler = StandardScaler().set_output(transform="pandas").fit(features)
        model = LogisticRegression().fit(scaler.transform(features), [0, 0, 1, 1])
        bundle = mlflow_restaurant.Bundle(
            [(steps.area, {"unit": 2.0}), scaler],
            model,
            steps.sentence,
            labels=["small", "large"],
            threshold=0.5,
            params={"prefix": ""},
        )
        requirements = ["mlflow", "scikit-learn", "skops"]
        mlflow_restaurant.save_model(
            bundle,
            path,
            code_paths=[str(file)],
            input_example=raw,
            pip_requirements=requirements,
            allow_pickle=False,
        )
    predictions = {
        "default": bundle.predict(raw),
        "threshold": bundle.predict(raw, {"threshold": 0.99, "prefix": "is "}),
    }
    (path / "expected.json").write_text(json.dumps(predictions))


if __name__ == "__main__":
    main()
