"""Try a bundle before anybody else does: on its example here, and from disk in a fresh process.

What is tried: the example fits the signature; the bundle, loaded back where nothing of this process is, predicts the
same; so does the example after its way through the scoring server's JSON. Rows alone and together are for `rows`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from mlflow.environment_variables import MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.signature import _infer_signature_from_input_example
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import _validate_prediction_input

from mlflow_restaurant.bundle import Bundle
from mlflow_restaurant.comparing import as_json, difference
from mlflow_restaurant.saving import fresh
from mlflow_restaurant.saving.signature import completed

__all__ = [
    "ExampleRun",
    "model_input",
    "rehearse",
    "run_example",
]

_logger = logging.getLogger(__name__)

OTHER_PROCESS = 1e-6
"""How far numbers may be apart: libraries may add in another order where they use other numbers of threads."""


@dataclass(frozen=True)
class ExampleRun:
    """What the bundle, as it is in memory, made of its example.

    Attributes:
        data: the example.
        params: its params, or None.
        seen: the data and params that the bundle got: as the signature makes them.
        predictions: what the bundle predicted.
        signature: inferred, or the given one; None if none is wanted.
    """

    data: Any
    params: dict[str, Any] | None
    seen: tuple[Any, dict[str, Any] | None]
    predictions: Any
    signature: ModelSignature | None


class _Recorder:
    """Runs the bundle for MLflow's signature inference, and keeps the error that MLflow only logs."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.error: Exception | None = None
        self.predictions: Any = None
        self.ran = False
        self.seen: tuple[Any, dict[str, Any] | None] = (None, None)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        self.ran = True
        self.seen = deepcopy((data, params))
        try:
            self.predictions = self.bundle.predict(data, params)
        except Exception as error:
            self.error = error
            raise
        return self.predictions


def run_example(bundle: Bundle, example: Any, signature: Any, made_plain: Sequence[Any] = ()) -> ExampleRun:
    """Predict from the example as a pyfunc would.

    Args:
        bundle: the bundle.
        example: MLflow's ``_Example``.
        signature: a ``ModelSignature``, None to infer one, or False.
        made_plain: its columns that had a type which callers cannot send.

    Raises:
        MlflowException: the example does not fit the signature, or the bundle cannot predict from it.
    """
    recorder, reasons = _Recorder(bundle), list[str]()
    data, params = example.inference_data, example.inference_params
    chosen = None
    if signature is None:
        with _silent_inference() as reasons:
            chosen = _infer_signature_from_input_example(example, recorder)
        asked = (deepcopy(data), params)
    else:
        if signature:
            chosen = ModelSignature(signature.inputs, signature.outputs, completed(signature.params, bundle))
        asked = _fitted(data, params, chosen)
    if not recorder.ran:
        with contextlib.suppress(Exception):
            recorder.predict(*asked)
    if recorder.error is not None:
        raise MlflowException(
            f"The bundle cannot predict from the input example: {str(recorder.error).rstrip('.')}. {_advice(made_plain)}",
            INVALID_PARAMETER_VALUE,
        ) from recorder.error
    for reason in reasons:
        _logger.warning("%s", reason)
    return ExampleRun(data, params, recorder.seen, recorder.predictions, chosen)


def _advice(made_plain: Sequence[Any]) -> str:
    if not made_plain:
        return "Give a few rows of raw input, as callers will send them."
    names = ", ".join(map(repr, made_plain))
    return (
        f"Callers send plain values in {names}, so the example has such too: make them what the model wants, such as "
        "categories, in a first preprocess step."
    )


class _Reasons(logging.Filter):
    """Keeps to itself why MLflow infers no signature: an error of the bundle is told to the caller in one sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.found.append(" ".join(record.getMessage().split()))
        return False


@contextlib.contextmanager
def _silent_inference() -> Iterator[list[str]]:
    """Within, MLflow's warnings are collected instead of logged."""
    logger, reasons = logging.getLogger("mlflow.models.signature"), _Reasons()
    logger.addFilter(reasons)
    try:
        yield reasons.found
    finally:
        logger.removeFilter(reasons)


