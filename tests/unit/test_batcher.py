"""Batches: who goes together, and that everyone is answered once with their own answer, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_restaurant.entities import BatchRoute, DeploymentRoute, ReplicaRoute
from mlflow_restaurant.errors import DeadlineExceeded, DoesNotExist, QueueFull, RestaurantError, Unavailable
from mlflow_restaurant.gateway import metrics
from mlflow_restaurant.gateway.answers import Reply
from mlflow_restaurant.gateway.batcher import Batcher
from mlflow_restaurant.gateway.calls import Batch, Call, Outcome
from mlflow_restaurant.gateway.dispatch import Dispatcher, Slots
from mlflow_restaurant.gateway.queue import MAX_BATCH_BYTES
from mlflow_restaurant.gateway.upstream import (
    Answer,
    ConnectFailed,
    ConnectionBroken,
    Hanging,
    Headers,
    Message,
)
from mlflow_restaurant.process.merging import APART, NEVER
from mlflow_restaurant.process.protocol import AT_ONCE

LONG_S = 60.0
JSON: Headers = [(b"content-type", b"application/json")]


def route(
    *keys: str,
    revision: int = 1,
    max_queue: int = 100,
    timeout_s: float = LONG_S,
    max_rows: int = 100,
    wait_ms: float = 0,
    merging: bool = True,
    columns: dict[str, str] | None = None,
    tells_requests_apart: bool = False,
) -> DeploymentRoute:
    batch = BatchRoute(
        max_rows=max_rows,
        wait_ms=wait_ms,
        columns=columns or {"x": "double"},
        tells_requests_apart=tells_requests_apart,
    )
    return DeploymentRoute(
        name="d",
        revision=revision,
        timeout_s=timeout_s,
        max_queue=max_queue,
        max_body_mb=1,
        batch=batch if merging else None,
        replicas=tuple(ReplicaRoute(key=key, socket=f"/{key}") for key in keys),
    )


def request(*values: Any) -> bytes:
    return json.dumps({"dataframe_split": {"columns": ["x"], "data": [[value] for value in values]}}).encode()


def values_of(body: bytes) -> list[Any]:
    return [row[0] for row in json.loads(body)["dataframe_split"]["data"]]


def answered(body: bytes) -> Answer:
    """Answer as MLflow's server would for a model that doubles, and fails on what is negative."""
    values = values_of(body)
    if any(value is None or value < 0 for value in values):
        return Answer(400, [(b"content-type", b"application/json")], b'{"error_code": "BAD_REQUEST"}')
    answer = json.dumps({"predictions": [2 * value for value in values]}).encode()
    return Answer(200, [(b"content-type", b"application/json")], answer)


Respond = Callable[[Slots, Message], Awaitable[Answer]]


async def at_once(_: Slots, message: Message) -> Answer:
    return answered(message.body)


class Site:
    """A batcher with replicas that answer as they are told, and callers who note what they get."""

    def __init__(self, first: DeploymentRoute, respond: Respond = at_once) -> None:
        self.respond = respond
        self.sent: list[tuple[str, bytes]] = []
        self.tries: list[bool] = []
        self.patience: list[float] = []
        self.logged: list[str] = []
        self.dispatcher = Dispatcher(first)
        self.distrusted: list[tuple[str, int, str]] = []
        self.batcher = Batcher(
            self.dispatcher,
            self.send,
            lambda _, text: self.logged.append(text),
            lambda *told: self.distrusted.append(told),
        )
        self.outcomes: dict[Call, list[Outcome]] = {}

    async def send(
        self,
        dispatcher: Dispatcher,
        slots: Slots,
        message: Message,
        deadline: float,
        *,
        fresh: bool,
        patience_s: float,
    ) -> Answer:
        self.patience.append(patience_s)
        self.sent.append((slots.route.key, message.body))
        self.tries.append(fresh)
        return await self.respond(slots, message)

    @property
    def batches(self) -> list[list[Any]]:
        return [values_of(body) for _, body in self.sent]

    def call(
        self, *values: Any, headers: Headers = JSON, path: str = "/invocations", body: bytes = b""
    ) -> Call:
        outcomes: list[Outcome] = []
        call = Call(headers, body or request(*values), path, "/deployments/d", outcomes.append)
        self.outcomes[call] = outcomes
        self.batcher.submit(call)
        return call

    def update(self, new: DeploymentRoute) -> None:
        self.batcher.update(new)
        self.dispatcher.update(new)

    def result(self, call: Call) -> Outcome:
        (outcome,) = self.outcomes[call]
        return outcome

    def body(self, call: Call) -> bytes:
        outcome = self.result(call)
        assert isinstance(outcome, Reply)
        return outcome.body


async def settle() -> None:
    """Let everything that is ready to run do so."""
    for _ in range(50):
        await asyncio.sleep(0)


def running(test: Callable[[], Awaitable[None]]) -> None:
    async def with_a_limit() -> None:
        troubles: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        await asyncio.wait_for(test(), 10)
        assert troubles == []

    asyncio.run(with_a_limit())


def echoed(body: bytes) -> Answer:
    """Answer with the values as text."""
    return Answer(200, [], json.dumps({"predictions": [str(value) for value in values_of(body)]}).encode())


