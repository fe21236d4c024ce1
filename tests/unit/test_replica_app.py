"""What the replica process puts around MLflow's application."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.types import DataType

from mlflow_restaurant.process.merging import APART, COUNTS, NEVER, TURN
from mlflow_restaurant.replica import app, fast, serving, trial
from mlflow_restaurant.replica.model_guard import IN_TURN, Guard

BODY = json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1.5]]}}).encode()


@pytest.mark.parametrize("sent", [True, False])
def test_the_gateway_says_whose_turn_it_is(sent: bool) -> None:
    seen: list[bool] = []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        seen.append(IN_TURN.get())

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(IN_TURN.get())
        return []

    headers = [(TURN, b"1")] if sent else [(b"x-other", b"1")]
    asyncio.run(app.with_headers_of_gateway(asgi)({"headers": headers}, None, None))
    environ = {"HTTP_X_RESTAURANT_TURN": "1"} if sent else {}
    contextvars.copy_context().run(app.with_turn(wsgi), environ, None)

    assert seen == [sent, sent]


def test_it_is_run_by_its_path_where_the_package_is_missing(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; "
        f"sys.path.insert(0, {str(Path(app.__file__).parent)!r}); "
        f"found = runpy.run_path({app.__file__!r}, run_name='replica'); "
        "print(found['merging'].APART, found['TRACES'].most, 'merging' in sys.modules, 'lease' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.stdout.split() == [str(APART), "100", "False", "False"]


# -- shortcuts in front of MLflow's application ----------------------------------------------------------------------


async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_what_cannot_tell_requests_apart_asks_for_each_alone() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(COUNTS, b"1,1")]}
    asyncio.run(app.with_headers_of_gateway(elsewhere)(scope, None, send))
    assert sent[0]["status"] == NEVER

    statuses: list[str] = []
    environ = {"HTTP_X_RESTAURANT_COUNTS": "1,1"}
    wsgi = app.with_turn(lambda environ, start: [b"not reached"])
    assert list(wsgi(environ, lambda status, headers: statuses.append(status))) == []
    assert statuses == [f"{NEVER} Not Implemented"]


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = trial.recorded({"a": DataType.double})
    assert isinstance(app.with_shortcuts(elsewhere, model, Guard(None)), serving.Scoring)

    monkeypatch.setenv(app.SHORTCUTS_VARIABLE, "off")
    assert app.with_shortcuts(elsewhere, model, Guard(None)) is elsewhere


def test_a_model_without_any_is_mlflows_alone() -> None:
    model, _ = trial.recorded({"a": DataType.datetime})
    assert app.with_shortcuts(elsewhere, model, Guard(None)) is elsewhere


def test_what_goes_through_them_is_guarded() -> None:
    model, _ = trial.recorded({"a": DataType.double})
    guard = Guard(None)
    reported: list[BaseException] = []
    guard.on_exit = reported.append
    scoring = app.with_shortcuts(elsewhere, model, guard)

    def leave(*_: Any, **__: Any) -> None:
        raise SystemExit(1)

    model._predict_fn = leave
    status, content = scoring.answer(BODY)

    assert status == 400
    assert "unexpected error" in json.loads(content)["message"]
    assert [type(e) for e in reported] == [SystemExit]


async def call(scoring: Any, scope: dict[str, Any], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await scoring(scope, receive, send)
    return sent


def request(**changes: Any) -> dict[str, Any]:
    headers = [(b"content-type", b"application/json")]
    return {"type": "http", "method": "POST", "path": "/invocations", "headers": headers, **changes}


@pytest.fixture
def scoring() -> serving.Scoring:
    model, _ = trial.recorded({"a": DataType.double})
    return serving.Scoring(elsewhere, fast.Shortcuts(model))


@pytest.mark.parametrize("parts", [[BODY], [BODY[:7], BODY[7:], b""]], ids=["whole", "in parts"])
def test_json_is_scored(scoring: serving.Scoring, parts: list[bytes]) -> None:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False
    start, body = asyncio.run(call(scoring, request(), messages))

    assert start["status"] == 200
    assert (b"content-type", b"application/json") in start["headers"]
    assert body["body"] == b'{"predictions": [1.5]}'


def test_an_error_of_mlflow_is_an_answer(scoring: serving.Scoring) -> None:
    start, body = asyncio.run(call(scoring, request(), [{"type": "http.request", "body": b"{}"}]))

    assert start["status"] == 400
    assert json.loads(body["body"])["error_code"] == "BAD_REQUEST"


def test_a_caller_that_left_gets_no_answer(scoring: serving.Scoring) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": BODY[:5], "more_body": True},
        {"type": "http.disconnect"},
    ]
    assert asyncio.run(call(scoring, request(), messages)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "GET"},
        {"path": "/ping"},
        {"path": "/invocations/"},
        {"headers": []},
        {"headers": [(b"content-type", b"text/csv")]},
        {"headers": [(b"content-type", b"application/json; charset=utf-8")]},
        {"headers": [(b"content-type", b"text/csv"), (b"content-type", b"application/json")]},
        {"type": "lifespan", "method": None},
    ],
    ids=str,
)
def test_the_rest_is_mlflows(scoring: serving.Scoring, changes: dict[str, Any]) -> None:
    assert asyncio.run(call(scoring, request(**changes), []))[0]["status"] == 204


# -- the server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        yield Path(folder) / "replica.sock"


def ask(path: Path, data: bytes, end: bytes, answers: int = 1) -> bytes:
    """Send requests and return what comes back, up to `end` of so many answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(30)
        caller.connect(str(path))
        caller.sendall(data)
        received = b""
        while received.count(end) < answers:
            more = caller.recv(65536)
            assert more, received
            received += more
        return received


@contextlib.contextmanager
def serving_at(path: Path, application: Any) -> Iterator[app.Server]:
    """Serve in a thread, until the end of the block or until the server is stopped within."""
    server = app.Server(application, app.bind(str(path)), 1)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop(server.exit_code)
        thread.join(30)
    assert not thread.is_alive()


ANSWER = b'{"predictions": [1.5]}'
POST = (
    b"POST /invocations HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)


def test_it_answers_pipelined_requests(scoring: serving.Scoring, path: Path) -> None:
    with serving_at(path, scoring):
        received = ask(path, POST * 3, ANSWER, answers=3)

    assert received.count(b"HTTP/1.1 200 OK") == 3


def test_it_sleeps_until_there_is_something_to_do(
    scoring: serving.Scoring, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    ticks: list[int] = []

    async def tick(self: Any, counter: int) -> bool:
        ticks.append(counter)
        return False

    monkeypatch.setattr(uvicorn.Server, "on_tick", tick)
    with serving_at(path, scoring):
        assert b"200 OK" in ask(path, POST, ANSWER)

    assert ticks == []


def test_a_stop_from_a_thread_ends_it_with_that_status(path: Path) -> None:
    servers: list[app.Server] = []

    async def ending(scope: Any, receive: Any, send: Any) -> None:
        await elsewhere(scope, receive, send)
        await asyncio.to_thread(servers[0].stop, app.EXIT_MODEL_EXITED)

    with serving_at(path, ending) as server:
        servers.append(server)
        ask(path, POST, b"\r\n\r\n")

    assert server.exit_code == app.EXIT_MODEL_EXITED
