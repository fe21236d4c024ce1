"""What callers may send to uvicorn's protocol: how much, for how long, and how they are told."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
import weakref
from collections.abc import Awaitable, Iterator
from unittest import mock

import pytest

from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.gateway import bounded, connection, lane
from mlflow_restaurant.gateway.bounded import MAX_AHEAD, MAX_HEAD, PIECE
from tests import site
from tests.site import PATH, Caller, Got, Run, Site, body, post

run = site.run
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % PATH
ENDLESS = {
    "headers": HEAD + b"a: b\r\n" * 30_000,
    "a header": HEAD + b"a: " + b"b" * 200_000,
    "a name": HEAD + b"a" * 200_000,
    "a URL": b"GET /" + b"a" * 200_000,
    "a method": b"\r\n" * 100_000,
    "trailers": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"a: b\r\n" * 30_000,
    "a trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\na: " + b"b" * 200_000,
    "a chunk's extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"b" * 200_000,
}


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """Look often for what is late."""
    with (
        mock.patch.object(lane, "SWEEP_S", 0.02),
        mock.patch.object(connection, "PATIENCE_S", 0.01),
        mock.patch.object(bounded, "LINGER_S", 0.1),
    ):
        yield


def error(got: Got) -> tuple[int, str]:
    assert set(json.loads(got.body)) == {"error_code", "message"}
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-request-id"]
    return got.status, json.loads(got.body)["error_code"]


async def refused(caller: Caller, answer: Awaitable[Got] | None = None) -> tuple[int, str]:
    got = await (caller.receive() if answer is None else answer)
    assert got.headers["connection"] == "close"
    assert await caller.ended()
    return error(got)


class TestSize:
    @pytest.mark.parametrize("sent", ENDLESS.values(), ids=ENDLESS)
    def test_what_never_ends_is_refused(self, run: Run, sent: bytes) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            answer = asyncio.ensure_future(caller.receive())
            for start in range(0, len(sent), 1000):
                if not answer.done():
                    caller.send(sent[start : start + 1000])
                await asyncio.sleep(0)

            assert await refused(caller, answer) == (431, "BAD_REQUEST")
            while site.lane.bounded:
                await asyncio.sleep(0.001)
            assert not site.server.server_state.tasks

        run(test)

    def test_a_head_that_is_just_small_enough_is_read(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            padding = MAX_HEAD - len(post(body(1.0), b"a: "))

            assert (await caller.ask(post(body(1.0), b"a: " + b"b" * padding))).status == 200
            assert (await caller.ask(post(body(2.0), b"a: " + b"b" * padding))).status == 200

        run(test)


class TestTime:
    @pytest.mark.parametrize("sent", [b"GET /pi", HEAD, b"\r\n", PING + b"GET /"])
    def test_a_head_that_does_not_come_is_refused(self, run: Run, sent: bytes) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            caller.send(sent)
            if sent.startswith(PING):
                assert (await caller.receive()).status == 200

            assert await refused(caller) == (408, "DEADLINE_EXCEEDED")

        with mock.patch.object(bounded, "HEAD_S", 0.1):
            run(test)

    @pytest.mark.parametrize(("first", "drop"), [(b"\r", b"\r"), (b"GET /", b"a")])
    def test_dripping_does_not_help(self, run: Run, first: bytes, drop: bytes) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            caller.send(first)

            async def drip() -> None:
                while True:
                    await asyncio.sleep(0.01)
                    caller.send(drop)

            dripping = asyncio.ensure_future(drip())
            while not site.lane.bounded:
                await asyncio.sleep(0.001)
            while site.lane.bounded:
                await asyncio.sleep(0.001)
            dripping.cancel()

        with mock.patch.object(bounded, "HEAD_S", 0.1):
            run(test)

    def test_the_rest_of_a_body_that_nobody_reads_has_no_longer(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            caller.send(post(b"x" * 1000, path=b"/nowhere")[:-500])
            assert (await caller.receive()).status == 404

            assert await caller.ended()

        with mock.patch.object(bounded, "HEAD_S", 0.1):
            run(test)

    def test_a_model_may_take_longer(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            site.open.clear()
            caller.send(post(body(1.0), b"Expect: 100-continue") + b"\r\n")
            assert (await caller.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            await asyncio.sleep(0.2)
            site.open.set()

            assert (await caller.receive()).status == 200
            await asyncio.sleep(0.2)
            assert (await caller.ask(PING)).status == 200

        with mock.patch.object(bounded, "HEAD_S", 0.1):
            run(test)

    @pytest.mark.parametrize("plain", [True, False])
    def test_who_never_reads_is_cut_off(self, run: Run, plain: bool) -> None:
        async def test(site: Site) -> None:
            site.lane.keep_alive_s = 0.2
            caller = await site.caller()
            caller.reader._transport.pause_reading()  # type: ignore[attr-defined]
            large = b'{"dataframe_split": {"columns": ["x"], "data": [%b[1.0]]}}' % (b"[0.25]," * 5000)
            one = post(large, *([] if plain else [b"Expect: no"]))

            while site.lane.connections or site.lane.bounded:
                if caller.writer.transport.get_write_buffer_size() < 1 << 20:
                    caller.send(one)
                await asyncio.sleep(0.001)

        run(test)

    def test_nothing_is_left_of_a_connection_that_was_reset(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            assert (await caller.ask(PING)).status == 200
            (left,) = [weakref.ref(protocol) for protocol in site.lane.bounded]
            linger = struct.pack("ii", 1, 0)
            caller.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            caller.writer.transport.abort()
            while site.lane.bounded:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            gc.collect()

            assert left() is None

        run(test)


class TestAhead:
    def test_what_is_sent_ahead_is_read_as_answers_go_out(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller, number = await site.caller(), 20 * MAX_AHEAD
            site.open.clear()
            slow = post(body(1.0), b"Expect: no")
            caller.send(slow + b"".join(PING + post(body(float(n))) for n in range(number)))
            while not site.track().batcher.running:
                await asyncio.sleep(0.001)
            (protocol,) = site.lane.bounded
            assert len(protocol.pipeline) <= MAX_AHEAD + PIECE // len(PING)
            site.open.set()

            assert (await caller.receive()).body == b'{"predictions": [2.0]}'
            for n in range(number):
                assert (await caller.receive()).body == b"\n"
                assert json.loads((await caller.receive()).body) == {"predictions": [2.0 * n]}
            assert (await caller.ask(PING)).status == 200

        run(test)

    def test_who_sends_what_is_no_request_gets_the_answers_before_it(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            site.open.clear()
            caller.send(post(body(1.0)) + PING + b"nonsense\r\n\r\n")
            while not site.track().batcher.running:
                await asyncio.sleep(0.001)
            site.open.set()

            assert (await caller.receive()).body == b'{"predictions": [2.0]}'
            assert (await caller.receive()).body == b"\n"
            assert await refused(caller) == (400, "INVALID_PARAMETER_VALUE")

        run(test)


class TestNoHttp:
    @pytest.mark.parametrize(
        "sent",
        [
            b"\x00\xff\x16\x03\x01",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET  HTTP/1.1\r\n\r\n",
            b"BREW /ping HTTP/1.1\r\n\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
            HEAD + b"Content-Length: -1\r\n\r\n",
            HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
            HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ],
    )
    def test_it_is_refused_in_mlflows_form(self, run: Run, sent: bytes) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()
            caller.send(sent)

            assert await refused(caller) == (400, "INVALID_PARAMETER_VALUE")

        run(test)

    def test_an_upgrade_is_answered_as_if_it_were_not_asked_for(self, run: Run) -> None:
        async def test(site: Site) -> None:
            caller = await site.caller()

            got = await caller.ask(PING[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")

            assert (got.status, got.headers["connection"]) == (200, "close")
            assert await caller.ended()

        run(test)


class TestNumber:
    def test_more_connections_than_may_be_are_refused(self, run: Run) -> None:
        async def test(site: Site) -> None:
            site.lane.max_connections = 2
            first, second = await site.caller(), await site.caller()
            assert (await first.ask(post(body(1.0)))).status == 200
            assert (await second.ask(PING)).status == 200

            assert await refused(await site.caller()) == (503, "TEMPORARILY_UNAVAILABLE")
            assert (await first.ask(post(body(1.0)))).status == 200
            first.writer.close()
            while site.lane.connections:
                await asyncio.sleep(0.001)
            assert (await (await site.caller()).ask(PING)).status == 200

        run(test)

    @pytest.mark.parametrize(("limit", "number"), [(20_000, 19_936), (100, 50), (-1, 1 << 62)])
    def test_some_descriptors_are_left_for_other_things(self, limit: int, number: int) -> None:
        with mock.patch("resource.getrlimit", return_value=(limit, limit)):
            assert lane.max_connections() == number


def test_an_error_needs_no_route() -> None:
    written = lane.Lane(mock.Mock(), 1).refusal(RestaurantError("why"), [(b"date", b"now")])

    assert written.startswith(b"HTTP/1.1 500 Internal Server Error\r\ndate: now\r\n")