class Gate:
    """Holds requests back until it is opened."""

    def __init__(self, then: Respond = at_once) -> None:
        self.then, self.open = then, asyncio.Event()

    async def __call__(self, slots: Slots, message: Message) -> Answer:
        await self.open.wait()
        return await self.then(slots, message)


class TestTogether:
    def test_cancel_one_of_three(self) -> None:
        async def test() -> None:
            site = Site(route("a"), Gate())
            calls = [site.call(1.0), site.call(2.0), site.call(3.0)]
            await settle()
            assert site.batches == [[1.0, 2.0, 3.0]]

            site.batcher.give_up(calls[1])
            site.respond.open.set()  # type: ignore[attr-defined]
            await settle()

            assert site.body(calls[0]) == b'{"predictions": [2.0]}'
            assert site.outcomes[calls[1]] == []
            assert site.body(calls[2]) == b'{"predictions": [6.0]}'

        running(test)

    def test_one_who_goes_while_waiting_is_not_sent(self) -> None:
        async def test() -> None:
            site = Site(route())
            calls = [site.call(1.0), site.call(2.0), site.call(3.0)]
            site.batcher.give_up(calls[1])

            site.update(route("a"))
            await settle()

            assert site.batches == [[1.0, 3.0]]
            assert site.outcomes[calls[1]] == []

        running(test)

    def test_a_lonely_request_goes_as_it_was_sent_and_at_once(self) -> None:
        async def test() -> None:
            site = Site(route("a"))
            odd = b'{ "dataframe_split": {"columns": ["x"], "data":[[ 1.50 ]]} }'
            call = site.call(body=odd, headers=[*JSON, (b"x-own", b"1")])
            await settle()

            assert site.sent == [("a", odd)]
            assert site.body(call) == b'{"predictions": [3.0]}'

        running(test)

    def test_a_free_replica_takes_whatever_waits(self) -> None:
        async def test() -> None:
            gate = Gate()
            site = Site(route("a"), gate)
            first = site.call(0.5)
            await settle()
            rest = [site.call(float(i)) for i in range(5)]
            await settle()
            assert site.batches == [[0.5]]

            gate.open.set()
            await settle()

            assert site.batches == [[0.5], [0.0, 1.0, 2.0, 3.0, 4.0]]
            assert site.body(first) == b'{"predictions": [1.0]}'
            assert [site.body(call) for call in rest] == [
                b'{"predictions": [%d.0]}' % (2 * i) for i in range(5)
            ]

        running(test)

    def test_each_replica_has_one_batch_at_a_time(self) -> None:
        async def test() -> None:
            site = Site(route("a", "b", max_rows=1), Gate())
            for i in range(4):
                site.call(float(i))
            await settle()

            assert [key for key, _ in site.sent] == ["a", "b"]

        running(test)

    def test_rows_up_to_the_limit(self) -> None:
        async def test() -> None:
            site = Site(route("a", max_rows=3))
            calls = [
                site.call(1.0, 2.0),
                site.call(3.0),
                site.call(4.0),
                site.call(*[5.0] * 4),
                site.call(6.0),
            ]
            await settle()

            assert site.batches == [[1.0, 2.0, 3.0], [4.0], [5.0] * 4, [6.0]]
            assert site.body(calls[0]) == b'{"predictions": [2.0, 4.0]}'
            assert site.body(calls[3]) == b'{"predictions": [10.0, 10.0, 10.0, 10.0]}'

        running(test)

    def test_no_more_text_than_is_good_for_one_request(self) -> None:
        async def test() -> None:
            site = Site(route("a", max_rows=10**9))
            large = request(*[1.0] * 6000)
            for _ in range(MAX_BATCH_BYTES // len(large) + 1):
                site.call(body=large)
            await settle()

            assert len(site.sent) == 2

        running(test)

    def test_only_the_same_kind_goes_together_and_what_can_not_be_merged_has_its_turn(self) -> None:
        async def test() -> None:
            site = Site(route())
            odd = b'{"dataframe_split": {"index": [0], "columns": ["x"], "data": [[9.0]]}}'
            calls = [site.call(1.0), site.call(1), site.call(body=odd), site.call(2.0), site.call(2)]

            site.update(route("a"))
            await settle()

            assert site.batches == [[1.0, 2.0], [1, 2], [9.0]]
            assert [type(v) for v in site.batches[1]] == [int, int]
            assert site.sent[2] == ("a", odd)
            assert [len(site.outcomes[call]) for call in calls] == [1] * 5

        running(test)

    @pytest.mark.parametrize("told_apart", [True, False])
    def test_missing_text_goes_with_text_where_the_replica_is_told_which_rows_are_whose(
        self, told_apart: bool
    ) -> None:
        async def test() -> None:
            counts: list[bytes] = []

            async def answer(slots: Slots, message: Message) -> Answer:
                counts.append(message.counts)
                return echoed(message.body)

            site = Site(route("a", columns={"x": "string"}, tells_requests_apart=told_apart), answer)
            calls = [site.call("a"), site.call(None), site.call("b", None)]
            await settle()

            if told_apart:
                assert site.batches == [["a", None, "b", None]]
                assert counts == [b"1,1,2"]
            else:
                assert site.batches == [["a"], [None], ["b", None]]
                assert counts == [b"", b"", b""]
            assert [site.body(call) for call in calls] == [
                b'{"predictions": ["a"]}',
                b'{"predictions": ["None"]}',
                b'{"predictions": ["b", "None"]}',
            ]

        running(test)

    def test_a_replica_that_cannot_tell_them_apart_gets_each_alone(self) -> None:
        async def test() -> None:
            async def answer(slots: Slots, message: Message) -> Answer:
                return Answer(APART, [], b"") if message.counts else echoed(message.body)

            site = Site(route("a", columns={"x": "string"}, tells_requests_apart=True), answer)
            calls = [site.call("a"), site.call(None), site.call("b")]
            await settle()

            assert [values for values in site.batches if len(values) == 1] == [["a"], [None], ["b"]]
            assert [site.body(call) for call in calls] == [
                b'{"predictions": ["a"]}',
                b'{"predictions": ["None"]}',
                b'{"predictions": ["b"]}',
            ]

        running(test)

    def test_one_that_never_can_is_not_asked_again(self) -> None:
        async def test() -> None:
            asked: list[bytes] = []

            async def answer(slots: Slots, message: Message) -> Answer:
                asked.append(message.counts)
                return Answer(NEVER, [], b"") if message.counts else echoed(message.body)

            site = Site(route("a", columns={"x": "string"}, tells_requests_apart=True), answer)
            calls = [site.call("a"), site.call("b"), site.call(None), site.call(None)]
            await settle()
            more = [site.call("a"), site.call(None), site.call("b")]
            await settle()

            assert asked == [b"1,1,1,1", b"", b"", b"", b""]
            assert site.batches[1:] == [[None, None], ["a", "b"], ["a", "b"], [None]]
            assert [len(site.outcomes[call]) for call in calls + more] == [1] * 7

        running(test)

    def test_texts_without_a_null_need_not_be_told_apart(self) -> None:
        async def test() -> None:
            counts: list[bytes] = []

            async def answer(slots: Slots, message: Message) -> Answer:
                counts.append(message.counts)
                return echoed(message.body)

            site = Site(route("a", columns={"x": "string"}, tells_requests_apart=True), answer)
            calls = [site.call("a"), site.call("b")]
            await settle()

            assert site.batches == [["a", "b"]]
            assert counts == [b""]
            assert [len(site.outcomes[call]) for call in calls] == [1, 1]

        running(test)

    def test_a_stream_of_others_keeps_nobody_waiting(self) -> None:
        async def test() -> None:
            site = Site(route("a", max_rows=2))
            more = 20

            async def respond(_: Slots, message: Message) -> Answer:
                nonlocal more
                for _number in range(min(2, more)):
                    more -= 1
                    site.call(1.0)
                return answered(message.body)

            site.respond = respond
            for _ in range(4):
                site.call(1.0)
            site.call(None)  # its own kind
            await settle()

            assert [None] in site.batches[:4]

        running(test)

    @pytest.mark.parametrize(
        ("headers", "path"),
        [
            ([(b"content-type", b"text/csv")], "/invocations"),
            ([(b"content-type", b"application/json; charset=latin-1")], "/invocations"),
            ([*JSON, *JSON], "/invocations"),
            (JSON, "/invocations?a=b"),
        ],
    )
    def test_other_headers_and_paths_go_alone(self, headers: Headers, path: str) -> None:
        async def test() -> None:
            site = Site(route("a"))
            for _ in range(2):
                site.call(1.0, headers=headers, path=path)
            await settle()

            assert site.batches == [[1.0], [1.0]]

        running(test)

    def test_without_merging_each_goes_alone_and_several_at_a_time(self) -> None:
        async def test() -> None:
            site = Site(route("a", merging=False), Gate())
            for _ in range(3):
                site.call(1.0)
            await settle()

            assert site.batches == [[1.0]] * 3

        running(test)

    def test_rows_and_requests_are_counted(self) -> None:
        async def test() -> None:
            site = Site(route("a"))
            with mock.patch.object(metrics, "observe_batch") as observe:
                site.call(1.0, 2.0)
                site.call(3.0)
                await settle()

            observe.assert_called_once_with("d", 2, 3)

        running(test)

    def test_the_answer_says_which_revision_gave_it(self) -> None:
        async def test() -> None:
            site = Site(route("a", revision=4))
            calls = [site.call(1.0), site.call(2.0)]
            await settle()

            for call in calls:
                outcome = site.result(call)
                assert isinstance(outcome, Reply)
                assert dict(outcome.headers) == {
                    b"content-type": b"application/json",
                    b"x-mlflow-deployment": b"d",
                    b"x-mlflow-revision": b"4",
                }

        running(test)


class TestWaiting:
    def test_a_replica_waits_for_more_rows_where_that_is_asked_for(self) -> None:
        async def test() -> None:
            site = Site(route("a", wait_ms=30))
            site.call(1.0)
            await settle()
            site.call(2.0)
            await settle()
            assert site.sent == []

            while not site.sent:
                await asyncio.sleep(0.005)

            assert site.batches == [[1.0, 2.0]]

        running(test)

    def test_a_full_batch_and_what_goes_alone_do_not_wait(self) -> None:
        async def test() -> None:
            site = Site(route("a", wait_ms=60_000, max_rows=2))
            site.call(1.0)
            alone = site.call(1.0, path="/invocations?")
            await settle()
            assert site.batches == [[1.0]]
            assert len(site.outcomes[alone]) == 1

            site.call(2.0)
            await settle()

            assert site.batches == [[1.0], [1.0, 2.0]]

        running(test)


class TestTrouble:
    def test_a_row_that_is_wrong_fails_only_its_own_request(self) -> None:
        async def test() -> None:
            site = Site(route("a"))
            calls = [site.call(float(i)) for i in (1, 2, -3, 4, 5)]
            await settle()

            bodies = [site.body(call) for call in calls]
            assert bodies == [
                b'{"predictions": [2.0]}',
                b'{"predictions": [4.0]}',
                b'{"error_code": "BAD_REQUEST"}',
                b'{"predictions": [8.0]}',
                b'{"predictions": [10.0]}',
            ]
            assert site.sent[-1][1] != site.sent[0][1]
            assert ("a", request(-3.0)) in site.sent
            assert site.batcher.merges

        running(test)

    def test_a_row_at_which_the_model_exits_ends_one_replica_more_and_no_other(self) -> None:
        async def test() -> None:
            async def respond(_: Slots, message: Message) -> Answer:
                if 13.0 in values_of(message.body):
                    return Answer(400, [], b'{"stack_trace": "... ModelExited: the model raised SystemExit"}')
                return answered(message.body)

            site = Site(route("a", max_rows=128), respond)
            calls = [site.call(float(i)) for i in range(64)]
            await settle()
            await settle()

            assert sum(13.0 in values for values in site.batches) == 2
            assert [site.body(call) for call in calls[:2]] == [
                b'{"predictions": [0.0]}',
                b'{"predictions": [2.0]}',
            ]
            assert all(len(outcomes) == 1 for outcomes in site.outcomes.values())

        running(test)

    def test_a_row_at_which_replicas_hang_keeps_no_other_waiting(self) -> None:
        async def test() -> None:
            async def respond(_: Slots, message: Message) -> Answer:
                if 13.0 in values_of(message.body):
                    if site.patience[-1] < math.inf:
                        raise Hanging("it takes long")
                    await asyncio.Event().wait()
                return answered(message.body)

            site = Site(route("a", max_rows=128), respond)
            first = site.call(0.0)
            await settle()
            assert site.patience == [math.inf]  # nobody knows how long it takes
            assert site.body(first) == b'{"predictions": [0.0]}'
            bad, *good = [site.call(13.0), *(site.call(float(i)) for i in range(5))]
            await settle()

            assert site.patience[1:] == [0.25 * site.batcher.route.timeout_s] * 7 + [math.inf]
            assert site.batches[1:3] == [[13.0, 0.0, 1.0, 2.0, 3.0, 4.0], [13.0]]
            assert site.batches[-1] == [13.0]  # after all others
            assert [site.body(call) for call in good] == [
                b'{"predictions": [%.1f]}' % (2 * i) for i in range(5)
            ]
            assert site.outcomes[bad] == []

        running(test)

    def test_a_row_at_which_replicas_hang_is_not_tried_again_before_what_waits_already(self) -> None:
        async def test() -> None:
            hanging = asyncio.Event()

            async def respond(_: Slots, message: Message) -> Answer:
                if 13.0 in values_of(message.body):
                    await hanging.wait()
                    raise Hanging("it takes long")
                return answered(message.body)

            site = Site(route("a", max_rows=128), respond)
            beside = [site.call(13.0), site.call(1.0)]
            await settle()
            waiting = [site.call(2.0), site.call(3.0)]
            hanging.set()
            await settle()

            assert site.batches[:4] == [[13.0, 1.0], [2.0, 3.0], [13.0], [1.0]]
            assert all(site.body(call).startswith(b'{"predictions"') for call in [beside[1], *waiting])

        running(test)

    def test_rows_that_take_long_go_together_as_far_as_there_is_time(self) -> None:
        async def test() -> None:
            async def respond(_: Slots, message: Message) -> Answer:
                await asyncio.sleep(0.02 * len(values_of(message.body)))
                return answered(message.body)

            site = Site(route("a", timeout_s=0.8), respond)
            first = site.call(0.0)
            while not site.outcomes[first]:
                await asyncio.sleep(0.005)
            calls = [site.call(float(i)) for i in range(24)]
            while not all(site.outcomes[call] for call in calls):
                await asyncio.sleep(0.005)

            assert all(isinstance(site.result(call), Reply) for call in calls)
            assert all(len(values) <= 10 for values in site.batches[1:])
            assert len(site.batches) < 10
            assert set(site.patience[1:]) <= {0.4, math.inf}

        running(test)

    def test_a_call_that_took_too_long_has_fewer_rows_the_next_time(self) -> None:
        async def test() -> None:
            async def respond(_: Slots, message: Message) -> Answer:
                takes_s = 0.01 * len(values_of(message.body))
                await asyncio.sleep(min(takes_s, site.patience[-1], 0.4))
                if takes_s > site.patience[-1]:
                    raise Hanging("it takes long")
                if takes_s > 0.4:
                    raise DeadlineExceeded("too late")
                return answered(message.body)

            site = Site(route("a", timeout_s=0.4), respond)
            for rows in (60, 30, 30):
                calls = [site.call(float(i)) for i in range(rows)]
                while not all(site.outcomes[call] for call in calls):
                    await asyncio.sleep(0.005)

            assert all(isinstance(site.result(call), Reply) for call in calls)

        running(test)

    def test_many_bad_rows_cost_few_calls(self) -> None:
        async def test() -> None:
            site = Site(route("a", max_queue=200, max_rows=128))
            for i in range(128):
                site.call(float(-1 if i == 77 else i))
            await settle()
            await settle()

            assert all(len(outcomes) == 1 for outcomes in site.outcomes.values())
            assert len(site.sent) == 15

        running(test)

    def test_many_bad_callers_cost_hardly_more_calls_than_requests(self) -> None:
        async def test() -> None:
            site = Site(route("a", max_queue=200, max_rows=128))
            costs = []
            for _ in range(3):
                before = len(site.sent)
                calls = [site.call(float(-1 - i)) for i in range(128)]
                while not all(site.outcomes[call] for call in calls):
                    await settle()
                costs.append(len(site.sent) - before)

            assert costs[0] < 1.25 * 128
            assert costs[1:] == [128, 128]
            for _ in range(5):
                good = [site.call(float(i)) for i in range(128)]
                while not all(site.outcomes[call] for call in good):
                    await settle()
            assert max(map(len, site.batches[-5:])) > 32

        running(test)

    @pytest.mark.parametrize(
        "wrong",
        [
            b'{"predictions": [1]}',
            b'{"predictions": [1, 2, 3]}',
            b'{"predictions": {"a": [1, 2]}}',
            b'{"predictions": 1}',
            b"",
        ],
    )
    def test_a_wrong_count_ends_merging_for_that_revision(self, wrong: bytes) -> None:
        async def test() -> None:
            async def respond(_: Slots, message: Message) -> Answer:
                alone = len(values_of(message.body)) == 1
                return answered(message.body) if alone else Answer(200, [], wrong)

            site = Site(route("a"), respond)
            calls = [site.call(1.0), site.call(2.0)]
            await settle()

            assert [site.body(call) for call in calls] == [
                b'{"predictions": [2.0]}',
                b'{"predictions": [4.0]}',
            ]
            assert site.batches == [[1.0, 2.0], [1.0], [2.0]]
            [warning] = site.logged
            assert "WARNING" in warning
            assert "revision 1" in warning
            assert [told[:2] for told in site.distrusted] == [("d", 1)]
            site.call(3.0)
            site.call(4.0)
            await settle()
            assert site.batches[3:] == [[3.0], [4.0]]
            site.update(route("a"))
            assert not site.batcher.merges
            assert len(site.distrusted) == 2  # whoever gave this table has not heard it
            site.update(route("a", merging=False))
            assert len(site.distrusted) == 2
            site.update(route("b", revision=2))
            assert site.batcher.merges

        running(test)

    @pytest.mark.parametrize("missing", [b"null", b"NaN"])
    def test_beside_a_missing_prediction_each_is_asked_for_alone(self, missing: bytes) -> None:
        async def test() -> None:
            async def respond(_: Slots, message: Message) -> Answer:
                values = values_of(message.body)
                if len(values) == 1:
                    return Answer(
                        200, [], b'{"predictions": [%b]}' % (b"%d" % values[0] if values[0] else b"null")
                    )
                answers = [b"%.1f" % value if value else missing for value in values]
                if all(values):
                    answers = [b"%d" % value for value in values]
                return Answer(200, [], b'{"predictions": [%b]}' % b", ".join(answers))

            site = Site(route("a"), respond)
            calls = [site.call(1.0), site.call(0.0), site.call(3.0)]
            await settle()

            assert [site.body(call) for call in calls] == [
                b'{"predictions": [1]}',
                b'{"predictions": [null]}',
                b'{"predictions": [3]}',
            ]
            assert site.batcher.merges
            for _ in range(4):
                site.call(0.0), site.call(1.0)
                await settle()
            assert not site.batcher.merges
            [warning] = site.logged
            assert "revision 1 often has missing predictions" in warning

        running(test)

    def test_a_library_predicts_the_same_beside_a_missing_prediction(self) -> None:
        async def test() -> None:
            async def respond(_: Slots, message: Message) -> Answer:
                answers = [b"%.1f" % v if v else b"NaN" for v in values_of(message.body)]
                return Answer(200, [], b'{"predictions": [%b]}' % b", ".join(answers))

            plain = route("a")
            assert plain.batch is not None
            batch = plain.batch.model_copy(update={"own_code": False})
            site = Site(plain.model_copy(update={"batch": batch}), respond)
            calls = [site.call(1.0), site.call(0.0)]
            await settle()

            assert site.batches == [[1.0, 0.0]]
            assert site.body(calls[1]) == b'{"predictions": [NaN]}'

        running(test)

    def test_a_broken_connection_is_one_more_try_of_the_same_batch(self) -> None:
        async def test() -> None:
            async def respond(slots: Slots, message: Message) -> Answer:
                if len(site.sent) == 1:
                    raise ConnectionBroken("gone")
                return answered(message.body)

            site = Site(route("a"), respond)
            calls = [site.call(1.0), site.call(2.0)]
            await settle()

            assert site.batches == [[1.0, 2.0]] * 2
            assert site.tries == [False, True]
            assert [site.body(call) for call in calls] == [
                b'{"predictions": [2.0]}',
                b'{"predictions": [4.0]}',
            ]

        running(test)

    def test_a_request_that_ends_replicas_takes_no_other_with_it(self) -> None:
        async def test() -> None:
            async def respond(_: Slots, message: Message) -> Answer:
                if 13.0 in values_of(message.body):
                    raise ConnectionBroken("killed")
                return answered(message.body)

            site = Site(route("a"), respond)
            good, bad, other = site.call(1.0), site.call(13.0), site.call(2.0)
            await settle()

            assert isinstance(site.result(bad), Unavailable)
            assert site.body(good) == b'{"predictions": [2.0]}'
            assert site.body(other) == b'{"predictions": [4.0]}'
            assert sum(13.0 in values for values in site.batches) == 3

        running(test)

    def test_one_that_is_put_back_is_told_when_its_time_is_over(self) -> None:
        async def test() -> None:
            async def respond(slots: Slots, message: Message) -> Answer:
                while site.batcher.sweeping is not None:  # its time is over, and it is still with the replica
                    await asyncio.sleep(0.01)
                site.dispatcher.bench(slots)
                raise ConnectFailed("nobody")

            site = Site(route("a", timeout_s=0.1), respond)
            call = site.call(1.0)
            while not site.outcomes[call]:
                await asyncio.sleep(0.01)

            assert isinstance(site.result(call), Unavailable)

        running(test)

    def test_pings_keep_no_prediction_waiting(self) -> None:
        async def test() -> None:
            site = Site(route("a"))
            pings = [await site.dispatcher.acquire(0) for _ in range(AT_ONCE)]

            call = site.call(1.0)
            await settle()

            assert site.body(call) == b'{"predictions": [2.0]}'
            for slots in pings:
                site.dispatcher.release(slots)
            assert (slots.in_flight, slots.scoring) == (0, 0)

        running(test)

    def test_a_replica_that_is_not_there_costs_nothing(self) -> None:
        async def test() -> None:
            async def respond(slots: Slots, message: Message) -> Answer:
                if slots.route.key == "a":
                    site.dispatcher.bench(slots)
                    raise ConnectFailed("nobody")
                return answered(message.body)

            site = Site(route("a", "b"), respond)
            call = site.call(1.0)
            await settle()

            assert [key for key, _ in site.sent] == ["a", "b"]
            assert site.tries == [False, False]
            assert site.body(call) == b'{"predictions": [2.0]}'

        running(test)

    def test_a_mistake_of_the_gateway_is_told(self) -> None:
        async def test() -> None:
            async def respond(_: Slots, __: Message) -> Answer:
                raise ZeroDivisionError

            site = Site(route("a"), respond)
            calls = [site.call(1.0), site.call(2.0)]
            await settle()

            for call in calls:
                outcome = site.result(call)
                assert isinstance(outcome, RestaurantError)
                assert outcome.http_status == 500
            assert "ZeroDivisionError" in site.logged[0]
            assert site.dispatcher.is_free()

        running(test)

    def test_a_caller_who_can_not_be_told_is_nobody_elses_trouble(self) -> None:
        async def test() -> None:
            site = Site(route("a"))
            troubles: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))

            def broken(_: Outcome) -> None:
                raise OSError

            site.batcher.submit(Call(JSON, request(1.0), "/invocations", "", broken))
            call = site.call(2.0)
            await settle()

            assert site.body(call) == b'{"predictions": [4.0]}'
            assert isinstance(troubles[0]["exception"], OSError)

        running(test)

    def test_one_who_goes_before_the_second_try_is_left_out(self) -> None:
        async def test() -> None:
            gate = Gate()

            async def respond(slots: Slots, message: Message) -> Answer:
                if len(site.sent) == 1:
                    site.dispatcher.bench(slots)
                    raise ConnectionBroken("gone")
                return await gate(slots, message)

            site = Site(route("a"), respond)
            calls = [site.call(1.0), site.call(2.0), site.call(3.0)]
            await settle()
            assert len(site.batcher.queue) == 3
            site.batcher.give_up(calls[0])
            assert list(site.batcher.queue) == calls[1:]
            site.update(route("b"))
            await settle()
            assert site.batches == [[1.0, 2.0, 3.0], [2.0, 3.0]]
            gate.open.set()
            await settle()
            assert [len(site.outcomes[call]) for call in calls] == [0, 1, 1]

        running(test)

    def test_nobody_is_left_for_the_second_try(self) -> None:
        async def test() -> None:
            async def respond(slots: Slots, _: Message) -> Answer:
                site.dispatcher.bench(slots)
                raise ConnectionBroken("gone")

            site = Site(route("a"), respond)
            call = site.call(1.0)
            await settle()
            site.batcher.give_up(call)
            site.update(route("b"))
            await settle()

            assert len(site.sent) == 1
            assert len(site.batcher.queue) == 0

        running(test)


