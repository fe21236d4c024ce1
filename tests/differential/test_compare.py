"""A real difference is reported, and nothing else is."""

from __future__ import annotations

import json

import pytest

from .compare import LAST_DIGITS, Answer, Verdict, compare, without_own_trace

JSON = "application/json"


def ok(body: str) -> Answer:
    return Answer(200, JSON, body.encode())


def error(status: int = 400, **more: object) -> Answer:
    document = {"error_code": "BAD_REQUEST", "message": "no", **more}
    return Answer(status, JSON, json.dumps(document).encode())


BARE_500 = Answer(500, "text/plain; charset=utf-8", b"Internal Server Error")
NOT_FOUND = Answer(404, JSON, b'{"detail":"Not Found"}')


@pytest.mark.parametrize(
    "body",
    [
        '{"predictions": [1, 2.5, "a", null]}',
        '{"predictions": [NaN, Infinity]}',
        "\n",
        "3.17.2",
        "",
        "not JSON",
    ],
)
def test_same_answers_are_equal(body: str) -> None:
    assert compare(ok(body), ok(body)).verdict is Verdict.EQUAL


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ('{"predictions": [1, 2]}', '{"predictions":[1,2]}'),
        (r'{"predictions": ["\u00e9"]}', '{"predictions": ["é"]}'),
    ],
)
def test_white_space_and_escapes_are_not_compared(reference: str, subject: str) -> None:
    assert compare(ok(reference), ok(subject)).verdict is Verdict.EQUAL


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ("[1]", "[1.0]"),
        ("[1]", '["1"]'),
        ("[1]", "[true]"),
        ("[1.0]", "[1e0]"),
        ("[0.0]", "[-0.0]"),
        ("[NaN]", "[null]"),
        ("[NaN]", '["NaN"]'),
        ("[Infinity]", "[1e999]"),
        ("[0.1]", "[0.10000000000000002]"),
        ("[1, 2]", "[2, 1]"),
        ("[1]", "[1, 1]"),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'),
        ('{"a": 1}', '{"a": 1, "a": 1}'),
        ("[]", "{}"),
        ("[]", "null"),
        ('["a"]', '["b"]'),
        ("[1]", "not JSON"),
        ("\n", ""),
        ("3.17.2", "3.17.3"),
    ],
)
def test_other_bodies_differ(reference: str, subject: str) -> None:
    assert compare(ok(reference), ok(subject)).verdict is Verdict.DIFFERENT


def test_another_status_differs() -> None:
    comparison = compare(error(400), error(404))
    assert comparison.verdict is Verdict.DIFFERENT
    assert comparison.reason == "status 404, MLflow says 400"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json; charset=utf-8"])
def test_another_content_type_differs(content_type: str | None) -> None:
    comparison = compare(ok("[1]"), Answer(200, content_type, b"[1]"))
    assert comparison.verdict is Verdict.DIFFERENT
    assert "content type" in comparison.reason


@pytest.mark.parametrize(
    "changed", [{"message": "yes"}, {"error_code": "INTERNAL_ERROR"}, {"more": 1}, {"message": ""}]
)
def test_another_error_differs(changed: dict[str, object]) -> None:
    assert compare(error(), error(400, **changed)).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ("one of {'inputs', 'instances'}. Received", "one of {'instances', 'inputs'}. Received"),
        ("extra inputs: ['a', 'b'].", "extra inputs: ['b', 'a']."),
        ("""extra inputs: ['a, "]', 'b'].""", """extra inputs: ['b', 'a, "]']."""),
        (
            "Unrecognized content type parameters: a, b. More",
            "Unrecognized content type parameters: b, a. More",
        ),
        (
            """Invalid parameters found: {('a', "no 'x'"), ('b', 'no')}""",
            """Invalid parameters found: {('b', 'no'), ('a', "no 'x'")}""",
        ),
        (
            "Failed to convert column a to type 'float32'. Error: 'IndexError('none')'",
            "Failed to convert column b to type 'float32'. Error: 'IndexError('none')'",
        ),
        ("<object at 0x7f1234567890>", "<object at 0x7fabcdef0123>"),
    ],
)
def test_what_changes_from_run_to_run_is_equal(reference: str, subject: str) -> None:
    assert compare(error(message=reference), error(message=subject)).verdict is Verdict.EQUAL
    plain = [Answer(415, "text/plain; charset=utf-8", text.encode()) for text in (reference, subject)]
    assert compare(*plain).verdict is Verdict.EQUAL


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ("one of {'inputs', 'instances'}", "one of {'inputs', 'predictions'}"),
        ("one of {'a', 'b'}", "one of {'a'}"),
        ("extra inputs: ['a', 'b'].", "extra inputs: ['a', 'c']."),
        (
            "Failed to convert column a to type 'float32'. Error: 'ValueError('none')'",
            "Failed to convert column b to type 'float32'. Error: 'ValueError('none')'",
        ),
        ("missing inputs ['a', 'b']", "missing inputs ['b', 'a']"),
        ("{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}"),
        ("value 0x10", "value 0x11"),
    ],
)
def test_messages_that_say_something_else_differ(reference: str, subject: str) -> None:
    assert compare(error(message=reference), error(message=subject)).verdict is Verdict.DIFFERENT


