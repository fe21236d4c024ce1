"""Loads a saved bundle in a process of its own and predicts from its example: run by `rehearsal.rehearse`.

Runs by its path, so that nothing of the process that saved the bundle can be imported here by accident.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import sys
import threading
from pathlib import Path
from typing import Any


def main(model_path: str, example_path: str, report_path: str, alive: str) -> None:
    """Write what happened as JSON: ``modules`` that were imported, ``error``, ``native``, ``served``.

    Args:
        model_path: directory of the model.
        example_path: pickle of the example and its params; there may be none.
        report_path: where to write.
        alive: descriptor that ends when the process that waits for the report does.
    """
    threading.Thread(target=_end_with, args=(int(alive),), daemon=True).start()
    report: dict[str, Any] = {"modules": []}
    try:
        _try(Path(model_path), Path(example_path), report)
    except Exception as error:  # whatever it is, the process that waits wants to know
        report["error"] = _text(error)
    Path(report_path).write_text(json.dumps(report))


def _end_with(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(1)


def _try(root: Path, example: Path, report: dict[str, Any]) -> None:
    if any(root.rglob("*.skops")):
        import skops.io  # noqa: F401 - it goes through all modules that are there already: seconds after MLflow
    import mlflow.pyfunc
    from mlflow.models import Model
    from mlflow.utils._capture_modules import _CaptureImportedModules

    conf = Model.load(str(root)).flavors[mlflow.pyfunc.FLAVOR_NAME]
    sys.path.insert(0, str(root / conf[mlflow.pyfunc.CODE]))
    loader = importlib.import_module(conf[mlflow.pyfunc.MAIN])
    _import_what_looks_around(root)
    capture = _CaptureImportedModules()
    _watch(loader, capture)
    model = mlflow.pyfunc.load_model(str(root))
    if example.is_file():
        with example.open("rb") as file:
            data, params = pickle.load(file)
        report["native"] = _outcome(lambda: _native(model, data, params))
        serving = root / "serving_input_example.json"
        if serving.is_file() and not hasattr(data, "toarray"):  # the server takes no sparse matrices
            report["served"] = _outcome(lambda: _served(model, serving.read_text()))
    report["modules"] = sorted(capture.imported_modules)


def _import_what_looks_around(root: Path) -> None:
    """Import before anything is recorded what looks for every library that is installed and needs none of them."""
    if len(list(root.rglob("MLmodel"))) > 1:
        import mlflow.sklearn  # noqa: F401 - other flavors load with it
    if len(list(root.rglob("MLmodel"))) > 1 or any(root.rglob("*.pkl")):
        with contextlib.suppress(ImportError):
            import sklearn.pipeline  # noqa: F401 - with psutil and rich, where they are installed


def _watch(loader: Any, capture: Any) -> None:
    """Record what loading the bundle and predicting with it import, and nothing that MLflow itself does."""
    original = loader._load_pyfunc

    def load(*args: Any, **kwargs: Any) -> Any:
        with capture:
            loaded = original(*args, **kwargs)
        predict = loaded.predict

        def watched(*args: Any, **kwargs: Any) -> Any:
            with capture:
                return predict(*args, **kwargs)

        def entry(data: Any, params: Any = None) -> Any:
            return watched(data, params=params)

        loaded.predict = entry
        return loaded

    loader._load_pyfunc = load


def _outcome(predict: Any) -> dict[str, Any]:
    try:
        return {"json": predict()}
    except Exception as error:
        return {"error": _text(error)}


def _native(model: Any, data: Any, params: Any) -> str:
    from io import StringIO

    from mlflow.pyfunc.scoring_server import predictions_to_json

    predictions = model.predict(data, params=params)
    text = StringIO()
    predictions_to_json(predictions, text)
    return text.getvalue()


def _served(model: Any, body: str) -> str:
    from mlflow.pyfunc import scoring_server

    answer = scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema())
    return str(answer.response)


def _text(error: Exception) -> str:
    message = getattr(error, "message", None)
    return str(message) if message else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.path.pop(0)
    main(*sys.argv[1:])