class TestLimits:
    def test_a_full_queue(self) -> None:
        async def test() -> None:
            site = Site(route(max_queue=2))
            site.call(1.0)
            leaver = site.call(2.0)
            with pytest.raises(QueueFull, match="2 requests wait"):
                site.call(3.0)
            site.batcher.give_up(leaver)
            site.call(4.0)

            site.update(route("a", max_queue=2))
            await settle()

            assert site.batches == [[1.0, 4.0]]

        running(test)

    def test_a_queue_that_is_full_of_those_who_wait_for_more_rows(self) -> None:
        async def test() -> None:
            site = Site(route("a", max_queue=2, wait_ms=20))
            calls = [site.call(1.0), site.call(2.0)]
            with pytest.raises(QueueFull):
                site.call(3.0)
            await settle()
            with pytest.raises(QueueFull):
                site.call(3.0)
            while not site.outcomes[calls[1]]:
                await asyncio.sleep(0.005)

            assert site.batches == [[1.0, 2.0]]
            site.call(4.0)

        running(test)

    def test_nobody_waits_for_a_replica_for_ever(self) -> None:
        async def test() -> None:
            site = Site(route(timeout_s=0.05))
            calls = [site.call(1.0), site.call(2.0), site.call(1)]
            while not all(site.outcomes[call] for call in calls):
                await asyncio.sleep(0.005)

            assert all(isinstance(site.result(call), Unavailable) for call in calls)
            assert len(site.batcher.queue) == 0
            site.update(route("a"))
            await settle()
            assert site.sent == []

        running(test)

    def test_nobody_waits_for_an_answer_for_ever_though_others_of_the_batch_may(self) -> None:
        async def test() -> None:
            site = Site(route(timeout_s=0.05), Gate())
            hurried = site.call(1.0)
            site.update(route(timeout_s=LONG_S))
            patient = site.call(2.0)
            site.update(route("a", timeout_s=LONG_S))
            while not site.outcomes[hurried]:
                await asyncio.sleep(0.005)

            assert isinstance(site.result(hurried), DeadlineExceeded)
            site.respond.open.set()  # type: ignore[attr-defined]
            await settle()
            assert site.body(patient) == b'{"predictions": [4.0]}'
            assert len(site.outcomes[hurried]) == 1

        running(test)

    def test_a_shorter_time_holds_from_the_update_on(self) -> None:
        async def test() -> None:
            site = Site(route())
            patient = site.call(1.0)
            site.update(route(timeout_s=0.05))
            hurried = site.call(2.0)
            while not site.outcomes[hurried]:
                await asyncio.sleep(0.005)

            assert isinstance(site.result(hurried), Unavailable)
            assert site.outcomes[patient] == []

        running(test)

    def test_when_the_replica_does_not_answer_in_time_all_are_told(self) -> None:
        async def test() -> None:
            async def respond(_: Slots, __: Message) -> Answer:
                raise DeadlineExceeded("too late")

            site = Site(route("a"), respond)
            calls = [site.call(1.0), site.call(2.0)]
            await settle()

            assert all(isinstance(site.result(call), DeadlineExceeded) for call in calls)

        running(test)

    def test_whoever_waits_is_told_that_the_deployment_is_deleted(self) -> None:
        async def test() -> None:
            gate = Gate()
            site = Site(route("a"), gate)
            with_replica = site.call(1.0)
            await settle()
            waiting = site.call(2.0)

            site.dispatcher.close()
            site.batcher.close()
            gate.open.set()
            await settle()

            assert isinstance(site.result(waiting), DoesNotExist)
            assert site.body(with_replica) == b'{"predictions": [2.0]}'
            with pytest.raises(DoesNotExist):
                site.call(3.0)

        running(test)

    def test_what_would_be_tried_again_is_told_too(self) -> None:
        async def test() -> None:
            async def broken(_: Slots, __: Message) -> Answer:
                raise ConnectionBroken("gone")

            gate = Gate(broken)
            site = Site(route("a"), gate)
            calls = [site.call(1.0), site.call(2.0)]
            await settle()
            site.dispatcher.close()
            site.batcher.close()
            gate.open.set()
            await settle()

            assert all(isinstance(site.result(call), DoesNotExist) for call in calls)

        running(test)


