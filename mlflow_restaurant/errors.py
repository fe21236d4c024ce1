"""The errors of this package, as one tree.

::

    RestaurantError                 INTERNAL_ERROR            500
    ├── InvalidRequest              INVALID_PARAMETER_VALUE   400
    ├── AlreadyExists               RESOURCE_ALREADY_EXISTS   400
    ├── DoesNotExist                RESOURCE_DOES_NOT_EXIST   404
    ├── Conflict                    RESOURCE_CONFLICT         409
    ├── BodyTooLarge                BAD_REQUEST               413
    ├── HeadersTooLarge             BAD_REQUEST               431
    ├── RequestTimeout              DEADLINE_EXCEEDED         408
    ├── Unavailable                 TEMPORARILY_UNAVAILABLE   503
    │   └── QueueFull               REQUEST_LIMIT_EXCEEDED    503
    ├── DeadlineExceeded            DEADLINE_EXCEEDED         504
    ├── DeployFailed                INTERNAL_ERROR            500
    ├── Cancelled                   CANCELLED                 499
    └── HomeError                   INVALID_STATE             500
        └── Unresponsive            INVALID_STATE             500

Each class carries its MLflow error code (a name of ``mlflow.protos.databricks_pb2.ErrorCode``) and the HTTP
status it becomes. Nothing here imports MLflow or a web framework: the gateway answers errors without them.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import ClassVar

WRITING_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows."""


class RestaurantError(Exception):
    """Something went wrong that the message explains in one sentence, with what to do about it."""

    error_code: ClassVar[str] = "INTERNAL_ERROR"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def to_json(self) -> dict[str, str]:
        """Return the error in MLflow's form: ``{"error_code": ..., "message": ...}``."""
        return {"error_code": self.error_code, "message": self.message}


class InvalidRequest(RestaurantError):
    """The caller asked for something that can't be: a wrong name, type, value or combination."""

    error_code = "INVALID_PARAMETER_VALUE"
    http_status = 400


class AlreadyExists(RestaurantError):
    """The name is taken."""

    error_code = "RESOURCE_ALREADY_EXISTS"
    http_status = 400


class DoesNotExist(RestaurantError):
    """There is no deployment, endpoint, model or path of that name."""

    error_code = "RESOURCE_DOES_NOT_EXIST"
    http_status = 404


class Conflict(RestaurantError):
    """The change does not fit what is there now; the message says what has to change first."""

    error_code = "RESOURCE_CONFLICT"
    http_status = 409


class BodyTooLarge(RestaurantError):
    """The body of a request is larger than the deployment's ``max_body_mb``."""

    error_code = "BAD_REQUEST"
    http_status = 413


class HeadersTooLarge(RestaurantError):
    """The headers of a request are larger than the gateway reads."""

    error_code = "BAD_REQUEST"
    http_status = 431


class RequestTimeout(RestaurantError):
    """The headers of a request, or its body within the deployment's ``timeout_s``, did not arrive in time."""

    error_code = "DEADLINE_EXCEEDED"
    http_status = 408


class Unavailable(RestaurantError):
    """No replica can answer now; the caller may try again after ``retry_after_s`` seconds."""

    error_code = "TEMPORARILY_UNAVAILABLE"
    http_status = 503

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Unavailable):
    """As many requests wait as the deployment's ``max_queue`` allows."""

    error_code = "REQUEST_LIMIT_EXCEEDED"


class DeadlineExceeded(RestaurantError):
    """The model did not answer within the deployment's ``timeout_s``."""

    error_code = "DEADLINE_EXCEEDED"
    http_status = 504


class DeployFailed(RestaurantError):
    """A revision did not come into service; the message carries the replica's own error."""


class Cancelled(RestaurantError):
    """The operation was given up because its caller went away or a later command overtook it."""

    error_code = "CANCELLED"
    http_status = 499


class HomeError(RestaurantError):
    """The server's home directory, its database or its port can't be used."""

    error_code = "INVALID_STATE"


class Unresponsive(HomeError):
    """The server's process is there and takes commands, but answers none."""


def _tree(cls: type[RestaurantError]) -> Iterable[type[RestaurantError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _tree(sub)


def from_json(payload: dict[str, str], http_status: int) -> RestaurantError:
    """Rebuild the error that another process sent; an unknown one becomes a ``RestaurantError``."""
    code, message = payload.get("error_code", ""), payload.get("message", "")
    for cls in _tree(RestaurantError):
        if (cls.error_code, cls.http_status) == (code, http_status):
            return cls(message)
    return RestaurantError(message or f"The server answered with status {http_status}.")


def one_line(text: object, limit: int = 500) -> str:
    """Return `text` on one line, not longer than `limit` characters, and without what terminals take for commands."""
    line = " ".join(str(text).split())
    shown = "".join("\N{REPLACEMENT CHARACTER}" if _moves_text(c) else c for c in line)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _moves_text(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in WRITING_DIRECTIONS


def quoted(value: object, limit: int = 60) -> str:
    """Return `value` as Python writes it, cut to about `limit` characters: one line, whatever is in it."""
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[: limit - 4]}...{shown[-1]}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known word nearest to `word`, or the list of known words."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(words)}."
