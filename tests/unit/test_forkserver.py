"""Jobs in processes: forked from a fork server that is started on demand, or in a fresh interpreter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from mlflow_restaurant.home import Home
from mlflow_restaurant.process import forkserver
from mlflow_restaurant.process.child import Child
from mlflow_restaurant.process.fork_launcher import FORKSERVER_ID, ForkLauncher
from mlflow_restaurant.process.forkserver import (
    JOBS,
    THREADS_SAFE_TO_FORK,
    ForkServer,
    is_gone,
    load_job,
    receive_request,
    reporter,
    unexpected_threads,
)
from mlflow_restaurant.process.launcher import Launcher, needs_fresh_process
from mlflow_restaurant.process.lease import Lease
from mlflow_restaurant.process.records import read_record
from mlflow_restaurant.process.spawn_launcher import SpawnLauncher
from mlflow_restaurant.process.watch import end_process

PATIENCE_S = 120
SETTLE_S = 3
T = TypeVar("T")


@dataclass
class Site:
    """A home, and the event loop in which its processes are started."""

    home: Home
    loop: asyncio.AbstractEventLoop
    launcher: ForkLauncher

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE_S))

    async def launch(
        self,
        job: str,
        args: Mapping[str, Any],
        *,
        env: Mapping[str, str] | None = None,
        launcher: Launcher | None = None,
    ) -> Child:
        started = launcher or self.launcher
        return await started.launch(job, args, log=self.log, env=env or {}, title="a job of a test")

    @property
    def log(self) -> Path:
        return self.home.deployment_log("job")

    def server(self) -> psutil.Process | None:
        record = read_record(self.home.run, FORKSERVER_ID)
        return record.process() if record else None

    async def end_server(self) -> None:
        record = read_record(self.home.run, FORKSERVER_ID)
        if record is not None:
            await end_process(record)
            while psutil.pid_exists(record.pid):  # until the loop has heard of it too
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    home = Home(Path(tempfile.mkdtemp(prefix="f")))
    home.ensure()
    loop = asyncio.new_event_loop()
    made = Site(home, loop, ForkLauncher(home))
    try:
        yield made
    finally:
        made.run(made.end_server())
        loop.close()
        shutil.rmtree(home.path)


def fetch(path: str, home: Home) -> dict[str, Any]:
    return {
        "model_uri": path,
        "tracking_uri": None,
        "registry_uri": None,
        "models": str(home.models),
        "flavor": None,
        "env_manager": "local",
    }


def waiting_for_a_lock(home: Home) -> dict[str, Any]:
    log = str(home.deployment_log("job"))
    return {"model": str(home.path), "env_manager": "uv", "locks": str(home.run), "log": log}


@contextlib.contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the lock of the environments, so that a job that builds one waits."""
    import fcntl

    with (home.run / "environments.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def descriptors(process: psutil.Process, expected: int) -> int:
    """Return how many descriptors a process has open, once it has as many as expected or had time to close them."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_S
    while process.num_fds() != expected and loop.time() < deadline:
        await asyncio.sleep(0.01)
    return process.num_fds()


async def idle_descriptors(site: Site, server: psutil.Process) -> int:
    """Return how many descriptors the fork server has open when no job runs."""
    await (await site.launch("fetch", fetch("/x", site.home))).wait()
    lowest = server.num_fds()
    for _ in range(20):
        await asyncio.sleep(0.01)
        lowest = min(lowest, server.num_fds())
    return lowest


async def messages(child: Child) -> list[dict[str, Any]]:
    found = []
    while (message := await child.next_message()) is not None:
        found.append(message)
    return found


class TestForked:
    def test_a_job_tells_why_it_failed_and_its_exit_status(self, site: Site) -> None:
        async def test() -> None:
            child = await site.launch("fetch", fetch("/no/such/model", site.home))

            told = await messages(child)

            assert told[-1] == {
                "failed": "There is no model at /no/such/model.",
                "code": "RESOURCE_DOES_NOT_EXIST",
            }
            assert await child.wait() == 1

        site.run(test())

    def test_its_output_goes_to_the_log(self, site: Site) -> None:
        async def test() -> None:
            site.log.write_text("before\n")
            child = await site.launch("fetch", fetch("/no/such/model", site.home))
            await child.wait()

            text = site.log.read_text()
            assert text.startswith("before\n")
            assert "FetchError: There is no model" in text

        site.run(test())

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_the_fork_server_has_no_thread_that_a_fork_could_hurt_and_starts_once(self, site: Site) -> None:
        async def test() -> None:
            await site.launcher.warm()
            first = site.server()
            await (await site.launch("fetch", fetch("/x", site.home))).wait()
            second = site.server()

            assert first is not None
            assert second is not None
            assert first.pid == second.pid
            others = {t.id for t in second.threads()} - {second.pid}
            names = {Path(f"/proc/{second.pid}/task/{t}/comm").read_text().strip() for t in others}
            assert names <= THREADS_SAFE_TO_FORK

        site.run(test())

    def test_many_at_once_each_hear_of_their_own(self, site: Site) -> None:
        async def one(number: int) -> str:
            child = await site.launch("fetch", fetch(f"/none/{number}", site.home))
            told = await messages(child)
            assert await child.wait() == 1
            return str(told[-1]["failed"])

        async def test() -> list[str]:
            return await asyncio.gather(*(one(n) for n in range(8)))

        assert site.run(test()) == [f"There is no model at /none/{n}." for n in range(8)]

    def test_no_job_is_left_as_a_zombie(self, site: Site) -> None:
        async def test() -> None:
            await (await site.launch("fetch", fetch("/x", site.home))).wait()
            server = site.server()

            assert server is not None
            assert server.children() == []

        site.run(test())

    def test_its_variables_are_its_own(self, site: Site) -> None:
        async def test() -> None:
            with locked(site.home):
                child = await site.launch(
                    "environment", waiting_for_a_lock(site.home), env={"ONLY_HERE": "ä=1"}
                )
                while "environments.lock" not in str(psutil.Process(child.pid).open_files()):
                    await asyncio.sleep(0.01)
                await child.end()
            other = await site.launch("fetch", fetch("$ONLY_HERE", site.home))
            told = await messages(other)
            await other.wait()

            assert "ONLY_HERE" in told[-1]["failed"]
            server = site.server()
            assert server is not None
            assert "ONLY_HERE" not in server.environ()

        site.run(test())

    def test_a_large_request_arrives_whole(self, site: Site) -> None:
        async def test() -> None:
            path = "/" + "x" * 500_000
            child = await site.launch("fetch", fetch(path, site.home))
            told = await messages(child)

            assert await child.wait() == 1
            assert "progress" in told[0]
            assert path in told[0]["progress"]

        site.run(test())

    def test_a_killed_job_reports_its_signal(self, site: Site) -> None:
        async def test() -> None:
            with locked(site.home):
                child = await site.launch("environment", waiting_for_a_lock(site.home))
                child.signal(signal.SIGKILL)

                assert await child.wait() == -signal.SIGKILL
                assert await child.next_message() is None
                child.signal(signal.SIGKILL)

        site.run(test())

    def test_an_ended_job_is_no_longer_there(self, site: Site) -> None:
        async def test() -> None:
            with locked(site.home):
                child = await site.launch("environment", waiting_for_a_lock(site.home))
                await child.end()

                assert not psutil.pid_exists(child.pid)
                assert await child.wait() == -signal.SIGTERM

        site.run(test())

    def test_an_unknown_job_ends_with_an_error_and_the_server_goes_on(self, site: Site) -> None:
        async def test() -> None:
            child = await site.launch("dance", {})

            assert await child.wait() == 70
            assert await child.next_message() is None
            assert "KeyError: 'dance'" in site.log.read_text()
            assert await (await site.launch("fetch", fetch("/x", site.home))).wait() == 1

        site.run(test())

    @pytest.mark.parametrize("data", [b"", b"\n", b"not json\n", b'{"job": "fetch"}\n'])
    def test_whoever_does_not_speak_its_protocol_is_sent_away(self, site: Site, data: bytes) -> None:
        async def test() -> None:
            await site.launcher.warm()
            server = site.server()
            assert server is not None
            before = await idle_descriptors(site, server)
            reader, writer = await asyncio.open_unix_connection(str(site.home.forkserver_socket))
            writer.write(data)
            writer.write_eof()

            assert await reader.read() == b""

            writer.close()
            await writer.wait_closed()
            assert await descriptors(server, before) == before

        site.run(test())

    def test_descriptors_sent_with_nonsense_do_not_pile_up(self, site: Site) -> None:
        async def test() -> None:
            await site.launcher.warm()
            server = site.server()
            assert server is not None
            before = await idle_descriptors(site, server)
            for _ in range(5):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
                    stranger.connect(str(site.home.forkserver_socket))
                    socket.send_fds(stranger, [b"nonsense\n"], [0, 1])
                    assert stranger.recv(1) == b""

            assert await descriptors(server, before) == before

        site.run(test())

    def test_jobs_outlive_a_killed_server_and_their_end_is_noticed(self, site: Site) -> None:
        async def test() -> None:
            with locked(site.home):
                child = await site.launch("environment", waiting_for_a_lock(site.home))
                server = site.server()
                assert server is not None
                server.kill()
                while psutil.pid_exists(server.pid):
                    await asyncio.sleep(0.01)
                assert not child.exited.done()
                assert psutil.pid_exists(child.pid)

                child.signal(signal.SIGKILL)

                assert await child.wait() is None
            after = await site.launch("fetch", fetch("/x", site.home))
            assert await after.wait() == 1
            there = site.server()
            assert there is not None
            assert there.pid != server.pid

        site.run(test())

    def test_another_one_is_kept_warm_when_it_ends(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mlflow_restaurant.process.fork_launcher.REWARM_S", 0.01)

        async def test() -> None:
            keeping = asyncio.ensure_future(site.launcher.keep_warm())
            while (server := site.server()) is None:
                await asyncio.sleep(0.01)
            server.kill()
            while (there := site.server()) is None or there.pid == server.pid:
                await asyncio.sleep(0.01)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            after = await site.launch("fetch", fetch("/x", site.home))
            assert await after.wait() == 1

        site.run(test())

    def test_one_that_hangs_is_replaced_and_the_end_of_its_jobs_is_noticed(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mlflow_restaurant.process.fork_launcher.FORK_WITHIN_S", 0.5)
        monkeypatch.setattr("mlflow_restaurant.process.fork_launcher.EXIT_TOLD_WITHIN_S", 0.1)

        async def test() -> None:
            with locked(site.home):
                child = await site.launch("environment", waiting_for_a_lock(site.home))
                server = site.server()
                assert server is not None
                server.suspend()
                child.signal(signal.SIGKILL)

                assert await child.wait() is None
            after = await site.launch("fetch", fetch("/x", site.home))
            assert await after.wait() == 1
            there = site.server()
            assert there is not None
            assert there.pid != server.pid

        site.run(test())


class TestSpawned:
    def test_a_job_in_a_fresh_interpreter_tells_the_same(self, site: Site) -> None:
        async def test() -> None:
            child = await site.launch("fetch", fetch("/no/such/model", site.home), launcher=SpawnLauncher())

            told = await messages(child)

            assert told[-1]["failed"] == "There is no model at /no/such/model."
            assert await child.wait() == 1
            await asyncio.sleep(0.05)

        site.run(test())

    @pytest.mark.parametrize(
        ("env", "fresh"),
        [({}, False), ({"A": "1"}, False), ({"PYTHONHASHSEED": "0"}, True), ({"LD_PRELOAD": "x"}, True)],
    )
    def test_variables_that_a_fork_would_ignore_need_one(
        self, env: dict[str, str], fresh: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.platform", "linux")

        assert needs_fresh_process(env) == fresh


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc")
def test_the_server_forks_from_one_thread(site: Site) -> None:
    """A newer library that starts one when it is imported would be cut off in the middle of something in every replica."""
    site.run(site.launch("fetch", fetch("/nowhere", site.home)))
    server = site.server()
    assert server is not None
    names = [(task / "comm").read_text().strip() for task in Path(f"/proc/{server.pid}/task").iterdir()]
    assert len([name for name in names if name not in THREADS_SAFE_TO_FORK]) == 1, names


def test_a_job_that_is_not_forked_gets_a_fresh_interpreter(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object) -> bytes:
        return b'{"refused": ["surprise"]}\n'

    launcher = ForkLauncher(site.home)
    monkeypatch.setattr(launcher, "_answer", refuse)

    child = site.run(site.launch("fetch", fetch("/nowhere", site.home), launcher=launcher))

    assert psutil.Process(child.pid).ppid() == os.getpid()
    assert "the threads ['surprise']" in caplog.text
    assert "/nowhere" in str(site.run(child.next_message()))
    assert site.run(child.wait()) is not None


class TestParts:
    def test_with_another_thread_nothing_is_forked(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(forkserver, "unexpected_threads", lambda: ["surprise"])
        monkeypatch.setattr(os, "fork", None)
        read, write = os.pipe()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            client.connect(str(tmp_path / "s"))
            socket.send_fds(client, [b'{"job": "fetch"}\n'], [write, write])
            os.close(write)
            server = ForkServer(listener, Lease(str(tmp_path / "record")))
            server._accept()
            assert json.loads(client.recv(100)) == {"refused": ["surprise"]}
            assert client.recv(100) == b""
            for fd in (server.wake_r, server.wake_w):
                os.close(fd)
            server.selector.close()
        with os.fdopen(read) as pipe:  # nobody holds the other end
            assert pipe.read() == ""

    def test_threads_are_told_by_name(self) -> None:
        before, ended = unexpected_threads(), threading.Event()
        thread = threading.Thread(target=ended.wait, name="surprise")
        thread.start()
        try:
            assert set(unexpected_threads()) - set(before) == {"surprise"}
        finally:
            ended.set()
            thread.join()

    @pytest.mark.parametrize("job", JOBS)
    def test_every_job_can_be_loaded(self, job: str) -> None:
        assert callable(load_job(job))

    def test_a_report_is_one_line_of_json(self) -> None:
        read, write = os.pipe()
        with os.fdopen(read) as lines:
            report = reporter(write)
            report({"a": "x\ny"})
            report({"b": [1]})
            os.close(write)

            assert [json.loads(line) for line in lines] == [{"a": "x\ny"}, {"b": [1]}]

    def test_a_reader_that_is_gone_is_no_error(self) -> None:
        read, write = os.pipe()
        os.close(read)

        reporter(write)({"a": 1})

        os.close(write)

    def test_a_client_that_hung_up_is_noticed(self) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                assert not is_gone(ours)
            assert is_gone(ours)

    def test_a_request_in_pieces_is_put_together(self) -> None:
        here, there = socket.socketpair()
        with here, there:
            socket.send_fds(here, [b'{"job": '], [0, 1])
            here.sendall(b'"fetch"}\n')

            request, fds = receive_request(there)

        assert request == {"job": "fetch"}
        assert len(fds) == 2
        for fd in fds:
            os.close(fd)