class TestRevisions:
    def test_what_waits_is_merged_by_the_rules_of_the_new_revision(self) -> None:
        async def test() -> None:
            site = Site(route())
            calls = [site.call(1.0), site.call(2.0)]
            site.update(route("b", revision=2, columns={"x": "long"}))
            await settle()

            assert site.batches == [[1.0], [2.0]]
            assert all(len(site.outcomes[call]) == 1 for call in calls)

        running(test)

    def test_what_failed_before_the_update_is_too(self) -> None:
        async def test() -> None:
            async def broken(slots: Slots, message: Message) -> Answer:
                if slots.revision == 1:
                    raise ConnectionBroken("gone")
                return answered(message.body)

            gate = Gate(broken)
            site = Site(route("a"), gate)
            calls = [site.call(1.0), site.call(2.0)]
            await settle()
            site.update(route("b", revision=2, columns={"x": "long"}))
            gate.open.set()
            await settle()

            assert site.sent == [("a", site.sent[0][1]), ("b", request(1.0)), ("b", request(2.0))]
            assert [site.body(call) for call in calls] == [
                b'{"predictions": [2.0]}',
                b'{"predictions": [4.0]}',
            ]

        running(test)


# -- everything at once

moves = st.one_of(
    st.tuples(
        st.just("come"),
        st.lists(
            st.sampled_from([1.0, 2.5, 3, 4, None, -1.0, -2, 13.0, 17.0]) | st.floats(0, 1e6),
            min_size=1,
            max_size=3,
        ),
    ),
    st.tuples(st.just("come"), st.lists(st.floats(0, 1e6), min_size=1, max_size=2)),
    st.tuples(st.just("come"), st.lists(st.floats(0, 1e6), min_size=1, max_size=2)),
    st.tuples(st.just("leave"), st.integers(0, 30)),
    st.tuples(st.just("tick"), st.integers(1, 9)),
    st.tuples(st.just("tick"), st.integers(1, 9)),
    st.tuples(st.just("replicas"), st.sets(st.sampled_from("abc"))),
    st.tuples(st.just("revision"), st.integers(2, 5)),
    st.tuples(st.just("lose rows"), st.booleans()),
    st.tuples(st.just("break"), st.integers(0, 2)),
)


