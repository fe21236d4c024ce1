"""From what `mlflow.pyfunc` takes as input to the body of a scoring request. Pure.

Form: MLflow's scoring protocol, https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/.
"""

from __future__ import annotations

import decimal
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlflow_restaurant.errors import InvalidRequest

if TYPE_CHECKING:
    import pandas as pd

PROTOCOL_KEYS = ("dataframe_split", "dataframe_records", "instances", "inputs")
PARAMS_KEY = "params"


def scoring_payload(inputs: Any) -> dict[str, Any]:
    """Return the JSON object that asks for predictions of `inputs`.

    Args:
        inputs: DataFrame or Series (rows), ndarray of any shape, CSC or CSR matrix of shape (rows, columns), list,
            string, or a dict: of column name to values, or already in the form of the scoring protocol.

    Raises:
        InvalidRequest: `inputs` is of another type.
    """
    import numpy as np
    import pandas as pd

    if isinstance(inputs, pd.Series):
        inputs = pd.DataFrame(inputs)
    if isinstance(inputs, pd.DataFrame):
        return undo_read_json(inputs) or {"dataframe_split": _split(inputs)}
    if isinstance(inputs, np.ndarray):
        return {"inputs": inputs.tolist()}
    if isinstance(inputs, Mapping):
        return dict(inputs) if is_protocol(inputs) else {"inputs": dict(inputs)}
    if hasattr(inputs, "tocsr") and hasattr(inputs, "toarray"):
        return {"inputs": inputs.toarray().tolist()}
    if isinstance(inputs, (list, tuple, str)):
        return {"inputs": inputs}
    raise InvalidRequest(
        f"Inputs of type {type(inputs).__name__} can't be sent; give a DataFrame, Series, ndarray, sparse matrix,"
        " dict or list."
    )


def dump(payload: Mapping[str, Any]) -> bytes:
    """Return the body of a scoring request; numpy and pandas values become what MLflow's server reads back.

    Raises:
        InvalidRequest: a value can't be written as JSON.
    """
    import pandas as pd
    from mlflow.utils.proto_json_utils import NumpyEncoder

    class Encoder(NumpyEncoder):  # type: ignore[misc]
        def default(self, o: Any) -> Any:
            if o is pd.NA:
                return None
            if isinstance(o, decimal.Decimal):
                return float(o)
            return super().default(o)

    try:
        return json.dumps(payload, cls=Encoder).encode()
    except (TypeError, ValueError) as e:
        raise InvalidRequest(f"The inputs can't be written as JSON: {e}.") from None


def is_protocol(inputs: Mapping[str, Any]) -> bool:
    """Tell whether a dict is a scoring request already, rather than columns."""
    keys = set(inputs)
    return len(keys & set(PROTOCOL_KEYS)) == 1 and keys <= {*PROTOCOL_KEYS, PARAMS_KEY}


def _split(frame: pd.DataFrame) -> dict[str, Any]:
    import pandas as pd

    split: dict[str, Any] = frame.to_dict(orient="split")
    if isinstance(frame.index, pd.RangeIndex):
        del split["index"]
    return split


def undo_read_json(frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return the scoring request that ``pd.read_json`` made this frame of, or None when it is a table.

    ``mlflow deployments predict -I FILE`` reads every file as a table of columns. A file in a form of the scoring
    protocol comes out as one column named after that form (and perhaps one named ``params``), its keys as the index.
    """
    columns = [str(c) for c in frame.columns]
    form = next((c for c in columns if c in PROTOCOL_KEYS), None)
    if form is None or set(columns) - {form, PARAMS_KEY}:
        return None
    request: dict[str, Any] = {}
    for column in columns:
        values = frame[column]
        if isinstance(frame.index[0] if len(frame) else 0, str):
            request[column] = {key: value for key, value in values.items() if not _absent(value)}
        else:
            request[column] = values.tolist()
    return request if _could_be_protocol(form, request) else None


def _could_be_protocol(form: str, request: Mapping[str, Any]) -> bool:
    content = request[form]
    if form == "dataframe_split" and not isinstance(content, dict):
        return False
    if form == "dataframe_records" and not (
        isinstance(content, list) and all(isinstance(r, dict) for r in content)
    ):
        return False
    return isinstance(request.get(PARAMS_KEY, {}), dict)


def _absent(value: Any) -> bool:
    return isinstance(value, float) and value != value
