"""Shorter ways through MLflow's scoring for the commonest requests, with the same answers.

MLflow's way from the bytes of a request to the call of the model takes several times as long as the call itself:
pandas guesses the type of each column value by value, MLflow casts the columns one by one, then checks and copies
them once more. Where the signature names the type of every column and every value of the request is plainly of its
column's type, the table that comes out is known beforehand and is built at once. Each shortcut says why its result
is the same; whatever is not covered by such a reason goes MLflow's own way, as do errors, in MLflow's own words.

`knows_mlflow` tries all shortcuts beside the functions of the installed MLflow (see `trial`); where anything comes
out differently, `shortcuts` returns None, and MLflow does all the work.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models.utils import _enforce_params_schema
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.context import Context, set_prediction_context
from mlflow.utils.proto_json_utils import _get_jsonable_obj

from mlflow_restaurant.replica.inputs import FORMATS, NotCovered, Table, inputs_of

JSON_TYPE = "application/json"
PARAMS = "params"

PLAIN = frozenset({str, int, float, bool, type(None)})
PLAIN_ARRAYS = "?bhilqBHILQefdU"
"""Type codes of numpy's booleans, integers, floats (not the long ones) and texts."""


# -- predictions -----------------------------------------------------------------------------------------------------


def is_plain(items: Any) -> bool:
    """Tell whether a list holds nothing but what JSON has, in rows of a table at most."""
    if type(items) is not list:
        return False
    kinds = set(map(type, items))
    if kinds == {dict}:
        return all(
            set(map(type, row)) <= {str} and PLAIN.issuperset(map(type, row.values())) for row in items
        )
    return kinds <= PLAIN


def is_plain_array(raw: Any) -> bool:
    """Tell whether an array becomes a list of Python's own numbers and texts, however nested."""
    return type(raw) is np.ndarray and raw.dtype.char in PLAIN_ARRAYS


def written(raw: Any) -> str:
    """Return the JSON text of predictions, as `predictions_to_json` writes it.

    That one walks through every item in Python, because ``json.dump`` to a file has no other way. ``json.dumps`` has
    the same rules in C; they differ in nothing for values that need no conversion by MLflow's encoder.
    """
    if is_plain_array(raw):
        return json.dumps({"predictions": raw.tolist()})
    if isinstance(raw, np.ndarray | pd.DataFrame | pd.Series | list):
        raw = _get_jsonable_obj(raw, pandas_orient="records")
        if is_plain(raw):
            return json.dumps({"predictions": raw})
    out = StringIO()
    scoring_server.predictions_to_json(raw, out)
    return out.getvalue()


# -- the whole way ---------------------------------------------------------------------------------------------------


class Failing:
    """Stands in for a model that has failed, so that MLflow words the error without a second call of the model."""

    def __init__(self, metadata: Any, error: Exception) -> None:
        self.metadata, self.error = metadata, error

    def predict(self, data: Any, params: Any = None) -> Any:
        raise self.error


class Shortcuts:
    """Scores JSON with one model; `predict` calls the model with what was built from a request."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.schema = model.metadata.get_input_schema()
        self.params_schema = model.metadata.get_params_schema()
        self.inputs = inputs_of(model)
        self.takes_params = _takes_params(model._predict_fn)
        # What `PyFuncModel.predict` leaves behind in the model.
        model.input_schema, model.params_schema = self.schema, self.params_schema

    @property
    def tells_requests_apart(self) -> bool:
        """Whether requests may be put together in whose texts other values are missing (see `texts`)."""
        return self.inputs.text_as_objects

    def score(self, body: bytes, counts: Sequence[int] | None = None) -> Any:
        """Return the answer to a JSON body as MLflow's `InvocationsResponse`.

        Args:
            body: of one request, or of several that were put together.
            counts: rows of each of these, where a null among texts is to be what it is in its own request.

        Raises:
            NotCovered: with `counts`, where only MLflow knows what to make of it: each request must come alone.
            Exception: what MLflow's `invocations` raises.
        """
        data: Any = body
        try:
            data = json.loads(body)
            built, params = self._understood(data, counts)
        except Exception:  # whatever it is, MLflow finds its own words for it, or an answer
            if counts is not None:
                raise NotCovered from None
            return self._by_mlflow(data if type(data) is dict else body)
        try:
            raw = self.predict(built, params)
        except Exception as e:
            if counts is None and self.inputs.text_as_objects:  # the error may tell the types of the columns
                return self._by_mlflow(data)
            failed = Failing(self.model.metadata, e)
            return scoring_server.invocations(data, JSON_TYPE, failed, self.schema)
        return scoring_server.InvocationsResponse(written(raw), 200, JSON_TYPE)

    def predict(self, built: Any, params: Any) -> Any:
        """Call the model as `PyFuncModel.predict` does once it has enforced the schema, or let it do that first."""
        if not self.inputs.enforced:
            return self.model.predict(built, params=params)
        if isinstance(self.inputs, Table) and self.inputs.as_array:
            try:
                return self._predict(built, params)
            except Exception:  # the table gives the error that MLflow tells
                built = self.inputs.frame(built)
        return self._predict(built, params)

    def _predict(self, built: Any, params: Any) -> Any:
        context = Context()
        if self.model.model_id:
            context.update(model_id=self.model.model_id)
        with set_prediction_context(context):
            if self.takes_params:
                return self.model._predict_fn(built, params=params)
            return self.model._predict_fn(built)

    def _by_mlflow(self, data: Any) -> Any:
        return scoring_server.invocations(data, JSON_TYPE, self.model, self.schema)

    def _understood(self, document: Any, counts: Sequence[int] | None = None) -> tuple[Any, Any]:
        if type(document) is not dict or not document.keys() <= FORMATS | {PARAMS}:
            raise NotCovered
        params = document.get(PARAMS)
        if self.inputs.enforced and params and not self.takes_params:
            raise NotCovered  # MLflow says in the log that they are ignored, which `_enforce_params_schema` does not
        forms = [key for key in document if key != PARAMS]
        if len(forms) != 1:
            raise NotCovered
        built = self.inputs.build(forms[0], document[forms[0]], counts)
        return built, _enforce_params_schema(params, self.params_schema) if self.inputs.enforced else params


def _takes_params(predict: Any) -> bool:
    parameter = inspect.signature(predict).parameters.get(PARAMS)
    return parameter is not None and parameter.kind is not inspect.Parameter.VAR_KEYWORD


def shortcuts(model: Any) -> Shortcuts | None:
    """Return the shortcuts for a model that was loaded, or None where there are none."""
    from mlflow_restaurant.replica import texts, trial

    try:
        if not trial.knows_mlflow():
            return None
        found = Shortcuts(model)
        found.inputs.text_as_objects = texts.are_told_apart(found)
        return found
    except Exception:  # of an MLflow that has changed, or of a model that is not covered
        return None
