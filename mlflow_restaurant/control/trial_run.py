"""Logs the report of a trial as an MLflow run, for the model version that was tried.

A job of the fork server: the tracking server may be slow, or gone, and the controller imports no MLflow.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from mlflow_restaurant.control.artifacts import set_stores
from mlflow_restaurant.errors import one_line

EXPERIMENT = "mlflow-restaurant"
"""Where a run goes when that of the model is not known or not in this store."""
PREFIX = "mlflow-restaurant."
REPORT_FILE = "trial.json"
WORST_FILE = "worst_rows.json"
LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
MAX_NAME = 250
MAX_TAG = 5000
MAX_METRICS = 1000
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND", "INVALID_PARAMETER_VALUE")
"""What stores say of that which they don't have, or are too old to have."""


def main(args: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> int:
    """Log one run.

    Args:
        args: ``trial`` (the report), ``tracking_uri``, ``registry_uri``, ``model_uri``, ``model_version`` and
            ``model_id`` (or None), ``name`` of the run, ``began`` (ms since 1970), ``tags`` and ``params``.
        report: told ``{"result": {"run_id", "experiment_id"}}`` or ``{"failed": reason}``.
    """
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    try:
        set_stores(args["tracking_uri"], args["registry_uri"])
        result = _log(args)
    except BaseException as e:
        report({"failed": one_line((str(e).splitlines() or [""])[0] or type(e).__name__)})
        with contextlib.suppress(OSError):  # the disk may be full
            traceback.print_exc()
        return 1
    report({"result": result})
    return 0


def _log(args: Mapping[str, Any]) -> dict[str, str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=args["tracking_uri"], registry_uri=args["registry_uri"])
    version = _version(client, args["model_uri"], args["model_version"])
    model = _model(client, args["model_id"] or getattr(version, "model_id", None))
    experiment = _experiment(client, args["model_uri"], version, model)
    tags = {name: str(value)[:MAX_TAG] for name, value in args["tags"].items()}
    run = client.create_run(experiment, start_time=args["began"], tags=tags, run_name=args["name"])
    run_id = run.info.run_id
    try:
        _fill(client, run_id, args, model.model_id if model is not None else None)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    if version is not None:
        key = f"{PREFIX}{args['trial']['strategy']}"
        client.set_model_version_tag(version.name, version.version, f"{key}_run_id", run_id)
        verdict = args["tags"][f"{PREFIX}verdict"]
        client.set_model_version_tag(version.name, version.version, f"{key}_verdict", verdict)
    return {"run_id": run_id, "experiment_id": experiment}


def _fill(client: Any, run_id: str, args: Mapping[str, Any], model_id: str | None) -> None:
    """Log metrics, params and artifacts; with `model_id`, the metrics count for that logged model too."""
    from mlflow.entities import LoggedModelInput, Metric, Param

    trial, now = args["trial"], int(time.time() * 1000)
    found = [
        Metric(name, value, now, 0, model_id=model_id, run_id=run_id)
        for name, value in metrics_of(trial).items()
    ]
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in args["params"].items()])
    for first in range(0, len(found), MAX_METRICS):
        client.log_batch(run_id, metrics=found[first : first + MAX_METRICS])
    if model_id is not None:
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    client.log_dict(run_id, trial, REPORT_FILE)
    if worst := worst_rows(trial):
        # As `log_table`, which warns with some releases of pandas.
        client.log_dict(run_id, worst, WORST_FILE)
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": WORST_FILE, "type": "table"}]))


def _version(client: Any, uri: str, version: str | None) -> Any:
    """Return the registered version that was tried; None for a model that came from a run, or is gone."""
    from mlflow.store.artifact.utils.models import _parse_model_uri

    if version is None or not uri.startswith("models:/"):
        return None
    return _if_there(lambda: client.get_model_version(_parse_model_uri(uri).name, version))


def _model(client: Any, model_id: str | None) -> Any:
    """Return the logged model, if the tracking store has it."""
    return None if model_id is None else _if_there(lambda: client.get_logged_model(model_id))


def _experiment(client: Any, uri: str, version: Any, model: Any) -> str:
    """Return the id of the experiment in which the model was logged, else that of one of our own."""
    run_id = uri.removeprefix("runs:/").partition("/")[0] if uri.startswith("runs:/") else ""
    run_id = run_id or getattr(version, "run_id", None) or ""
    run = _if_there(lambda: client.get_run(run_id)) if run_id else None
    known = run.info.experiment_id if run is not None else getattr(model, "experiment_id", None)
    if known is not None:
        experiment = _if_there(lambda: client.get_experiment(known))
        if experiment is not None and experiment.lifecycle_stage == "active":
            return str(known)
    own = client.get_experiment_by_name(EXPERIMENT)
    return str(client.create_experiment(EXPERIMENT) if own is None else own.experiment_id)


def _if_there(get: Callable[[], Any]) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return get()
    except MlflowException as e:
        if e.error_code not in ABSENT:
            raise
        return None


def metrics_of(trial: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a report by the names of their metrics."""
    found: dict[str, Any] = {}
    for side in ("new", "old"):
        found.update({f"{side}.{name}": value for name, value in trial[side].items()})
    agreement = trial.get("agreement") or {"columns": {}}
    counts = ("rows", "agreed", "failed_new", "failed_old", "skipped", "unlike")
    found.update({name: agreement.get(name) for name in counts})
    if agreement.get("rows"):
        found["row_agreement"] = agreement["agreed"] / agreement["rows"]
    for name, column in agreement["columns"].items():
        shown = _metric_name(name, found)
        found[f"agreement/{shown}"] = column["agreed"] / column["compared"]
        if column["numbers"]:
            found[f"mean_difference/{shown}"] = column["total_difference"] / column["numbers"]
            found[f"max_difference/{shown}"] = column["max_difference"]
    return {name: float(value) for name, value in found.items() if value is not None}


def _metric_name(column: str, taken: Mapping[str, Any]) -> str:
    """Return the name of a column as metrics may have it, different from those that are taken."""
    name = re.sub(r"[^\w.\- ]", "_", column)[: MAX_NAME - 30].strip(". ") or "_"
    number = 1
    while f"agreement/{name}" in taken:
        number += 1
        name = f"{name.rpartition('~')[0] or name}~{number}"
    return name


def worst_rows(trial: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the rows that differ most, in the form of MLflow's tables; empty where there are none."""
    rows = (trial.get("agreement") or {}).get("worst", [])
    if not rows:
        return {}
    columns = ["difference", "old", "new", "input"]
    return {"columns": columns, "data": [[_cell(row.get(name)) for name in columns] for row in rows]}


def _cell(value: Any) -> str | float | None:
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)
