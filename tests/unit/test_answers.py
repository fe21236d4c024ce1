"""Answers: successes go through byte for byte, and what MLflow's server does badly is mended."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_restaurant.errors import DoesNotExist, InvalidRequest, QueueFull, Unavailable
from mlflow_restaurant.gateway.answers import MAX_LOGGED, Reply, error_reply
from mlflow_restaurant.gateway.answers import mend as mend_below
from mlflow_restaurant.gateway.upstream import ORIGIN, Answer

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
JSON = [(b"content-type", b"application/json")]
header_lists = st.lists(
    st.tuples(st.sampled_from([b"a", b"content-type", b"set-cookie"]), st.binary(max_size=5))
)


def mend(answer: Answer) -> Reply:
    return mend_below(answer, "/deployments/d")


class TestErrors:
    def test_the_form_of_mlflow(self) -> None:
        reply = error_reply(DoesNotExist("There is no deployment 'x' here."))

        assert (reply.status, reply.headers) == (404, JSON)
        assert json.loads(reply.body) == {
            "error_code": "RESOURCE_DOES_NOT_EXIST",
            "message": "There is no deployment 'x' here.",
        }

    @pytest.mark.parametrize("error", [Unavailable("x", retry_after_s=3), QueueFull("x", retry_after_s=3)])
    def test_who_may_come_again_is_told_when(self, error: Unavailable) -> None:
        assert (b"retry-after", b"3") in error_reply(error).headers

    def test_who_should_not_come_again_is_told_nothing_of_it(self) -> None:
        assert error_reply(InvalidRequest("x")).headers == JSON


class TestMend:
    @unhurried
    @given(st.integers(200, 399), header_lists, st.binary())
    def test_a_success_goes_through_byte_for_byte(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        reply = mend(Answer(status, headers, body))

        assert (reply.status, reply.headers, reply.body, reply.log) == (status, headers, body, "")

    def test_numbers_that_are_no_json_stay(self) -> None:
        body = b'{"predictions": [NaN, Infinity, -Infinity], "stack_trace": "x"}'

        assert mend(Answer(200, JSON, body)).body == body

    @pytest.mark.parametrize("status", [400, 404, 500])
    def test_a_stack_trace_goes_to_the_log(self, status: int) -> None:
        body = json.dumps({"error_code": "BAD_REQUEST", "message": "no ä", "stack_trace": "Traceback\nx"})

        reply = mend(Answer(status, [*JSON, (b"x-a", b"1")], body.encode()))

        assert json.loads(reply.body) == {"error_code": "BAD_REQUEST", "message": "no ä"}
        assert (reply.status, reply.headers, reply.log) == (status, [*JSON, (b"x-a", b"1")], "Traceback\nx")

    @pytest.mark.parametrize("headers", [[], [(b"content-type", b"text/plain; charset=utf-8")]])
    def test_a_bare_text_500_becomes_json(self, headers: list[tuple[bytes, bytes]]) -> None:
        reply = mend(Answer(500, headers, b"Internal Server Error \xff"))

        payload = json.loads(reply.body)
        assert reply.status == 500
        assert reply.headers == JSON
        assert payload["error_code"] == "INTERNAL_ERROR"
        assert payload["message"]
        assert "Internal Server Error" in reply.log

    def test_a_json_500_keeps_its_message(self) -> None:
        headers = [(b"content-type", b"application/json; charset=utf-8")]
        body = b'{"error_code": "INTERNAL_ERROR", "message": "why"}'

        assert mend(Answer(500, headers, body)).body == body

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"not json",
            b'"stack_trace"',
            b'["stack_trace"]',
            b'{"message": "the \\"stack_trace\\" key"}',
            b'{"message": ["stack_trace"], "x": {"stack_trace": 1}}',
            b'{"stack_trace": ' + b"[" * 100_000,
            b'\xff{"stack_trace": 1}',
        ],
    )
    def test_an_error_that_is_no_error_of_mlflow_goes_through(self, body: bytes) -> None:
        reply = mend(Answer(400, JSON, body))

        assert (reply.status, reply.headers, reply.body) == (400, JSON, body)
        assert reply.log == body[:MAX_LOGGED].decode("utf-8", "replace")

    @unhurried
    @given(st.integers(400, 599), header_lists, st.binary() | st.just(b'{"stack_trace": null}'))
    def test_nothing_breaks_it_and_the_status_stays(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        assert mend(Answer(status, headers, body)).status == status


class TestRedirections:
    def test_one_of_the_replica_leads_below_the_path_that_the_caller_knows(self) -> None:
        answer = Answer(307, [(b"location", f"{ORIGIN}/ping?x=1".encode()), (b"x-a", b"1")], b"")

        assert mend(answer).headers == [(b"location", b"/deployments/d/ping?x=1"), (b"x-a", b"1")]

    @pytest.mark.parametrize("elsewhere", [b"https://example.com/", b"/relative"])
    def test_one_to_elsewhere_stays(self, elsewhere: bytes) -> None:
        assert mend(Answer(302, [(b"location", elsewhere)], b"")).headers == [(b"location", elsewhere)]
