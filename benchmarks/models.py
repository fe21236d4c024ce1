"""The models that are served, and rows to ask them about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mlflow_restaurant

LIBRARIES = ("mlflow", "scikit-learn", "skops", "numpy", "pandas", "cloudpickle")
TRUSTED = [
    "numpy.dtype",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn._loss._loss.CyHalfSquaredError",
    "sklearn.tree._tree.Tree",
]
"""Types in our pipelines that skops does not load unasked."""

TRAINING_ROWS = 2000
EXAMPLE_ROWS = 50
TREES = 300
NUMBERS = [f"number_{i}" for i in range(20)]
NAMES = [f"name_{i}" for i in range(8)]
FLAGS = [f"flag_{i}" for i in range(2)]
CITIES = ("Aachen", "Bergen", "Cork", "Delft", "Évora", "Faro")
WORDS = (
    "money",
    "lunch",
    "claim",
    "noon",
    "prize",
    "meeting",
    "click",
    "minutes",
    "offer",
    "friday",
    "win",
    "notes",
)


def save_sklearn(model: Any, path: str, **options: Any) -> None:
    mlflow.sklearn.save_model(model, path, skops_trusted_types=TRUSTED, **options)


@dataclass(frozen=True)
class ModelKind:
    """One kind of model.

    Args:
        title: what the report calls it.
        rows: makes that many rows of input.
        train: fits a model on such rows.
        save: writes the model to a path, with the arguments of MLflow's flavors.
    """

    title: str
    rows: Callable[[int], pd.DataFrame]
    train: Callable[[pd.DataFrame], Any]
    save: Callable[..., None] = save_sklearn


def requirements() -> list[str]:
    """Return the libraries that every model needs, in the versions installed here."""
    return [f"{name}=={version(name)}" for name in LIBRARIES]


def save(kind: ModelKind, path: Path) -> Path:
    """Train a model of that kind and save it at `path`."""
    rows = kind.rows(TRAINING_ROWS)
    log = logging.getLogger("mlflow")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = kind.train(rows)
            kind.save(
                model, str(path), input_example=rows.head(EXAMPLE_ROWS), pip_requirements=requirements()
            )
    finally:
        log.setLevel(level)
    return path


def floats(rows: int) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(rows).normal(size=(rows, 4)), columns=list("abcd"))


def mixed(rows: int) -> pd.DataFrame:
    random = np.random.default_rng(rows)
    numbers = random.normal(size=(rows, len(NUMBERS)))
    numbers[random.random(numbers.shape) < 0.1] = np.nan
    frame = pd.DataFrame(numbers, columns=NUMBERS)
    for name in NAMES:
        frame[name] = [None if random.random() < 0.1 else str(random.choice(CITIES)) for _ in range(rows)]
    for flag in FLAGS:
        frame[flag] = random.random(rows) < 0.5
    return frame


def texts(rows: int) -> pd.DataFrame:
    random = np.random.default_rng(rows)
    return pd.DataFrame({"text": [" ".join(random.choice(WORDS, 20)) for _ in range(rows)]})


def train_floats(rows: pd.DataFrame) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, rows["a"] + rows["b"] > 0)


def train_mixed(rows: pd.DataFrame) -> Any:
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
            ("names", OneHotEncoder(handle_unknown="ignore"), NAMES),
            ("flags", "passthrough", FLAGS),
        ]
    )
    return make_pipeline(columns, LogisticRegression()).fit(rows, rows[NUMBERS[0]].fillna(0) > 0)


def train_texts(rows: pd.DataFrame) -> Any:
    labels = np.where(rows["text"].str.count("money") > rows["text"].str.count("lunch"), "spam", "ham")
    columns = ColumnTransformer([("words", TfidfVectorizer(ngram_range=(1, 2)), "text")])
    return make_pipeline(columns, LogisticRegression()).fit(rows, labels)


def train_trees(rows: pd.DataFrame) -> Any:
    return GradientBoostingRegressor(n_estimators=TREES).fit(rows, rows["a"] * rows["b"] + rows["c"])


def with_ratio(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(ratio=frame["a"] / (1 + frame["b"].abs()))


def to_names(codes: np.ndarray) -> np.ndarray:
    return np.where(codes, "high", "low")


def train_bundle(rows: pd.DataFrame) -> Any:
    model = LogisticRegression().fit(with_ratio(rows), rows["a"] > 0)
    return mlflow_restaurant.Bundle([with_ratio], model, to_names)


KINDS = {
    "floats": ModelKind("four float columns", floats, train_floats),
    "mixed": ModelKind("30 mixed columns, values missing", mixed, train_mixed),
    "text": ModelKind("TF-IDF text", texts, train_texts),
    "trees": ModelKind(f"gradient boosting, {TREES} trees", floats, train_trees),
    "bundle": ModelKind("bundle with two functions", floats, train_bundle, mlflow_restaurant.save_model),
}
