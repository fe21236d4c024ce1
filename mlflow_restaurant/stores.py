"""What the server must know of the caller's MLflow: where the stores are, and how to get into them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mlflow_restaurant.errors import InvalidRequest, quoted

FORWARDED_PREFIXES = (
    "MLFLOW_",
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "DATABRICKS_",
    "HF_",
    "OCI_",
    "SSL_",
    "REQUESTS_",
)
FORWARDED = (
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "CURL_CA_BUNDLE",
)
OF_A_RUN = (
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "MLFLOW_ACTIVE_MODEL_ID",
    "_MLFLOW_ACTIVE_MODEL_ID",
)
"""What MLflow sets in a process that logs a run; it means nothing to a server, and may not even be in its store."""
OWN_PREFIX = "MLFLOW_RESTAURANT_"
SQLITE = "sqlite:///"
NAMED_STORES = ("databricks", "databricks-uc", "uc")


def absolute_uri(uri: str) -> str:
    """Return `uri` with a relative path made absolute: the server runs in another directory."""
    if not uri:
        return uri
    if uri.startswith(SQLITE):
        path, mark, query = uri[len(SQLITE) :].partition("?")
        return uri if path.startswith("/") or not path else f"{SQLITE}{Path(path).absolute()}{mark}{query}"
    try:
        parts = urlsplit(uri)
    except ValueError as e:
        raise InvalidRequest(f"{quoted(uri)} is no URI: {e}.") from None
    if parts.scheme == "file" and not parts.netloc and not parts.path.startswith("/"):
        return Path(parts.path).absolute().as_uri()
    if not parts.scheme:
        return str(Path(uri).expanduser().absolute())
    return uri


def without_password(uri: str) -> str:
    """Return a URI without the user and password that it may hold."""
    head, mark, rest = uri.partition("://")
    place, slash, path = rest.partition("/")
    return f"{head}{mark}{place.rpartition('@')[2]}{slash}{path}" if mark else uri


def absolute_store_uri(uri: str) -> str:
    """Return the URI of a tracking or registry store, absolute as `absolute_uri` makes it."""
    return uri if uri in NAMED_STORES else absolute_uri(uri)


def forwarded_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that MLflow's stores may need: servers, tokens, credentials, proxies."""
    return {
        name: value
        for name, value in environ.items()
        if (name.startswith(FORWARDED_PREFIXES) or name in FORWARDED)
        and not name.startswith(OWN_PREFIX)
        and name not in OF_A_RUN
    }
