"""Callers' connections: what is read without ASGI, what is left to uvicorn, and that callers can't tell the difference."""

from __future__ import annotations

import asyncio
import json
import time
from unittest import mock

import pytest

from mlflow_restaurant.gateway import connection, lane
from mlflow_restaurant.gateway.connection import Connection
from mlflow_restaurant.gateway.lane import Lane
from mlflow_restaurant.gateway.room import Room
from mlflow_restaurant.process import http
from tests import site
from tests.site import PATH, Run, Site, body, chunked, logged, post

run = site.run
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


def lanes(site: Site) -> int:
    """Return how many connections are read without ASGI."""
    return len(site.lane.connections)


async def leaving(site: Site) -> None:
    """Stop the server, and wait until it accepts no more connections."""
    site.server.should_exit = True
    while not site.lane.leaving:
        await asyncio.sleep(0.001)


class TestPlain:
    def test_an_answer_and_its_headers(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            got = await caller.ask(post(body(1.5), b"X-Request-Id: mine"))

            assert (got.status, got.body) == (200, b'{"predictions": [3.0]}')
            assert got.headers.pop("date")
            assert got.headers == {
                "content-type": "application/json",
                "content-length": "22",
                "x-request-id": "mine",
                "x-mlflow-deployment": "d",
                "x-mlflow-revision": "3",
                "x-mlflow-model-version": "7",
            }
            assert lanes(site) == 1

        run(test)

    def test_one_connection_serves_one_request_after_another(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            got = [await caller.ask(post(body(float(i)))) for i in range(20)]

            assert [g.body for g in got] == [b'{"predictions": [%d.0]}' % (2 * i) for i in range(20)]
            assert len({g.headers["x-request-id"] for g in got}) == 20
            assert lanes(site) == 1

        run(test)

    def test_many_callers_share_calls_to_the_replica(self, run: Run) -> None:
        async def test(site: Site) -> None:
            callers = [await site.caller() for _ in range(20)]
            site.open.clear()
            for number, caller in enumerate(callers):
                caller.send(
                    post(body(float(number)), path=b"/endpoints/e/invocations" if number % 2 else PATH)
                )
            while (
                len(site.track().batcher.queue)
                + sum(len(batch.calls) for batch in site.track().batcher.running.values())
                < 20
            ):
                await asyncio.sleep(0.001)
            site.open.set()

            got = [await caller.receive() for caller in callers]

            assert [g.body for g in got] == [b'{"predictions": [%d.0]}' % (2 * i) for i in range(20)]
            assert len(site.batches) < 20
            assert sum(map(len, site.batches)) == 20

        run(test)

    def test_a_request_in_pieces(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            request = post(body(1.0))
            for at in range(0, len(request), 40):
                caller.send(request[at : at + 40])
                await asyncio.sleep(0.005)

            assert (await caller.receive()).body == b'{"predictions": [2.0]}'
            assert lanes(site) == 1

        run(test)

    def test_a_body_in_chunks(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            for size in (1, 7, 1000):
                assert (await caller.ask(chunked(body(1.0), size))).body == b'{"predictions": [2.0]}'

        run(test)

    def test_close_is_heeded(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            got = await caller.ask(post(body(1.0), b"Connection: close"))

            assert got.headers["connection"] == "close"
            assert await caller.ended()

        run(test)

    def test_an_error_of_the_replica_is_mended_and_logged(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            got = await caller.ask(post(b"{}"))

            assert (got.status, json.loads(got.body)) == (
                400,
                {"error_code": "BAD_REQUEST", "message": "bad"},
            )
            assert "secret" in logged[0]
            assert got.headers["x-request-id"] in logged[0]
            assert (await caller.ask(post(body(1.0)))).status == 200

        run(test)

    @pytest.mark.parametrize(
        ("request_", "status", "code"),
        [
            (post(body(1.0), path=b"/deployments/unknown/invocations"), 404, "RESOURCE_DOES_NOT_EXIST"),
            (
                post(body(1.0)).replace(b"Content-Type: application/json\r\n", b""),
                400,
                "INVALID_PARAMETER_VALUE",
            ),
        ],
    )
    def test_errors_of_our_own(self, run: Run, request_: bytes, status: int, code: str) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            got = await caller.ask(request_)

            assert (got.status, json.loads(got.body)["error_code"]) == (status, code)
            assert (await caller.ask(post(body(1.0)))).status == 200
            assert lanes(site) == 1

        run(test)

    def test_a_full_queue(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.route(max_queue=0, replicas=())
            caller = await site.caller()

            got = await caller.ask(post(body(1.0)))

            assert got.status == 503
            assert got.headers["retry-after"] == "1"
            assert got.headers["x-mlflow-deployment"] == "d"

        run(test)

    def test_a_caller_who_hangs_up_is_forgotten_and_counted(self, run: Run) -> None:
        async def test(site: Site) -> None:
            leaver, stayer = await site.caller(), await site.caller()
            site.open.clear()
            leaver.send(post(body(1.0)))
            batcher = site.track().batcher
            while not batcher.running:
                await asyncio.sleep(0.001)
            leaver.writer.transport.abort()
            while lanes(site) > 1:
                await asyncio.sleep(0.001)
            site.open.set()

            assert (await stayer.ask(post(body(2.0)))).body == b'{"predictions": [4.0]}'
            assert [status for _, _, status in site.gateway.recent.samples["d"]] == [499, 200]

        run(test)


class TestAhead:
    def test_requests_sent_ahead_of_their_answers_are_answered_in_order(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            caller.send(b"".join(post(body(float(i))) for i in range(10)))

            assert [(await caller.receive()).body for _ in range(10)] == [
                b'{"predictions": [%d.0]}' % (2 * i) for i in range(10)
            ]

        run(test)

    def test_one_sent_ahead_while_another_waits(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            site.open.clear()
            caller.send(post(body(1.0)))
            while not site.track().batcher.running:
                await asyncio.sleep(0.001)
            for i in (2, 3):
                caller.send(post(body(float(i)))[:-10])
                caller.send(post(body(float(i)))[-10:])
            site.open.set()

            assert [(await caller.receive()).body for _ in range(3)] == [
                b'{"predictions": [%d.0]}' % (2 * i) for i in (1, 2, 3)
            ]

        run(test)

    def test_much_sent_ahead_is_not_read_before_its_turn(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            site.open.clear()
            caller.send(post(body(0.0)))
            while not site.track().batcher.running:
                await asyncio.sleep(0.001)
            many = 3000
            caller.send(b"".join(post(body(float(i))) for i in range(1, many)))
            [lane] = site.lane.connections
            while not lane.paused:
                await asyncio.sleep(0.001)
            site.open.set()

            for i in range(many):
                assert (await caller.receive()).body == b'{"predictions": [%d.0]}' % (2 * i)

        run(test)

    def test_nothing_is_begun_for_a_caller_who_reads_no_answers(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            await caller.ask(post(body(1.0)))
            [lane] = site.lane.connections

            lane.pause_writing()  # as the transport does
            lane.data_received(post(body(2.0)))

            assert (lane.paused, lane.call) == (True, None)
            lane.resume_writing()
            assert not lane.paused
            assert (await caller.receive()).body == b'{"predictions": [4.0]}'

        run(test)

    def test_long_paths_are_not_remembered(self, run: Run) -> None:
        async def test(site: Site) -> None:
            for path in (b"/deployments/d/invocations", b"/deployments/" + b"x" * 600 + b"/invocations"):
                assert site.lane.address(path) is not None

            assert list(site.lane.paths) == [b"/deployments/d/invocations"]

        run(test)


class TestHandedOver:
    """What is left to uvicorn, from its first byte on."""

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            (b"GET /deployments/d/ping HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
            (post(body(1.0), path=PATH + b"?a=b"), 200),
            (post(body(1.0), path=b"/deployments/d/invocati%6Fns"), 200),
            (post(body(1.0), version=b"1.0"), 200),
            (post(b" " * 70_000 + body(1.0)), 200),
            (chunked(b" " * 70_000 + body(1.0), 5000), 200),
            (post(b" " * 2_000_000), 413),
            (post(body(1.0), b"X-Long: " + b"x" * 66_000), 200),
            (post(body(1.0), b"Connection: Upgrade", b"Upgrade: h2c"), 200),
        ],
    )
    def test_other_requests(self, run: Run, request_: bytes, status: int) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            assert (await caller.ask(request_)).status == status
            assert lanes(site) == 0

        run(test)

    def test_plain_requests_go_on_afterwards(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            assert (await caller.ask(post(body(1.0)))).status == 200
            assert (await caller.ask(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
            site.lane.connections.clear()

            got = await caller.ask(post(body(2.0)))

            assert got.body == b'{"predictions": [4.0]}'
            assert got.headers["x-mlflow-revision"] == "3"

        run(test)

    def test_a_body_that_is_too_large_for_its_deployment_but_small(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.route(max_body_mb=0.00001)
            caller = await site.caller()

            got = await caller.ask(post(body(1.0)))

            assert (got.status, json.loads(got.body)["error_code"]) == (413, "BAD_REQUEST")

        run(test)

    def test_no_room(self, run: Run) -> None:
        """Bodies that are small enough to be read here count as well, as long as they wait for an answer."""

        async def test(site: Site) -> None:
            site.gateway.room = Room(0.03)
            first, other, ahead = [await site.caller() for _ in range(3)]
            large = body(1.0) + b" " * 20_000
            site.open.clear()
            first.send(post(large))
            while not site.gateway.room.used:
                await asyncio.sleep(0.001)
            assert 20_000 < site.gateway.room.used < 21_000
            ahead.send(post(body(1.0)))
            while not site.track().batcher.queue:
                await asyncio.sleep(0.001)

            got = await other.ask(post(large))
            assert (got.status, json.loads(got.body)["error_code"]) == (503, "REQUEST_LIMIT_EXCEEDED")
            ahead.send(post(large))  # it is not read on before there is room for it
            site.open.set()

            assert (await first.receive()).status == 200
            assert [(await ahead.receive()).status for _ in range(2)] == [200, 200]
            assert site.gateway.room.used == 0
            assert (await first.ask(post(large))).status == 200
            gone = await site.caller()
            gone.send(post(large)[:10_000])
            while not site.gateway.room.used:
                await asyncio.sleep(0.001)
            gone.writer.close()
            while site.gateway.room.used:
                await asyncio.sleep(0.001)

        run(test)

    def test_a_body_that_is_waited_for(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            caller.send(post(body(1.0), b"Expect: 100-continue")[: -len(body(1.0))])
            assert (await caller.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")

            assert (await caller.ask(body(1.0))).body == b'{"predictions": [2.0]}'

        run(test)

    def test_a_body_that_comes_slowly_or_never(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.route(timeout_s=0.2)
            slow, never = await site.caller(), await site.caller()
            with mock.patch.object(connection, "PATIENCE_S", 0.05):
                for caller in (slow, never):
                    caller.send(post(body(1.0))[:-3])
                while lanes(site):
                    await asyncio.sleep(0.001)
                slow.send(post(body(1.0))[-3:])

                assert (await slow.receive()).status == 200
                got = await never.receive()
                assert (got.status, json.loads(got.body)["error_code"]) == (408, "DEADLINE_EXCEEDED")

        run(test)

    @pytest.mark.parametrize("patience_s", [connection.PATIENCE_S, 0.01])
    def test_the_revision_of_when_a_body_is_there_answers(self, run: Run, patience_s: float) -> None:
        async def test(site: Site) -> None:
            with mock.patch.object(connection, "PATIENCE_S", patience_s):
                small, large = await site.caller(), await site.caller()
                small.send(post(body(1.0))[:-3])
                large.send(post(body(2.0) + b" " * 100_000)[:-3])
                while lanes(site) > (1 if patience_s > 0.1 else 0):
                    await asyncio.sleep(0.001)
                await site.route(revision=4)
                small.send(post(body(1.0))[-3:])
                large.send(b"   ")

                for caller in (small, large):
                    got = await caller.receive()
                    assert (got.status, got.headers["x-mlflow-revision"]) == (200, "4")

        run(test)

    @pytest.mark.parametrize(
        "garbage", [b"\x16\x03\x01\x02\x00\x01", b"POST\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"]
    )
    def test_what_is_no_http(self, run: Run, garbage: bytes) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            caller.send(garbage)

            assert (await caller.receive()).status == 400
            assert await caller.ended()

        run(test)


class TestEnds:
    def test_idle_connections_are_closed_and_others_not(self, run: Run) -> None:
        async def test(site: Site) -> None:
            with mock.patch.object(lane, "SWEEP_S", 0.02):
                site.lane.keep_alive_s = 0.1
                idle, busy = await site.caller(), await site.caller()
                site.open.clear()
                busy.send(post(body(1.0)))
                await idle.reader.read()
                site.open.set()

                assert (await busy.receive()).status == 200

        run(test)

    def test_shutting_down_waits_for_answers(self, run: Run) -> None:
        async def test(site: Site) -> None:
            idle, busy = await site.caller(), await site.caller()
            site.open.clear()
            busy.send(post(body(1.0)))
            while not site.track().batcher.running:
                await asyncio.sleep(0.001)
            site.server.should_exit = True
            assert await idle.ended()
            site.open.set()

            got = await busy.receive()
            assert (got.status, got.headers["connection"]) == (200, "close")
            assert await busy.ended()

        run(test)

    def test_who_asks_while_it_shuts_down_is_answered(self, run: Run) -> None:
        async def test(site: Site) -> None:
            new, kept, other, ahead = [await site.caller() for _ in range(4)]
            assert (await kept.ask(post(body(1.0)))).headers.get("connection") is None
            assert (await other.ask(PING)).headers.get("connection") is None
            site.open.clear()
            other.send(post(body(3.0)))
            ahead.send(post(body(4.0)))
            while not site.track().batcher.running:
                await asyncio.sleep(0.001)
            ahead.send(post(body(5.0)))
            while not any(connection.ahead for connection in site.lane.connections):
                await asyncio.sleep(0.001)
            await leaving(site)
            site.open.set()

            for caller in (new, kept, other):
                got = await (caller.receive() if caller is other else caller.ask(post(body(2.0))))
                assert (got.status, got.headers["connection"]) == (200, "close")
                assert await caller.ended()
            assert (await ahead.receive()).body == b'{"predictions": [8.0]}'
            assert (await ahead.receive()).body == b'{"predictions": [10.0]}'

        with mock.patch.object(http, "LINGER_S", site.PATIENCE_S):
            run(test)

    def test_what_arrived_before_it_shuts_down_is_answered(self, run: Run) -> None:
        async def test(site: Site) -> None:
            plain, other = await site.caller(), await site.caller()
            await other.ask(PING)
            await leaving(site)
            plain.send(post(body(2.0)))
            other.send(PING)
            time.sleep(3 * http.LINGER_S)  # as when the processors have other things to do

            assert (await plain.receive()).body == b'{"predictions": [4.0]}'
            assert (await other.receive()).status == 200

        with mock.patch.object(http, "LINGER_S", 0.1):
            run(test)

    def test_what_has_begun_to_arrive_when_it_shuts_down_is_answered(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller, request = await site.caller(), post(body(2.0))
            await leaving(site)
            caller.send(request[:-5])
            while lanes(site):
                await asyncio.sleep(0.01)
            caller.send(request[-5:])

            got = await caller.receive()
            assert (got.body, got.headers["connection"]) == (b'{"predictions": [4.0]}', "close")
            assert await caller.ended()

        with mock.patch.object(http, "LINGER_S", 0.1), mock.patch.object(connection, "PATIENCE_S", 60):
            run(test)

    def test_paths_that_are_never_the_same_fill_no_memory(self) -> None:
        paths = Lane(mock.Mock(), 1)
        for number in range(2 * lane.KEPT_PATHS):
            assert paths.address(b"/deployments/d%d/invocations" % number) is not None

        assert len(paths.paths) <= lane.KEPT_PATHS

    def test_nothing_is_written_to_a_connection_while_the_caller_does_not_read(self) -> None:
        transport = mock.Mock(is_closing=lambda: False)

        async def test() -> None:
            read = Connection(Lane(mock.Mock(), 1), mock.Mock(connections=set()), mock.Mock())
            read.connection_made(transport)
            read.pause_writing()
            read.pause_writing()
            read.resume_writing()
            read.connection_lost(None)

        asyncio.run(test())
        assert transport.pause_reading.call_count == transport.resume_reading.call_count == 1
