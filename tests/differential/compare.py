"""Says whether two answers are the same, differ as they may, or differ.

Equal means: same status, same content type, and the same JSON token for token (`1` is not `1.0`, `NaN` is `NaN`,
keys in their order), or the same bytes where the body is not JSON. White space and the escaping of characters in
JSON are not compared. What MLflow itself writes differently on every run (the order of a set inside a message, the
address of an object) is made the same first. Everything that may differ is one row of `ALLOWED`.
"""

from __future__ import annotations

import ast
import enum
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str | None
    body: bytes

    def __str__(self) -> str:
        body = self.body.decode("utf-8", "replace")
        return f"{self.status} {self.content_type} {body if len(body) < 1500 else body[:1500] + '...'}"


class Verdict(enum.Enum):
    EQUAL = "equal"
    ALLOWED = "allowed difference"
    DIFFERENT = "different"


@dataclass(frozen=True)
class Comparison:
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Token:
    """A JSON number or constant as it was written."""

    text: str


@dataclass(frozen=True)
class Pairs:
    """A JSON object: its keys in their order, repeated ones included."""

    items: tuple[tuple[str, Any], ...]


def parse(body: bytes) -> Any:
    return json.loads(
        body.decode("utf-8"),
        parse_int=Token,
        parse_float=Token,
        parse_constant=Token,
        object_pairs_hook=lambda items: Pairs(tuple(items)),
    )


# -- what changes from run to run in MLflow itself -------------------------------------------------------------------

ADDRESS = re.compile(r"\b0x[0-9a-f]{6,16}\b")
SET_OF_STRINGS = re.compile(r"\{'.*?'\}(?!\w)")
EXTRA_INPUTS = re.compile(r"(?<=extra inputs: )\[.*\](?=\.)", re.DOTALL)
INVALID_PARAMS = re.compile(r"(?<=Invalid parameters found: )\{.*\}", re.DOTALL)
COLUMN_OF_EMPTY_TENSOR = re.compile(
    r"(?<=Failed to convert column )\S+(?= to type '\w+'\. Error: 'IndexError)"
)
CONTENT_TYPE_PARAMETERS = re.compile(r"(?<=Unrecognized content type parameters: )[^.]*(?=\.)")


def sort_literal(found: re.Match[str]) -> str:
    """The set or list that MLflow printed, its items in one order; anything else as it is."""
    try:
        items = ast.literal_eval(found[0])
    except (ValueError, SyntaxError):
        return found[0]
    if not isinstance(items, set | list):
        return found[0]
    return found[0][0] + ", ".join(sorted(map(repr, items))) + found[0][-1]


def normalise_message(message: str) -> str:
    message = ADDRESS.sub("0x…", message)
    for pattern in (SET_OF_STRINGS, EXTRA_INPUTS, INVALID_PARAMS):
        message = pattern.sub(sort_literal, message)
    message = COLUMN_OF_EMPTY_TENSOR.sub("…", message)
    return CONTENT_TYPE_PARAMETERS.sub(lambda found: ", ".join(sorted(found[0].split(", "))), message)


def is_error(document: Any) -> bool:
    return isinstance(document, Pairs) and [key for key, _ in document.items][:2] == ["error_code", "message"]


def normalise_error(error: Pairs) -> Pairs:
    return Pairs(
        tuple(
            (key, normalise_message(value) if key == "message" and isinstance(value, str) else value)
            for key, value in error.items
        )
    )


@dataclass(frozen=True)
class Normalised:
    """An answer with nothing left in it that changes from run to run; `document` is text where it is not JSON."""

    status: int
    content_type: str | None
    document: Any


def normalise(answer: Answer) -> Normalised:
    try:
        document = parse(answer.body)
    except (ValueError, RecursionError):
        document = normalise_message(answer.body.decode("utf-8", "backslashreplace"))
    else:
        if is_error(document):
            document = normalise_error(document)
    return Normalised(answer.status, answer.content_type, document)


# -- what may differ -------------------------------------------------------------------------------------------------

JSON = "application/json"


def error_names(answer: Normalised) -> list[str]:
    return [key for key, _ in answer.document.items] if is_error(answer.document) else []