def _fitted(data: Any, params: Any, signature: ModelSignature | None) -> tuple[Any, Any]:
    """The example as the signature makes it."""
    if signature is None or signature.inputs is None:
        return deepcopy(data), params
    try:
        fitted: tuple[Any, Any] = _validate_prediction_input(
            deepcopy(data), params, signature.inputs, signature.params
        )
    except Exception as error:
        raise MlflowException(
            f"The input example does not fit the signature: {message_of(error)} "
            "Change one of them, or leave the signature out: it is inferred from the example.",
            INVALID_PARAMETER_VALUE,
        ) from error
    return fitted


def model_input(bundle: Bundle, run: ExampleRun) -> Any:
    """What the model is called with for the example."""
    data, params = deepcopy(run.seen)
    before = [step for step in bundle.steps if step.role == "preprocess"]
    return reduce(lambda value, step: step.call(value, {**bundle.params, **(params or {})}), before, data)


def rehearse(root: Path, run: ExampleRun | None) -> list[str]:
    """Load a saved bundle in a fresh process, and compare what it predicts with `run`.

    Args:
        root: directory of the model.
        run: the example, and what the bundle predicted from it; None if there is no example.

    Returns:
        Top-level modules that loading and predicting import.

    Raises:
        MlflowException: it cannot be loaded, or predicts something else; the message says what.
    """
    report = _report(root, run)
    if "error" in report:
        raise _refusal(f"it cannot be loaded in a fresh process: {report['error']}")
    if run is not None:
        expected = _expected(run)
        _compare(
            expected,
            report["native"],
            "loaded in a fresh process, it does not predict the same from its input example",
        )
        if "served" in report:
            _compare(
                expected, report["served"], "its input example does not survive the scoring server's JSON"
            )
    modules: list[str] = report["modules"]
    return modules


def _expected(run: ExampleRun) -> Any:
    columns = getattr(run.predictions, "columns", None)
    if columns is not None and not columns.is_unique:
        name = columns[columns.duplicated()][0]
        raise _refusal(
            f"its predictions have two columns named {name!r}, and JSON would keep the last of them only; "
            "give every column a name of its own in its last step"
        )
    try:
        return as_json(run.predictions)
    except Exception as error:
        kind = type(run.predictions).__name__
        raise _refusal(
            f"the scoring server cannot write its predictions ({kind}) as JSON: {message_of(error)}; return a DataFrame, "
            "Series, array or list of plain values from its last step"
        ) from error


def _compare(expected: Any, outcome: dict[str, str], what: str) -> None:
    if "error" in outcome:
        raise _refusal(f"{what}: {outcome['error']}")
    if text := difference(expected, json.loads(outcome["json"])["predictions"], OTHER_PROCESS):
        raise _refusal(
            f"{what}: {text}. Look for steps that are random, or that depend on files, the clock, or global variables; "
            "where that is wanted, save with check_example=False"
        )


def _report(root: Path, run: ExampleRun | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        example, report = Path(folder, "example"), Path(folder, "report")
        if run is not None:
            example.write_bytes(pickle.dumps((run.data, run.params)))
        environment = {**os.environ, "_MLFLOW_IN_CAPTURE_MODULE_PROCESS": "true"}
        timeout = MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT.get()
        alive, kept = os.pipe()  # closed by whatever ends this process
        command = [sys.executable, fresh.__file__, str(root), str(example), str(report), str(alive)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                pass_fds=[alive],
            )
        except subprocess.TimeoutExpired as error:
            raise _refusal(
                f"in a fresh process, it did not load and predict within {timeout} s; set "
                f"{MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT.name} to more seconds, or give pip_requirements and "
                "check_example=False, and no process is started"
            ) from error
        finally:
            os.close(alive)
            os.close(kept)
        if not report.is_file():
            raise _refusal(
                f"the process that loads it ended with status {done.returncode}, so a step or the model may have ended it; "
                f"it wrote: {done.stderr[-500:].strip() or 'nothing'}"
            )
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def _refusal(why: str) -> MlflowException:
    return MlflowException(f"The bundle was not saved: {why.rstrip('.')}.", INVALID_PARAMETER_VALUE)


def message_of(error: Exception) -> str:
    return str(getattr(error, "message", None) or f"{type(error).__name__}: {error}")
