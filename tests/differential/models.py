"""The models both servers serve: one function saves one, and one table says why each is there."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

if TYPE_CHECKING:
    from collections.abc import Callable

PYFUNCS = Path(__file__).parent / "pyfuncs"
SKLEARN_REQUIREMENTS = ["mlflow", "scikit-learn", "skops"]
PYFUNC_REQUIREMENTS = ["mlflow"]
TRUSTED_TYPES = ["numpy.dtype", "sklearn.tree._tree.Tree"]
FLOWER = ["sepal_length", "sepal_width", "petal_length", "petal_width"]

COLUMN_TYPES: dict[str, DataType] = {
    "double": DataType.double,
    "float": DataType.float,
    "long": DataType.long,
    "integer": DataType.integer,
    "boolean": DataType.boolean,
    "string": DataType.string,
    "binary": DataType.binary,
    "datetime": DataType.datetime,
}
"""One column of each type; the column is named after its type."""

MIXED_TYPES = {
    name: COLUMN_TYPES[name] for name in ("double", "float", "long", "integer", "boolean", "string")
}


@dataclass(frozen=True)
class ServedModel:
    name: str
    why: str
    save: Callable[[Path], None]


MODELS: dict[str, ServedModel] = {}


def served(why: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def register(save: Callable[[Path], None]) -> Callable[[Path], None]:
        name = save.__name__
        MODELS[name] = ServedModel(name, why, save)
        return save

    return register


def save_sklearn(path: Path, model: Any, signature: ModelSignature | None, **options: Any) -> None:
    mlflow.sklearn.save_model(
        model,
        path,
        signature=signature,
        pip_requirements=SKLEARN_REQUIREMENTS,
        skops_trusted_types=TRUSTED_TYPES,
        **options,
    )


def save_pyfunc(path: Path, code: str, signature: ModelSignature | None = None) -> None:
    mlflow.pyfunc.save_model(
        path,
        python_model=str(PYFUNCS / f"{code}.py"),
        signature=signature,
        pip_requirements=PYFUNC_REQUIREMENTS,
    )


def columns(types: dict[str, Any], *, required: bool = True) -> ModelSignature:
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=required) for name, kind in types.items()])
    )


def flowers() -> tuple[Any, Any]:
    random = np.random.default_rng(7)
    measures = random.uniform(0.1, 8.0, size=(150, len(FLOWER)))
    return pd.DataFrame(measures, columns=FLOWER), measures @ [0.5, -1.0, 2.0, 0.25]


def mixed_rows(rows: int = 60) -> tuple[Any, Any]:
    random = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "double": random.normal(size=rows),
            "float": random.normal(size=rows).astype(np.float32),
            "long": random.integers(-9, 9, size=rows),
            "integer": random.integers(-9, 9, size=rows).astype(np.int32),
            "boolean": random.integers(0, 2, size=rows).astype(bool),
            "string": random.choice(["red", "green", "blue"], size=rows),
        }
    )
    return frame, random.normal(size=rows)


def mixed_pipeline() -> Any:
    numbers = ["double", "float", "long", "integer", "boolean"]
    prepare = ColumnTransformer(
        [
            ("numbers", SimpleImputer(), numbers),
            ("words", OneHotEncoder(handle_unknown="ignore"), ["string"]),
        ]
    )
    return Pipeline([("prepare", prepare), ("model", DecisionTreeRegressor(random_state=0))])


@served("four floats through a pipeline: the commonest model, and the one servers make a fast path for")
def sklearn_floats(path: Path) -> None:
    frame, target = flowers()
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(frame, target)
    save_sklearn(path, model, infer_signature(frame, model.predict(frame)))


@served("string labels as predictions")
def sklearn_labels(path: Path) -> None:
    frame, target = flowers()
    labels = np.where(target > 10, "größer", np.where(target > 5, "middle", "small"))
    model = RandomForestClassifier(5, random_state=0).fit(frame, labels)
    save_sklearn(path, model, infer_signature(frame, model.predict(frame)))


@served("a row of floats as each prediction")
def sklearn_probabilities(path: Path) -> None:
    frame, target = flowers()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, target > 8)
    save_sklearn(path, model, infer_signature(frame, target), pyfunc_predict_fn="predict_proba")


@served("every type that may be merged, required, in a model that refuses some of what the schema lets by")
def sklearn_mixed(path: Path) -> None:
    frame, target = mixed_rows()
    save_sklearn(path, mixed_pipeline().fit(frame, target), columns(MIXED_TYPES))


@served("the same, optional: missing values and missing columns are allowed by the schema")
def sklearn_mixed_optional(path: Path) -> None:
    frame, target = mixed_rows()
    save_sklearn(path, mixed_pipeline().fit(frame, target), columns(MIXED_TYPES, required=False))


@served("a signature of columns without names")
def sklearn_unnamed(path: Path) -> None:
    frame, target = flowers()
    signature = ModelSignature(inputs=Schema([ColSpec(DataType.double)] * len(FLOWER)))
    save_sklearn(path, DecisionTreeRegressor(random_state=0).fit(frame.to_numpy(), target), signature)


@served("no signature: whatever pandas or NumPy make of the JSON reaches scikit-learn")
def sklearn_no_signature(path: Path) -> None:
    frame, target = flowers()
    save_sklearn(path, DecisionTreeRegressor(random_state=0).fit(frame.to_numpy(), target), None)


@served("a tensor signature, as inferred from an array, on a scikit-learn model")
def sklearn_tensor(path: Path) -> None:
    frame, target = flowers()
    model = DecisionTreeRegressor(random_state=0).fit(frame.to_numpy(), target)
    save_sklearn(path, model, infer_signature(frame.to_numpy(), target))


@served("how a value of every column type is parsed")
def echo_required(path: Path) -> None:
    save_pyfunc(path, "echo", columns(COLUMN_TYPES))


@served("how a value of every column type is parsed when it may be missing")
def echo_optional(path: Path) -> None:
    save_pyfunc(path, "echo", columns(COLUMN_TYPES, required=False))


@served("one column with a name, which MLflow lets callers leave out")
def echo_one_column(path: Path) -> None:
    save_pyfunc(path, "echo", columns({"only": DataType.long}))


@served("columns without names and of different types")
def echo_unnamed(path: Path) -> None:
    types = [DataType.long, DataType.string, DataType.double]
    save_pyfunc(path, "echo", ModelSignature(inputs=Schema([ColSpec(kind) for kind in types])))


@served("arrays, objects, maps and anything")
def echo_nested(path: Path) -> None:
    person = Object([Property("name", DataType.string), Property("age", DataType.long, required=False)])
    types: dict[str, Any] = {
        "array": Array(DataType.double),
        "arrays": Array(Array(DataType.long)),
        "object": person,
        "objects": Array(person),
        "map": Map(DataType.boolean),
    }
    required = [ColSpec(kind, name) for name, kind in types.items()]
    optional = [
        ColSpec(AnyType(), "any", required=False),
        ColSpec(Array(DataType.string), "optional", required=False),
    ]
    save_pyfunc(path, "echo", ModelSignature(inputs=Schema(required + optional)))


@served("no signature: how each format is parsed when nothing says what it should be")
def echo_no_signature(path: Path) -> None:
    save_pyfunc(path, "echo")


@served("params of every type, with defaults")
def echo_params(path: Path) -> None:
    params = [
        ParamSpec("flag", DataType.boolean, False),
        ParamSpec("count", DataType.long, 3),
        ParamSpec("small", DataType.integer, 2),
        ParamSpec("ratio", DataType.double, 0.5),
        ParamSpec("single", DataType.float, 0.25),
        ParamSpec("word", DataType.string, "default"),
        ParamSpec("maybe", DataType.string, None),
        ParamSpec("since", DataType.datetime, datetime.datetime(2026, 1, 2)),
        ParamSpec("items", DataType.long, [1, 2], shape=(-1,)),
        ParamSpec("object", Object([Property("a", DataType.long)]), {"a": 1}, shape=None),
    ]
    inputs = Schema([ColSpec(DataType.double, "x")])
    save_pyfunc(path, "echo", ModelSignature(inputs=inputs, params=ParamSchema(params)))


@served("one tensor without a name")
def echo_tensor(path: Path) -> None:
    inputs = Schema([TensorSpec(np.dtype("float32"), (-1, 3))])
    save_pyfunc(path, "echo", ModelSignature(inputs=inputs))


@served("several tensors with names, of other ranks and types")
def echo_tensors(path: Path) -> None:
    inputs = Schema(
        [
            TensorSpec(np.dtype("float64"), (-1, 2), "pair"),
            TensorSpec(np.dtype("int64"), (-1,), "number"),
            TensorSpec(np.dtype("uint8"), (-1, 2, 2), "image"),
            TensorSpec(np.dtype("str"), (-1,), "word"),
        ]
    )
    save_pyfunc(path, "echo", ModelSignature(inputs=inputs))


@served("a type hint of a plain type: MLflow skips its own parsing and validates with pydantic")
def hints_ints(path: Path) -> None:
    save_pyfunc(path, "hints_ints")


@served("a type hint of dictionaries")
def hints_dicts(path: Path) -> None:
    save_pyfunc(path, "hints_dicts")


@served("a type hint of nested pydantic models")
def hints_pydantic(path: Path) -> None:
    save_pyfunc(path, "hints_pydantic")


@served("every kind of output, and every kind of failure inside a model")
def outputs(path: Path) -> None:
    save_pyfunc(path, "outputs", columns({"kind": DataType.string}))
