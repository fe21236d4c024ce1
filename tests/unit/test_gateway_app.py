"""The gateway's application, driven without a server, in front of replicas that are small servers on unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mlflow_restaurant._version import __version__
from mlflow_restaurant.entities import DeploymentRoute, EndpointRoute, ReplicaRoute, RouteTable, TrialRoute
from mlflow_restaurant.gateway import dispatch
from mlflow_restaurant.gateway.app import Gateway
from mlflow_restaurant.gateway.batcher import Batcher
from mlflow_restaurant.gateway.calls import Call
from mlflow_restaurant.gateway.room import Room
from mlflow_restaurant.gateway.sides import bucket_of
from mlflow_restaurant.gateway.tracks import Track
from mlflow_restaurant.gateway.upstream import Answer, ConnectFailed
from mlflow_restaurant.replica.app import with_headers_of_gateway

Headers = list[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]
JSON: Headers = [(b"content-type", b"application/json")]
SCORE = "/deployments/d/invocations"


@dataclass(frozen=True)
class Got:
    """One request as a replica got it."""

    method: str
    target: str
    headers: Headers
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [v for n, v in self.headers if n == name]


def http(status: int, body: bytes, *headers: bytes, close: bool = False) -> bytes:
    length = b"Content-Length: %d" % len(body)
    lines = [b"HTTP/1.1 %d X" % status, length, *headers, *([b"Connection: close"] if close else [])]
    return b"\r\n".join([*lines, b"", body])


Respond = Callable[[Got], Awaitable[bytes]]


def always(answer: bytes) -> Respond:
    async def respond(_: Got) -> bytes:
        return answer

    return respond


OK = always(http(200, b'{"predictions": [1]}', b"Content-Type: application/json"))
BREAK = always(b"")


async def hang(_: Got) -> bytes:
    await asyncio.Event().wait()
    return b""


class Replica:
    """A server on a unix socket that answers as it is told; an empty answer closes the connection."""

    def __init__(self, path: Path, respond: Respond) -> None:
        self.path, self.respond = path, respond
        self.got: list[Got] = []
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def route(self) -> ReplicaRoute:
        return ReplicaRoute(key=self.path.name, socket=str(self.path))

    @property
    def scored(self) -> list[Got]:
        """The requests of callers, without the pings of a gateway that wonders whether anyone is there."""
        return [got for got in self.got if got.method == "POST"]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._connected, str(self.path))
        try:
            yield
        finally:
            server.close()
            for _ in range(5):  # until connections that were accepted a moment ago are among the tasks
                await asyncio.sleep(0)
            for task in list(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._answer_one(reader, writer):
                    pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        pairs = [line.partition(": ") for line in lines]
        headers = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, _, v in pairs]
        length = next((int(v) for n, v in headers if n == b"content-length"), 0)
        method, target, _ = first.split(" ")
        self.got.append(Got(method, target, headers, await reader.readexactly(length)))
        answer = await self.respond(self.got[-1])
        writer.write(answer)
        await writer.drain()
        return bool(answer) and b"Connection: close" not in answer


@dataclass
class Answered:
    """What a caller got."""

    status: int
    headers: Headers
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [v for n, v in self.headers if n == name]

    @property
    def error(self) -> str:
        payload = json.loads(self.body)
        assert set(payload) == {"error_code", "message"}
        return str(payload["error_code"])


@dataclass
class Site:
    """A gateway and its replicas."""

    directory: Path
    stack: contextlib.AsyncExitStack
    gateway: Gateway
    logged: list[tuple[str, str]] = field(default_factory=list)
    suspects: list[tuple[str, str, str]] = field(default_factory=list)
    version: int = 0

    def track(self) -> Track:
        """The track of the revision that serves deployment ``d``."""
        return self.gateway.tracks.of(self.gateway.table.deployments["d"])

    async def replica(self, name: str, respond: Respond = OK) -> Replica:
        replica = Replica(self.directory / name, respond)
        await self.stack.enter_async_context(replica.listening())
        return replica

    async def serve(self, *replicas: Replica, **changes: Any) -> None:
        """Make deployment ``d`` of these replicas, and endpoint ``e`` of it."""
        settings: dict[str, Any] = {
            "timeout_s": 5.0,
            "max_queue": 10,
            "max_body_mb": 1.0,
            "model_version": "7",
        }
        route = DeploymentRoute(
            name="d", revision=3, replicas=tuple(r.route for r in replicas), **{**settings, **changes}
        )
        await self.route({"d": route})

    async def route(self, deployments: dict[str, DeploymentRoute]) -> None:
        self.version += 1
        endpoints = {"e": EndpointRoute(name="e", traffic=dict.fromkeys(list(deployments)[:1], 100.0))}
        await self.gateway.set_table(
            RouteTable(version=self.version, deployments=deployments, endpoints=endpoints)
        )

    async def call(
        self,
        method: str,
        target: str,
        headers: Headers = JSON,
        body: bytes = b"{}",
        receive: Callable[[], Awaitable[Message]] | None = None,
    ) -> Answered | None:
        sent: list[Message] = []
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "raw_path": path.encode(),
            "path": path,
            "query_string": query.encode(),
            "headers": headers,
        }

        async def send(message: Message) -> None:
            sent.append(message)

        whole: Message = {"type": "http.request", "body": body, "more_body": False}
        await self.gateway(scope, receive or messages(then=whole), send)
        if not sent:
            return None
        start, *parts = sent
        assert start["type"] == "http.response.start"
        return Answered(start["status"], list(start["headers"]), b"".join(p["body"] for p in parts))

    async def post(self, target: str = SCORE, headers: Headers = JSON, body: bytes = b"{}") -> Answered:
        answered = await self.call("POST", target, headers, body)
        assert answered is not None
        return answered

    async def get(self, target: str, method: str = "GET") -> Answered:
        answered = await self.call(method, target, [])
        assert answered is not None
        return answered


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="g"))
    yield made
    shutil.rmtree(made)


Test = Callable[[Site], Awaitable[None]]
Run = Callable[[Test], None]


@pytest.fixture
def run(directory: Path) -> Run:
    async def at_a_site(test: Test) -> None:
        async with contextlib.AsyncExitStack() as stack:
            logged: list[tuple[str, str]] = []
            suspects: list[tuple[str, str, str]] = []
            gateway = Gateway(
                lambda name, text: logged.append((name, text)), lambda *s: suspects.append(s), None
            )

            async def end() -> None:
                for probe in gateway.probes:
                    probe.cancel()
                await asyncio.gather(*gateway.probes, return_exceptions=True)
                await gateway.upstream.close()

            stack.push_async_callback(end)
            await asyncio.wait_for(test(Site(directory, stack, gateway, logged, suspects)), 30)

    return lambda test: asyncio.run(at_a_site(test))


def messages(*parts: bytes, then: Message | None = None) -> Callable[[], Awaitable[Message]]:
    """Return a `receive` that gives parts of a body, then `then`, or else nothing any more."""
    waiting: list[Message] = [{"type": "http.request", "body": p, "more_body": True} for p in parts]
    if then is not None:
        waiting.append(then)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


DISCONNECT: Message = {"type": "http.disconnect"}
END: Message = {"type": "http.request", "body": b""}
LAST: Message = {"type": "http.request", "body": b"}"}


class TestOwnPaths:
    @pytest.mark.parametrize("path", ["/ping", "/health", "/version", "/metrics", "/api/2.0/endpoints/"])
    def test_they_answer_without_any_deployment(self, run: Run, path: str) -> None:
        async def test(site: Site) -> None:
            answered = await site.get(path)

            assert answered.status == 200
            assert answered.values(b"content-length") == [b"%d" % len(answered.body)]
            assert len(answered.values(b"x-request-id")) == 1

        run(test)

    def test_the_version_is_the_packages(self, run: Run) -> None:
        async def test(site: Site) -> None:
            assert (await site.get("/version")).body.decode() == __version__

        run(test)

    @pytest.mark.parametrize("path", ["/ping", "/version"])
    def test_head_is_get_without_the_body(self, run: Run, path: str) -> None:
        async def test(site: Site) -> None:
            got, headed = await site.get(path), await site.get(path, "HEAD")

            assert headed.body == b""
            assert headed.status == 200
            assert headed.values(b"content-length") == got.values(b"content-length")

        run(test)

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/"),
            ("POST", "/ping"),
            ("POST", "/invocations"),
            ("POST", "/deployments/d"),
            ("POST", "/deployments/nobody/invocations"),
            ("POST", "/deployments/D/invocations"),
            ("POST", "/endpoints/d/invocations"),
            ("POST", "/deployments/e/invocations"),
            ("GET", "/api/2.0/endpoints/nobody"),
            ("GET", "/" + "x" * 10_000),
        ],
    )
    def test_404_in_the_form_of_mlflow(self, run: Run, method: str, path: str) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"))

            answered = await site.call(method, path)

            assert answered is not None
            assert (answered.status, answered.error) == (404, "RESOURCE_DOES_NOT_EXIST")
            assert len(answered.body) < 1000

        run(test)

    def test_metrics_count_scoring_requests_by_status(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"))
            line = 'mlflow_restaurant_requests_total{deployment="d",revision="3",status="200"}'

            def count(text: str) -> float:
                return sum(float(row.split()[-1]) for row in text.splitlines() if row.startswith(line))

            before = count((await site.get("/metrics")).body.decode())
            await site.post()
            await site.post()
            answered = await site.get("/metrics")

            assert count(answered.body.decode()) == before + 2
            assert 'mlflow_restaurant_waiting_requests{deployment="d"} 0.0' in answered.body.decode()
            assert answered.values(b"content-type")[0].startswith(b"text/plain")

        run(test)


class Seen:
    """An application that keeps the headers it was given."""

    async def __call__(self, scope: dict[str, Any], receive: object, send: object) -> None:
        self.headers = scope["headers"]


class TestForwarding:
    @pytest.mark.parametrize("target", [SCORE, "/endpoints/e/invocations", "/deployments/%64/invocations"])
    def test_a_prediction_says_who_made_it(self, run: Run, target: str) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica)

            answered = await site.post(target, body=b'{"inputs": [1]}')

            assert (answered.status, answered.body) == (200, b'{"predictions": [1]}')
            assert answered.values(b"x-mlflow-deployment") == [b"d"]
            assert answered.values(b"x-mlflow-revision") == [b"3"]
            assert answered.values(b"x-mlflow-model-version") == [b"7"]
            assert answered.values(b"content-length") == [b"20"]
            got = replica.got[0]
            assert (got.method, got.target, got.body) == ("POST", "/invocations", b'{"inputs": [1]}')
            assert got.values(b"content-length") == [b"15"]

        run(test)

    def test_a_model_without_a_version_has_no_header_of_it(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"), model_version=None)

            assert (await site.post()).values(b"x-mlflow-model-version") == []

        run(test)

    def test_the_callers_request_id_is_kept(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"))

            answered = await site.post(headers=[*JSON, (b"x-request-id", b"abc-1")])

            assert answered.values(b"x-request-id") == [b"abc-1"]

        run(test)

    @pytest.mark.parametrize("given", [None, b"", b"a b", b"x" * 129, b"\xc3\xa4"])
    def test_without_a_good_one_a_new_request_id_is_made(self, run: Run, given: bytes | None) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"))
            headers = [*JSON, *([] if given is None else [(b"x-request-id", given)])]

            ids = [(await site.post(headers=headers)).values(b"x-request-id") for _ in range(2)]

            assert all(len(found) == 1 and found[0] not in (b"", given) for found in ids)
            assert ids[0] != ids[1]

        run(test)

    def test_headers_reach_the_replica_in_order_with_repeats_but_not_those_of_the_connection(
        self, run: Run
    ) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica)
            kept = [(b"x-a", b"1"), (b"cookie", b"k=v"), (b"x-a", b"2"), (b"x-b", b"b"), (b"x-a", b"")]
            of_the_connection = [
                (b"connection", b"keep-alive, x"),
                (b"te", b"trailers"),
                (b"expect", b"100-continue"),
            ]

            await site.post(headers=[*JSON, (b"host", b"caller"), *kept, *of_the_connection])

            got = replica.got[0]
            assert [h for h in got.headers if h[0] in (b"x-a", b"x-b", b"cookie")] == kept
            assert got.values(b"content-type") == [b"application/json"]
            assert b"caller" not in got.values(b"host")
            assert not {b"te", b"expect", b"user-agent", b"accept-encoding"} & {n for n, _ in got.headers}

        run(test)

    @pytest.mark.parametrize("value", ["ä €".encode(), b"\xe4"])
    def test_headers_that_are_not_ascii_reach_the_replica_byte_for_byte(self, run: Run, value: bytes) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica)

            await site.post(headers=[*JSON, (b"x-user", value)])

            # The client writes UTF-8; a replica undoes that before its application sees them.
            app = Seen()
            await with_headers_of_gateway(app)({"headers": replica.got[0].headers}, None, None)
            assert (b"x-user", value) in app.headers

        run(test)

    def test_headers_of_the_replica_come_back_in_order_with_repeats(self, run: Run) -> None:
        async def test(site: Site) -> None:
            answer = http(
                200,
                b"x",
                b"Content-Type: text/csv",
                b"Set-Cookie: a=1",
                b"X-Other: 1",
                b"set-cookie: b=2",
                b"Server: uvicorn",
                b"X-Request-Id: of-the-replica",
            )
            await site.serve(await site.replica("a", always(answer)))

            answered = await site.post(headers=[*JSON, (b"x-request-id", b"mine")])

            assert answered.headers[:4] == [
                (b"content-type", b"text/csv"),
                (b"set-cookie", b"a=1"),
                (b"x-other", b"1"),
                (b"set-cookie", b"b=2"),
            ]
            assert answered.values(b"server") == []
            assert answered.values(b"x-request-id") == [b"mine"]

        run(test)

    @pytest.mark.parametrize("query", ["a=1&b=%20c&a=%2F", "x", "q=%C3%A4+b"])
    def test_the_query_goes_along_as_it_is(self, run: Run, query: str) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica)

            await site.post(f"{SCORE}?{query}")

            assert replica.got[0].target == f"/invocations?{query}"

        run(test)

    @pytest.mark.parametrize("path", ["/ping", "/health", "/version", "/a%20b/%2F"])
    def test_other_paths_of_a_deployment_go_to_the_replica_without_a_body(self, run: Run, path: str) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a", always(http(200, b"\n")))
            await site.serve(replica)

            answered = await site.get(f"/deployments/d{path}")

            assert (answered.status, answered.body) == (200, b"\n")
            assert (replica.got[0].method, replica.got[0].target, replica.got[0].body) == ("GET", path, b"")

        run(test)

    def test_an_answer_is_not_unpacked_on_the_way(self, run: Run) -> None:
        async def test(site: Site) -> None:
            answer = http(200, b"\x1f\x8bnot really", b"Content-Encoding: gzip")
            await site.serve(await site.replica("a", always(answer)))

            answered = await site.post()

            assert answered.body == b"\x1f\x8bnot really"
            assert answered.values(b"content-encoding") == [b"gzip"]

        run(test)

    def test_a_chunked_answer_arrives_whole(self, run: Run) -> None:
        async def test(site: Site) -> None:
            answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
            await site.serve(await site.replica("a", always(answer)))

            answered = await site.post()

            assert answered.body == b"abc"
            assert answered.values(b"content-length") == [b"3"]
            assert answered.values(b"transfer-encoding") == []

        run(test)

    def test_a_stack_trace_goes_to_the_log_with_the_request_id(self, run: Run) -> None:
        async def test(site: Site) -> None:
            body = json.dumps({"error_code": "BAD_REQUEST", "message": "no", "stack_trace": "Traceback: x"})
            answer = http(400, body.encode(), b"Content-Type: application/json")
            await site.serve(await site.replica("a", always(answer)))

            answered = await site.post(headers=[*JSON, (b"x-request-id", b"id-1")])

            assert (answered.status, answered.error) == (400, "BAD_REQUEST")
            assert answered.values(b"content-length") == [b"%d" % len(answered.body)]
            [(name, text)] = site.logged
            assert name == "d"
            assert "id-1" in text
            assert "Traceback: x" in text

        run(test)

    def test_who_causes_errors_does_not_fill_the_log(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a", always(http(500, b"x" * 1000))))
            site.gateway.budget.size = 1000

            for _ in range(3):
                assert (await site.post()).status == 500
            assert len(site.logged) == 1
            site.gateway.budget.windows["d"].ends = 0
            await site.post()

            assert len(site.logged) == 2
            assert site.logged[1][1].startswith("2 errors were left out here")

        run(test)

    def test_without_a_content_type_it_is_refused(self, run: Run) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica)

            answered = await site.post(headers=[])

            assert (answered.status, answered.error) == (400, "INVALID_PARAMETER_VALUE")
            assert replica.got == []

        run(test)


class TestBodies:
    def test_parts_are_put_together(self, run: Run) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica)

            answered = await site.call("POST", SCORE, receive=messages(b'{"in', b"", b'puts": 1}', then=END))

            assert answered is not None
            assert answered.status == 200
            assert replica.got[0].body == b'{"inputs": 1}'

        run(test)

    def test_413_by_its_stated_length_before_any_of_it_is_read(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"), max_body_mb=0.001)

            answered = await site.call(
                "POST", SCORE, [*JSON, (b"content-length", b"1049")], receive=messages()
            )

            assert answered is not None
            assert (answered.status, answered.error) == (413, "BAD_REQUEST")
            assert b"max_body_mb" in answered.body

        run(test)

    @pytest.mark.parametrize("parts", [[b"x" * 1049], [b"x" * 600] * 2, [b"x"] * 2000])
    def test_413_by_what_arrives_without_waiting_for_the_end(self, run: Run, parts: list[bytes]) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica, max_body_mb=0.001, timeout_s=0.5)

            answered = await site.call("POST", SCORE, receive=messages(*parts))

            assert answered is not None
            assert answered.status == 413
            assert replica.got == []

        run(test)

    def test_a_body_of_exactly_the_limit_is_taken(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"), max_body_mb=0.001)

            assert (await site.post(body=b"x" * 1048)).status == 200
            assert (await site.post(body=b"x" * 1049)).status == 413

        run(test)

    def test_503_when_others_send_so_much_at_once_that_there_is_no_room(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"))
            site.gateway.room = Room(0.001)
            slow = asyncio.ensure_future(site.call("POST", SCORE, receive=messages(b"x" * 600)))
            await asyncio.sleep(0)

            refused = await site.post(body=b"x" * 600)
            assert (refused.status, refused.error) == (503, "REQUEST_LIMIT_EXCEEDED")
            assert len(refused.values(b"retry-after")) == 1
            assert (await site.post(body=b"x" * 400)).status == 200

            slow.cancel()
            await asyncio.wait([slow])
            assert (await site.post(body=b"x" * 600)).status == 200
            assert site.gateway.room.used == 0

        run(test)

    def test_408_when_it_does_not_arrive_in_time(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"), timeout_s=0.05)

            answered = await site.call("POST", SCORE, receive=messages(b"{"))

            assert answered is not None
            assert (answered.status, answered.error) == (408, "DEADLINE_EXCEEDED")
            assert site.suspects == []

        run(test)

    def test_the_time_that_a_body_takes_counts(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"), timeout_s=30)
            calls: list[Call] = []
            moments: list[float] = []
            submit = site.gateway.submit

            def seen(route: DeploymentRoute, call: Call) -> Batcher:
                calls.append(call)
                return submit(route, call)

            async def receive() -> Message:
                if moments:  # the caller waits for its answer
                    await asyncio.Event().wait()
                await asyncio.sleep(0.02)
                moments.append(time.monotonic())
                return {"type": "http.request", "body": b"{}", "more_body": False}

            with mock.patch.object(site.gateway, "submit", seen):
                await site.call("POST", SCORE, receive=receive)

            [call] = calls
            assert call.deadline == call.arrived + 30
            assert call.arrived < moments[0] <= call.started

        run(test)

    @pytest.mark.parametrize("parts", [[], [b"{"]])
    def test_a_caller_who_goes_away_while_sending_gets_nothing_and_reaches_no_replica(
        self, run: Run, parts: list[bytes]
    ) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica)

            assert await site.call("POST", SCORE, receive=messages(*parts, then=DISCONNECT)) is None

            assert replica.got == []
            assert (await site.post()).status == 200

        run(test)

    def test_a_caller_who_goes_away_while_waiting_leaves_the_queue_and_reaches_no_replica(
        self, run: Run
    ) -> None:
        async def test(site: Site) -> None:
            await site.serve()
            gone = asyncio.Event()
            waiting: list[Message] = [END]

            async def receive() -> Message:
                if waiting:
                    return waiting.pop()
                await gone.wait()
                return DISCONNECT

            before = asyncio.all_tasks()
            leaves = asyncio.ensure_future(site.call("POST", SCORE, receive=receive))
            stays = asyncio.ensure_future(site.post(body=b"stays"))
            while len(site.track().batcher.queue) < 2:
                await asyncio.sleep(0)
            gone.set()

            assert await leaves is None
            assert len(site.track().batcher.queue) == 1
            assert [sample.status for sample in site.gateway.recent.samples["d"]] == [499]
            replica = await site.replica("a")
            await site.serve(replica)
            assert (await stays).status == 200
            assert [got.body for got in replica.scored] == [b"stays"]
            assert {task for task in asyncio.all_tasks() - before if task not in replica.tasks} == set()

        run(test)

    def test_a_caller_who_goes_away_while_it_waits_for_a_ping_leaves_the_queue(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve()

            call = site.call("GET", "/deployments/d/ping", receive=messages(then=DISCONNECT))

            assert await call is None
            assert not site.track().dispatcher.waiting

        run(test)

    def test_a_deployment_deleted_while_a_body_arrives_is_an_error_in_the_form_of_mlflow(
        self, run: Run
    ) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"))

            answered = await slowly(site, lambda: site.route({}))

            assert (answered.status, answered.error) == (404, "RESOURCE_DOES_NOT_EXIST")

        run(test)

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ((3, None), (4, None)),
            ((3, ("canary", 4)), (3, None)),
            ((3, ("canary", 4)), (4, None)),
            ((3, ("canary", 4)), (3, ("canary", 5))),
            ((3, ("shadow", 4)), (3, None)),
            ((3, ("shadow", 4)), (4, None)),
            ((3, None), (3, ("shadow", 4))),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("target", [SCORE, "/endpoints/e/invocations"])
    def test_a_revision_that_changes_while_a_body_arrives_fails_no_request(
        self, run: Run, target: str, before: Sides, after: Sides
    ) -> None:
        async def test(site: Site) -> None:
            replicas = {number: await site.replica(str(number)) for number in (3, 4, 5)}
            await site.route({"d": tried(replicas, *before)})

            answered = await slowly(site, lambda: site.route({"d": tried(replicas, *after)}), target)

            assert (answered.status, answered.body) == (200, b'{"predictions": [1]}')
            now = [after[0], after[1][1]] if after[1] else [after[0]]
            assert int(answered.values(b"x-mlflow-revision")[0]) in now

        run(test)

    def test_an_endpoint_that_sends_elsewhere_when_a_body_is_there_does_so(self, run: Run) -> None:
        async def test(site: Site) -> None:
            replicas = {3: await site.replica("3")}
            await site.route({"d": tried(replicas, 3)})
            other = tried(replicas, 3).model_copy(update={"name": "other"})

            answered = await slowly(
                site, lambda: site.route({"other": other}), target="/endpoints/e/invocations"
            )

            assert answered.status == 200
            assert answered.values(b"x-mlflow-deployment") == [b"other"]

        run(test)

    def test_a_body_that_is_too_large_by_now_is_refused(self, run: Run) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")
            await site.serve(replica)

            answered = await slowly(site, lambda: site.serve(replica, max_body_mb=0.000001))

            assert (answered.status, answered.error) == (413, "BAD_REQUEST")

        run(test)


Sides = tuple[int, tuple[str, int] | None]


def tried(replicas: dict[int, Replica], number: int, trial: tuple[str, int] | None = None) -> DeploymentRoute:
    """Return the route of a revision of deployment ``d``, and of one that gets all requests, or copies of them."""
    route = DeploymentRoute(
        name="d",
        revision=number,
        timeout_s=5,
        max_queue=10,
        max_body_mb=1,
        replicas=(replicas[number].route,),
    )
    if trial is None:
        return route
    mode, new = trial
    beside = {"mode": mode, "share": 100, "step": 1, "route": tried(replicas, new)}
    return route.model_copy(update={"trial": TrialRoute.model_validate(beside)})


async def slowly(site: Site, change: Callable[[], Awaitable[None]], target: str = SCORE) -> Answered:
    """Score with a body of which half is there when something changes, and the rest comes after that."""
    rest = asyncio.Event()
    waiting: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, LAST]

    async def receive() -> Message:
        if waiting == [LAST]:
            await rest.wait()
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    call = asyncio.ensure_future(site.call("POST", target, receive=receive))
    await asyncio.sleep(0)
    await change()
    rest.set()
    answered = await call
    assert answered is not None
    return answered


class TestTrouble:
    def test_503_with_retry_after_when_no_replica_comes_in_time(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(timeout_s=0.05)

            answered = await site.post()

            assert (answered.status, answered.error) == (503, "TEMPORARILY_UNAVAILABLE")
            assert int(answered.values(b"retry-after")[0]) >= 1
            assert answered.values(b"x-mlflow-deployment") == [b"d"]

        run(test)

    def test_503_with_retry_after_when_too_many_wait(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(max_queue=0)

            answered = await site.post()

            assert (answered.status, answered.error) == (503, "REQUEST_LIMIT_EXCEEDED")
            assert int(answered.values(b"retry-after")[0]) >= 1

        run(test)

    def test_who_waits_is_answered_by_a_replica_that_comes(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve()
            waiting = asyncio.ensure_future(site.post())
            await asyncio.sleep(0)

            await site.serve(await site.replica("a"))

            assert (await waiting).status == 200

        run(test)

    def test_504_and_a_suspect_when_a_replica_does_not_answer(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a", hang), timeout_s=0.1)

            answered = await site.post()

            assert (answered.status, answered.error) == (504, "DEADLINE_EXCEEDED")
            [(deployment, key, reason)] = site.suspects
            assert (deployment, key) == ("d", "a")
            assert "timeout_s=0.1" in reason

        run(test)

    def test_a_suspect_gets_no_more_requests(self, run: Run) -> None:
        async def test(site: Site) -> None:
            hanging, good = await site.replica("a", hang), await site.replica("b")
            await site.serve(hanging, timeout_s=0.1)
            await site.post()

            await site.serve(hanging, good)

            assert [(await site.post()).status for _ in range(4)] == [200] * 4
            assert len(hanging.scored) == 1

        run(test)

    def test_waiting_in_the_queue_does_not_make_a_working_replica_suspect(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def slowly(_: Got) -> bytes:
            await asyncio.sleep(0.6)
            return http(200, b"{}")

        async def test(site: Site) -> None:
            monkeypatch.setattr(dispatch, "AT_ONCE", 1)
            await site.serve(await site.replica("a", slowly), timeout_s=1)

            first, second = await asyncio.gather(site.post(), site.post())

            assert first.status == 200
            assert second.status in (200, 503, 504)
            assert site.suspects == []

        run(test)

    def test_a_broken_connection_is_tried_once_more_on_another_replica(self, run: Run) -> None:
        async def test(site: Site) -> None:
            replicas: list[Replica] = []

            async def first_breaks(_: Got) -> bytes:
                return http(200, b"{}") if sum(len(r.scored) for r in replicas) > 1 else b""

            replicas += [await site.replica("a", first_breaks), await site.replica("b", first_breaks)]
            await site.serve(*replicas)

            answered = await site.post(body=b"[1]")

            assert answered.status == 200
            assert [g.body for r in replicas for g in r.scored] == [b"[1]", b"[1]"]
            assert answered.values(b"x-mlflow-revision") == [b"3"]

        run(test)

    def test_a_connection_that_breaks_in_the_middle_of_the_answer_is_tried_once_more(self, run: Run) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a")

            async def first_is_cut(got: Got) -> bytes:
                if got.method == "GET" or len(replica.scored) > 1:
                    return http(200, b"whole")
                return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nwh"

            replica.respond = first_is_cut
            await site.serve(replica)

            assert (await site.post()).body == b"whole"

        run(test)

    def test_a_connection_that_the_replica_closed_after_an_answer_is_not_used_again(self, run: Run) -> None:
        async def test(site: Site) -> None:
            replica = await site.replica("a", always(http(500, b"Internal Server Error", close=True)))
            await site.serve(replica)

            assert [(await site.post()).status for _ in range(5)] == [500] * 5
            assert len(replica.got) == 5

        run(test)

    def test_a_request_that_breaks_two_connections_is_not_tried_for_ever(self, run: Run) -> None:
        async def test(site: Site) -> None:
            a, b = await site.replica("a", BREAK), await site.replica("b", BREAK)
            await site.serve(a, b)

            answered = await site.post()

            assert (answered.status, answered.error) == (503, "TEMPORARILY_UNAVAILABLE")
            assert len(a.scored) + len(b.scored) == 2
            assert all(s.in_flight == 0 for s in site.track().dispatcher.replicas.values())

        run(test)

    def test_a_ping_that_meets_a_broken_connection_is_sent_once_more(self, run: Run) -> None:
        async def test(site: Site) -> None:
            breaking = True

            async def once(_: Got) -> bytes:
                nonlocal breaking
                broken, breaking = breaking, False
                return b"" if broken else http(200, b"\n")

            await site.serve(await site.replica("a", once))

            assert (await site.get("/deployments/d/version")).status == 200

        run(test)

    def test_a_ping_that_meets_two_is_answered_so(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a", BREAK), await site.replica("b", BREAK))

            assert (await site.get("/deployments/d/version")).error == "TEMPORARILY_UNAVAILABLE"

        run(test)

    def test_a_ping_passes_over_who_is_not_there(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(Replica(site.directory / "a", OK), await site.replica("b"))

            assert (await site.get("/deployments/d/version")).status == 200

        run(test)

    def test_a_replica_that_is_not_there_is_passed_over(self, run: Run) -> None:
        async def test(site: Site) -> None:
            there = await site.replica("b")
            await site.serve(Replica(site.directory / "a", OK), there)

            assert [(await site.post()).status for _ in range(3)] == [200] * 3
            assert len(there.scored) == 3

        run(test)

    def test_who_finds_nobody_there_is_answered_by_the_replacement(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(Replica(site.directory / "a", OK))
            waiting = asyncio.ensure_future(site.post())
            while not site.track().batcher.queue:
                await asyncio.sleep(0.001)

            await site.serve(await site.replica("b"))

            assert (await waiting).status == 200

        run(test)

    def test_a_replica_that_could_not_be_reached_for_a_moment_serves_again(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"), timeout_s=0.3)
            send, failed = site.gateway.upstream.send, 0

            async def fails_once(*args: Any, **kwargs: Any) -> Answer:
                nonlocal failed
                failed += 1
                if failed == 1:
                    raise ConnectFailed("Too many open files")
                return await send(*args, **kwargs)

            monkeypatch.setattr(site.gateway.upstream, "send", fails_once)
            await site.post()

            assert (await site.post()).status == 200

        run(test)

    def test_callers_get_json_when_a_deployment_is_deleted_as_they_wait(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve()
            waiting = [asyncio.ensure_future(site.post()) for _ in range(3)]
            while len(site.track().batcher.queue) < 3:
                await asyncio.sleep(0.001)

            await site.route({})

            for answered in await asyncio.gather(*waiting):
                assert answered.status in (404, 503)
                assert answered.error

        run(test)


class TestTables:
    def test_an_older_table_is_ignored(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a"))

            await site.gateway.set_table(RouteTable(version=0))

            assert (await site.post()).status == 200

        run(test)

    def test_draining_waits_for_what_is_in_flight(self, run: Run) -> None:
        async def test(site: Site) -> None:
            working, done = asyncio.Event(), asyncio.Event()

            async def when_told(_: Got) -> bytes:
                working.set()
                await done.wait()
                return http(200, b"old")

            await site.serve(await site.replica("a", when_told))
            in_flight = asyncio.ensure_future(site.post())
            await working.wait()
            await site.serve(await site.replica("b", always(http(200, b"new"))))
            draining = asyncio.ensure_future(site.gateway.drain("a", 5))

            assert (await site.post()).body == b"new"
            assert not draining.done()
            done.set()
            assert (await in_flight).body == b"old"
            assert await draining

        run(test)

    def test_draining_gives_up_in_time_and_unknown_replicas_are_drained_already(self, run: Run) -> None:
        async def test(site: Site) -> None:
            await site.serve(await site.replica("a", hang), timeout_s=2)
            in_flight = asyncio.ensure_future(site.post())
            while not site.track().dispatcher.replicas["a"].in_flight:
                await asyncio.sleep(0.001)
            await site.serve()

            assert not await site.gateway.drain("a", 0.01)
            assert await site.gateway.drain("unknown", 0.01)
            in_flight.cancel()
            await asyncio.wait([in_flight])

        run(test)

    def test_a_trial_tells_for_how_long_requests_are_under_way(self, run: Run) -> None:
        async def test(site: Site) -> None:
            done = asyncio.Event()

            async def when_told(got: Got) -> bytes:
                await done.wait()
                return await OK(got)

            replicas = {3: await site.replica("3"), 4: await site.replica("4", when_told)}
            await site.route({"d": tried(replicas, 3, ("canary", 4))})
            asking = [asyncio.ensure_future(site.post()) for _ in range(3)]
            while len(replicas[4].scored) < 3:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)

            found = site.gateway.trials.to_json()["d"]

            assert sum(found["new"]["under_way"]) == 3
            assert sum(found["new"]["under_way"][bucket_of(0.02) : bucket_of(5) + 1]) == 3
            assert (sum(found["old"]["under_way"]), found["new"]["requests"]) == (0, 0)
            done.set()
            assert [(await call).status for call in asking] == [200] * 3
            assert sum(site.gateway.trials.to_json()["d"]["new"]["under_way"]) == 0

        run(test)

    def test_nothing_is_told_of_a_deployment_that_is_gone(self, run: Run) -> None:
        async def test(site: Site) -> None:
            working, done = asyncio.Event(), asyncio.Event()

            async def when_told(_: Got) -> bytes:
                working.set()
                await done.wait()
                return b""

            await site.serve(await site.replica("a"))
            await site.post()
            assert b'deployment="d"' in (await site.get("/metrics")).body
            await site.serve(await site.replica("b", when_told))
            in_flight = asyncio.ensure_future(site.post())
            await working.wait()

            await site.route({})
            done.set()

            assert (await in_flight).status == 404
            assert b'deployment="d"' not in (await site.get("/metrics")).body

        run(test)

    def test_only_requests_are_answered(self, run: Run) -> None:
        async def test(site: Site) -> None:
            async def never() -> Message:
                raise AssertionError("nothing is to be received")

            async def send(_: Message) -> None:
                raise AssertionError("nothing is to be sent")

            await site.gateway({"type": "lifespan"}, never, send)

        run(test)
