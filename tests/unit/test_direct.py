"""Connections of a replica whose JSON is scored in the thread that reads it."""

from __future__ import annotations

import contextlib
import contextvars
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_restaurant.replica import app, direct
from mlflow_restaurant.replica.model_guard import IN_TURN

TIMEOUT_S = 30
LAST = contextvars.ContextVar("LAST", default=b"none")


class Echo:
    """Scores a body as itself; tells who scored it; answers everything else with what was asked."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.bodies: list[bytes] = []
        self.before = threading.Event()
        self.go_on = threading.Event()
        self.elsewhere: list[tuple[str, str, bytes]] = []

    def answer(self, body: bytes, counts: bytes | None = None) -> tuple[int, bytes]:
        self.threads.add(threading.current_thread().name)
        self.bodies.append(body)
        if body == b"fail":
            raise RuntimeError("no")
        if body == b"wait":
            self.before.set()
            assert self.go_on.wait(TIMEOUT_S)
        if body == b"turn":
            return 200, str(IN_TURN.get()).encode()
        if body == b"context":
            seen = LAST.get()
            LAST.set(b"mine")
            return 200, seen
        return (422 if body == b"bad" else 200), body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.elsewhere.append((scope["method"], scope["path"], body))
        content = b"elsewhere"
        headers = [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[tuple[Path, app.Server]]:
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        path = Path(folder) / "replica.sock"
        running = app.Server(echo, app.bind(str(path)), 5)
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            yield path, running
        finally:
            echo.go_on.set()
            running.stop(0)
            thread.join(TIMEOUT_S)
        assert not thread.is_alive()


@pytest.fixture
def caller(server: tuple[Path, app.Server]) -> Iterator[socket.socket]:
    with connected(server[0]) as connection:
        yield connection


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        yield connection


def request(
    body: bytes, *more: bytes, target: bytes = b"/invocations", content_type: bytes = b"application/json"
) -> bytes:
    lines = [b"POST %b HTTP/1.1" % target, b"host: r", b"content-type: %b" % content_type]
    return b"\r\n".join([*lines, *more, b"content-length: %d" % len(body), b"", body])


def answers(caller: socket.socket, count: int = 1) -> list[tuple[int, bytes]]:
    """Read so many answers from a connection."""
    found: list[tuple[int, bytes]] = []
    rest = b""
    while len(found) < count:
        head, separator, after = rest.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0
        )
        if not separator or len(after) < length:
            more = caller.recv(1 << 16)
            assert more, rest
            rest += more
            continue
        found.append((int(head.split()[1]), after[:length]))
        rest = after[length:]
    assert rest == b""
    return found


def test_json_is_scored_in_the_thread_of_the_connection(caller: socket.socket, echo: Echo) -> None:
    for body in (b"one", b"two", b"bad", b""):
        caller.sendall(request(body))
        assert answers(caller) == [(422 if body == b"bad" else 200, body)]
    assert echo.threads == {"scoring"}
    assert echo.elsewhere == []


def test_a_large_body_may_come_in_pieces(caller: socket.socket, echo: Echo) -> None:
    body = bytes(range(256)) * 20_000
    whole = request(body)
    for start in range(0, len(whole), 100_003):
        caller.sendall(whole[start : start + 100_003])
    assert answers(caller) == [(200, body)]
    assert echo.elsewhere == []


@pytest.mark.parametrize(
    "asked",
    [
        b"GET /ping HTTP/1.1\r\nhost: r\r\n\r\n",
        request(b"a,b", content_type=b"text/csv"),
        request(b"a,b", b"content-type: text/csv"),
        request(b"x", target=b"/invocations?a=b"),
        request(b"x", content_type=b"application/json; charset=utf-8"),
        b"POST /invocations HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n0\r\n\r\n",
    ],
    ids=["ping", "csv", "two types", "query", "charset", "chunked"],
)
def test_anything_else_goes_to_the_application_with_all_that_follows(
    caller: socket.socket, echo: Echo, asked: bytes
) -> None:
    caller.sendall(request(b"first"))
    assert answers(caller) == [(200, b"first")]
    for once_more in (asked, asked, request(b"last")):
        caller.sendall(once_more)
        assert answers(caller) == [(200, b"elsewhere")]
    assert len(echo.elsewhere) == 3
    assert echo.elsewhere[-1] == ("POST", "/invocations", b"last")


def test_a_large_body_for_the_application_arrives_whole(caller: socket.socket, echo: Echo) -> None:
    body = bytes(range(256)) * 20_000
    caller.sendall(request(body, content_type=b"text/csv"))
    assert answers(caller) == [(200, b"elsewhere")]
    assert echo.elsewhere == [("POST", "/invocations", body)]


def test_requests_sent_ahead_are_all_answered(caller: socket.socket, echo: Echo) -> None:
    caller.sendall(request(b"one") + request(b"two") + request(b"three"))
    assert len(answers(caller, 3)) == 3


def test_what_is_no_http_is_refused(caller: socket.socket) -> None:
    caller.sendall(b"\x16\x03\x01nonsense\r\n\r\n")
    assert caller.recv(1 << 16).startswith(b"HTTP/1.1 400")


def test_what_mlflow_answers_with_a_bare_500_is_one_here(
    caller: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    caller.sendall(request(b"fail"))
    assert answers(caller) == [(500, b"Internal Server Error")]
    assert caller.recv(1) == b""
    assert "RuntimeError: no" in capfd.readouterr().err


def test_the_connection_ends_when_the_caller_wants_that(caller: socket.socket) -> None:
    caller.sendall(request(b"one", b"connection: close"))
    assert answers(caller) == [(200, b"one")]
    assert caller.recv(1) == b""


def test_a_caller_that_leaves_disturbs_nobody(server: tuple[Path, app.Server], echo: Echo) -> None:
    with connected(server[0]) as first:
        first.sendall(request(b"whole body")[:-5])
    with connected(server[0]) as second:
        second.sendall(request(b"wait"))
        assert echo.before.wait(TIMEOUT_S)
    echo.go_on.set()
    with connected(server[0]) as third:
        third.sendall(request(b"third"))
        assert answers(third) == [(200, b"third")]
    assert b"whole" not in b"".join(echo.bodies)


def test_connections_are_served_beside_each_other(server: tuple[Path, app.Server], echo: Echo) -> None:
    with connected(server[0]) as slow, connected(server[0]) as quick:
        slow.sendall(request(b"wait"))
        assert echo.before.wait(TIMEOUT_S)
        quick.sendall(request(b"quick"))
        assert answers(quick) == [(200, b"quick")]
        quick.sendall(b"GET /ping HTTP/1.1\r\nhost: r\r\n\r\n")
        assert answers(quick) == [(200, b"elsewhere")]
        echo.go_on.set()
        assert answers(slow) == [(200, b"wait")]


def test_predictions_at_a_time_are_limited(echo: Echo) -> None:
    turn, here = threading.Semaphore(0), threading.Event()
    ours, theirs = socket.socketpair()
    connection = direct.Connection(theirs, echo.answer, turn, lambda *_: None, lambda _: here.set())
    with ours:
        connection.start()
        ours.sendall(request(b"x", b"connection: close"))
        ours.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ours.recv(1)
        assert echo.bodies == []
        turn.release()
        ours.settimeout(TIMEOUT_S)
        assert answers(ours) == [(200, b"x")]
        assert here.wait(TIMEOUT_S)


def test_each_request_has_a_context_of_its_own(caller: socket.socket) -> None:
    for _ in range(2):
        caller.sendall(request(b"context"))
        assert answers(caller) == [(200, b"none")]


def test_each_request_says_whether_it_is_to_wait_for_its_turn(caller: socket.socket) -> None:
    for more, expected in ((b"x-restaurant-turn: 1", b"True"), (b"x-other: 1", b"False")):
        caller.sendall(request(b"turn", more))
        assert answers(caller) == [(200, expected)]


def test_a_stop_waits_for_the_answer_on_its_way_and_for_no_idle_caller(
    server: tuple[Path, app.Server], echo: Echo
) -> None:
    path, running = server
    with connected(path) as idle, connected(path) as busy:
        idle.sendall(request(b"once"))
        assert answers(idle) == [(200, b"once")]
        busy.sendall(request(b"wait"))
        assert echo.before.wait(TIMEOUT_S)
        running.stop(0)
        assert idle.recv(1) == b""
        echo.go_on.set()
        assert answers(busy) == [(200, b"wait")]
        assert busy.recv(1) == b""


def test_a_lack_of_descriptors_or_threads_passes(
    server: tuple[Path, app.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[direct.Connection] = []
    start = direct.Connection.start

    def start_later(self: direct.Connection) -> None:
        if not refused:
            refused.append(self)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(direct.Connection, "start", start_later)
    with connected(server[0]) as first:
        assert first.recv(1) == b""
    with connected(server[0]) as second:
        second.sendall(request(json.dumps([1]).encode()))
        assert answers(second) == [(200, b"[1]")]