class Company:
    """Callers of a deployment in which anything may happen; 13 in a row ends replicas."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows, self.keys, self.revision = max_rows, {"a"}, 1
        self.losing, self.breaking = False, 0
        self.site = Site(self.route(), self.respond)
        self.callers: list[tuple[Call, bytes, int]] = []
        self.gone: set[Call] = set()

    def route(self) -> DeploymentRoute:
        keys = [f"{key}{self.revision}" for key in sorted(self.keys)]
        return route(*keys, revision=self.revision, max_rows=self.max_rows, max_queue=10_000)

    async def respond(self, slots: Slots, message: Message) -> Answer:
        for _ in range(3):
            await asyncio.sleep(0)
        values = values_of(message.body)
        if 13.0 in values:
            raise ConnectionBroken("killed")
        if self.breaking:
            self.breaking -= 1
            raise ConnectionBroken("died")
        if self.losing and len(values) > 1:
            return Answer(200, [], b'{"predictions": [0]}')
        return answered(message.body)

    def come(self, values: list[Any]) -> None:
        call = self.site.call(*values)
        self.callers.append((call, request(*values), len(values)))

    def leave(self, number: int) -> None:
        if self.callers:
            call = self.callers[number % len(self.callers)][0]
            if not self.site.outcomes[call]:
                self.gone.add(call)
                self.site.batcher.give_up(call)

    def replicas(self, keys: set[str]) -> None:
        self.keys = keys
        self.site.update(self.route())

    def change_revision(self, number: int) -> None:
        self.revision = max(self.revision, number)
        self.site.update(self.route())

    async def play(self, history: list[tuple[str, Any]]) -> None:
        for what, argument in history:
            if what == "come":
                self.come(argument)
            elif what == "leave":
                self.leave(argument)
            elif what == "replicas":
                self.replicas(argument)
            elif what == "revision":
                self.change_revision(argument)
            elif what == "lose rows":
                self.losing = argument
            elif what == "break":
                self.breaking = argument
            else:
                for _ in range(argument):
                    await asyncio.sleep(0)
        self.breaking = 0
        self.replicas({"a", "b"})
        while self.site.batcher.queue or self.site.batcher.running:
            await asyncio.sleep(0)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(moves, max_size=40), st.integers(1, 6))
def test_everyone_gets_their_own_answer_once_whatever_happens(
    history: list[tuple[str, Any]], max_rows: int
) -> None:
    async def test() -> None:
        company = Company(max_rows)
        await company.play(history)
        for call, body, count in company.callers:
            outcomes = company.site.outcomes[call]
            if call in company.gone:
                assert outcomes == []
                continue
            [outcome] = outcomes
            if isinstance(outcome, Reply):
                lossy = outcome.body == b'{"predictions": [0]}' and count > 1
                assert lossy or outcome.body == answered(body).body
            else:
                # Only who is the end of replicas, or meets two that end, is not answered.
                assert isinstance(outcome, Unavailable)
                assert 13.0 in values_of(body) or any(what == "break" for what, _ in history)
        assert all(slots.in_flight == 0 for slots in company.site.dispatcher.replicas.values())

    running(test)


def test_a_batch_knows_who_still_waits() -> None:
    calls = [Call(JSON, b"", "/invocations", "", lambda _: None) for _ in range(2)]
    calls[0].finish(Unavailable("x"))

    assert Batch(calls).waiting() == [calls[1]]