def test_predictions_are_not_normalised() -> None:
    reference, subject = ok("""["{'a', 'b'}"]"""), ok("""["{'b', 'a'}"]""")
    assert compare(reference, subject).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("status", [400, 415, 500, 503])
def test_a_bare_500_may_become_a_json_error(status: int) -> None:
    comparison = compare(BARE_500, error(status))
    assert comparison.verdict is Verdict.ALLOWED
    assert comparison.reason == "bare 500 became a JSON error"


@pytest.mark.parametrize(
    "subject",
    [
        ok('{"predictions": [1]}'),
        error(302),
        error(message=""),
        error(message=None),
        Answer(500, "text/plain", b'{"error_code": "INTERNAL_ERROR", "message": "no"}'),
        Answer(500, JSON, b'{"message": "no"}'),
        Answer(500, JSON, b"Internal Server Error"),
    ],
)
def test_a_bare_500_may_become_nothing_else(subject: Answer) -> None:
    assert compare(BARE_500, subject).verdict is Verdict.DIFFERENT


def test_a_json_500_must_stay_what_it_is() -> None:
    assert compare(error(500), error(400)).verdict is Verdict.DIFFERENT


def test_a_stack_trace_may_be_withheld() -> None:
    comparison = compare(error(stack_trace="Traceback"), error())
    assert comparison.verdict is Verdict.ALLOWED
    assert comparison.reason == "stack trace withheld"


def test_a_stack_trace_may_not_be_withheld_with_more() -> None:
    assert compare(error(stack_trace="Traceback", a=1), error()).verdict is Verdict.DIFFERENT
    assert compare(error(stack_trace="Traceback"), error(message="other")).verdict is Verdict.DIFFERENT
    assert compare(error(stack_trace="Traceback"), error(404)).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("reference", [error(stack_trace="Traceback"), error(), BARE_500])
def test_a_stack_trace_may_never_be_sent(reference: Answer) -> None:
    comparison = compare(reference, error(stack_trace="Traceback"))
    assert comparison.verdict is Verdict.DIFFERENT
    assert comparison.reason == "a stack trace was sent"


def test_a_missing_path_may_be_said_in_another_way() -> None:
    comparison = compare(NOT_FOUND, error(404))
    assert comparison.verdict is Verdict.ALLOWED
    assert comparison.reason == "404 or 405 as a JSON error"


@pytest.mark.parametrize("subject", [error(405), error(400), ok("[]"), Answer(404, "text/plain", b"no")])
def test_a_missing_path_keeps_its_status(subject: Answer) -> None:
    assert compare(NOT_FOUND, subject).verdict is Verdict.DIFFERENT


def test_a_models_own_404_must_stay_what_it_is() -> None:
    assert compare(error(404), error(404, message="other")).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ("[0.1]", "[0.10000000000000002]"),
        ('{"p": [[1.5e-10, "a"]]}', '{"p": [[1.50000000000000001e-10, "a"]]}'),
    ],
)
def test_last_digits_may_differ_when_merged(reference: str, subject: str) -> None:
    assert compare(ok(reference), ok(subject)).verdict is Verdict.DIFFERENT
    comparison = compare(ok(reference), ok(subject), merged=True)
    assert comparison.verdict is Verdict.ALLOWED
    assert comparison.reason == LAST_DIGITS


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ("[0.1]", "[0.1000001]"),
        ("[1.0]", "[1]"),
        ("[1]", "[2]"),
        ("[0.1]", "[0.1, 0.1]"),
        ('{"a": 0.1}', '{"b": 0.1}'),
        ('["0.1"]', '["0.10000000000000002"]'),
    ],
)
def test_more_than_last_digits_may_not_differ_when_merged(reference: str, subject: str) -> None:
    assert compare(ok(reference), ok(subject), merged=True).verdict is Verdict.DIFFERENT


def test_an_answer_without_its_stack_trace() -> None:
    assert without_own_trace(error(stack_trace="Traceback")) == error()
    for answer in (ok("[1]"), ok("\n"), BARE_500, error()):
        assert without_own_trace(answer) == answer


def test_an_answer_says_what_it_is_in_short() -> None:
    assert str(ok("[1]")) == "200 application/json [1]"
    assert str(ok("x" * 5000)).endswith("x...")