def is_json_error(answer: Normalised) -> bool:
    return (
        400 <= answer.status < 600
        and answer.content_type == JSON
        and is_error(answer.document)
        and all(isinstance(value, str) and value for _, value in answer.document.items[:2])
    )


def is_bare_500(answer: Normalised) -> bool:
    return answer.status == 500 and answer.document == "Internal Server Error"


def without_stack_trace(answer: Normalised) -> Normalised:
    kept = tuple((key, value) for key, value in answer.document.items if key != "stack_trace")
    return Normalised(answer.status, answer.content_type, Pairs(kept))


def mends_bare_500(reference: Normalised, subject: Normalised) -> bool:
    return is_bare_500(reference) and is_json_error(subject)


def withholds_stack_trace(reference: Normalised, subject: Normalised) -> bool:
    return "stack_trace" in error_names(reference) and without_stack_trace(reference) == subject


def says_404_or_405_its_own_way(reference: Normalised, subject: Normalised) -> bool:
    """FastAPI's own `{"detail": ...}` for a path or a method that MLflow does not have."""
    return (
        reference.status in (404, 405)
        and isinstance(reference.document, Pairs)
        and [key for key, _ in reference.document.items] == ["detail"]
        and reference.status == subject.status
        and is_json_error(subject)
    )


ALLOWED: dict[str, Callable[[Normalised, Normalised], bool]] = {
    "bare 500 became a JSON error": mends_bare_500,
    "stack trace withheld": withholds_stack_trace,
    "404 or 405 as a JSON error": says_404_or_405_its_own_way,
}

LAST_DIGITS = "last digits of a float"
RELATIVE_TOLERANCE = 1e-9


def is_float(value: Any) -> bool:
    return isinstance(value, Token) and any(mark in value.text for mark in ".eE")


def nearly_equal(one: Any, other: Any) -> bool:
    """The same documents but for the last digits of finite floats: the same sums, added in another order."""
    if isinstance(one, Pairs) and isinstance(other, Pairs):
        names = [key for key, _ in one.items] == [key for key, _ in other.items]
        return names and all(
            nearly_equal(a, b) for (_, a), (_, b) in zip(one.items, other.items, strict=True)
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(nearly_equal(a, b) for a, b in zip(one, other, strict=True))
    if is_float(one) and is_float(other):
        return math.isclose(float(one.text), float(other.text), rel_tol=RELATIVE_TOLERANCE)
    return bool(one == other)


def differs_in_last_digits(reference: Normalised, subject: Normalised) -> bool:
    same_head = (reference.status, reference.content_type) == (subject.status, subject.content_type)
    return same_head and reference.status == 200 and nearly_equal(reference.document, subject.document)


def compare(reference: Answer, subject: Answer, *, merged: bool = False) -> Comparison:
    """Compare the answer of `subject` with that of MLflow, `reference`.

    With `merged`, the subject may have scored the request together with others, and NumPy adds up a matrix product in
    an order that depends on the number of rows: floats may then differ by `RELATIVE_TOLERANCE`.
    """
    ours, theirs = normalise(subject), normalise(reference)
    if "stack_trace" in error_names(ours):
        return Comparison(Verdict.DIFFERENT, "a stack trace was sent")
    if ours == theirs:
        return Comparison(Verdict.EQUAL)
    for reason, allows in ALLOWED.items():
        if allows(theirs, ours):
            return Comparison(Verdict.ALLOWED, reason)
    if merged and differs_in_last_digits(theirs, ours):
        return Comparison(Verdict.ALLOWED, LAST_DIGITS)
    return Comparison(Verdict.DIFFERENT, first_difference(theirs, ours))


def without_own_trace(answer: Answer) -> Answer:
    """MLflow's own answer without its stack trace: what it must look like to stand in for ours."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return answer
    if not isinstance(document, dict) or "stack_trace" not in document:
        return answer
    del document["stack_trace"]
    return Answer(answer.status, answer.content_type, json.dumps(document).encode())


def first_difference(theirs: Normalised, ours: Normalised) -> str:
    if theirs.status != ours.status:
        return f"status {ours.status}, MLflow says {theirs.status}"
    if theirs.content_type != ours.content_type:
        return f"content type {ours.content_type!r}, MLflow says {theirs.content_type!r}"
    return "the bodies differ"
