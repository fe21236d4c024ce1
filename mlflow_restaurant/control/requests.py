"""What commands ask for, and what is refused before anything has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_restaurant.config import ChangeOptions
from mlflow_restaurant.control.schemas import schema_changes
from mlflow_restaurant.entities import ModelArtifact, check_name
from mlflow_restaurant.errors import Conflict, InvalidRequest, one_line

Request = Mapping[str, Any]


def endpoint_name(request: Request) -> str | None:
    """Return the endpoint that a request names, if any.

    Raises:
        InvalidRequest: no endpoint can have such a name.
    """
    endpoint = request.get("endpoint")
    return None if endpoint is None else check_name(endpoint, "an endpoint")


def model_uri(request: Request) -> str:
    """Return the model URI that a request names.

    Raises:
        InvalidRequest: it names none.
    """
    uri = request.get("model_uri")
    if not isinstance(uri, str) or not uri:
        raise InvalidRequest("A model URI is needed, such as models:/NAME@ALIAS, runs:/RUN/NAME or a path.")
    return uri


def refuse_beside_rollback(request: Request, options: Mapping[str, Any]) -> None:
    """Refuse a model or settings that are given together with a rollback.

    Raises:
        InvalidRequest: there are some.
    """
    settings = [key for key in options if key not in ChangeOptions.model_fields]
    if request.get("model_uri"):
        settings.insert(0, "a model URI")
    if settings:
        raise InvalidRequest(
            f"A rollback brings back an earlier revision's model and settings: give no other ({settings[0]})."
        )


def refuse_other_input(name: str, old: ModelArtifact, new: ModelArtifact) -> None:
    """Refuse a model whose input is not that of the one that serves.

    Raises:
        Conflict: it differs in a way that callers would notice.
    """
    changes = schema_changes(old.signature, new.signature)
    if changes:
        raise Conflict(
            f"Callers of deployment '{name}' would notice: {one_line('; '.join(changes))}. Log the model with the"
            " signature of the one that serves, or let it change with -C allow_schema_change=true."
        )
