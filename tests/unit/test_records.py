"""Process records, leases and waiting, with real processes that every test ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mlflow_restaurant._version import __version__
from mlflow_restaurant.process.lease import MISSES_ALLOWED, Lease, holds
from mlflow_restaurant.process.records import (
    SUFFIX,
    ProcessRecord,
    identify,
    read_record,
    read_records,
    record_path,
    remove_record,
    write_record,
)
from mlflow_restaurant.process.watch import cpu_s, end_process, is_held_up, signal_group, wait_for_exit

SLEEP = "print('up', flush=True); import time; time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(c.pid, flush=True); c.wait()"
ORPHAN = (
    f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {DEAF!r}], stdout=subprocess.PIPE)\n"
    "c.stdout.readline(); print(c.pid, flush=True); import time; time.sleep(60)"
)
PATIENCE_S = 20

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python processes, each leading a session; returns once it has printed a line."""
    started: list[subprocess.Popen[str]] = []

    def start_one(code: str = SLEEP, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def within_patience(work: Callable[[], object]) -> None:
    async def limited() -> None:
        result = work()
        assert asyncio.iscoroutine(result)
        await asyncio.wait_for(result, PATIENCE_S)

    asyncio.run(limited())


class TestRecords:
    def test_what_is_written_is_read_back(self, tmp_path: Path, start: Start) -> None:
        process = start()

        written = write_record(tmp_path, "replica", "r-1", process.pid, deployment="d", index=0)

        assert read_record(tmp_path, "r-1") == written
        assert (written.kind, written.id, written.pid) == ("replica", "r-1", process.pid)
        assert written.details == {"deployment": "d", "index": 0}
        assert written.version == __version__
        assert [p.name for p in tmp_path.iterdir()] == ["r-1" + SUFFIX]

    def test_all_of_a_home_in_order_of_their_ids(self, tmp_path: Path) -> None:
        for name in ("b", "a", "c.d"):
            write_record(tmp_path, "replica", name, os.getpid())

        assert [r.id for r in read_records(tmp_path)] == ["a", "b", "c.d"]

    def test_a_record_can_be_written_again_and_removed_twice(self, tmp_path: Path) -> None:
        write_record(tmp_path, "x", "a", os.getpid())
        write_record(tmp_path, "y", "a", os.getpid())
        assert [r.kind for r in read_records(tmp_path)] == ["y"]

        remove_record(tmp_path, "a")
        remove_record(tmp_path, "a")

        assert read_records(tmp_path) == []
        assert read_record(tmp_path, "a") is None

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', '{"pid": "x"}', "\xff"])
    def test_one_that_cannot_be_read_is_passed_over(self, tmp_path: Path, text: str) -> None:
        record_path(tmp_path, "bad").write_text(text, encoding="latin-1")
        write_record(tmp_path, "x", "good", os.getpid())

        assert [r.id for r in read_records(tmp_path)] == ["good"]
        assert read_record(tmp_path, "bad") is None

    def test_one_of_a_later_version_can_be_read(self, tmp_path: Path) -> None:
        written = write_record(tmp_path, "x", "a", os.getpid())
        path = record_path(tmp_path, "a")
        path.write_text(json.dumps({**json.loads(path.read_text()), "new": 1}))

        assert read_record(tmp_path, "a") == written

    def test_a_directory_that_is_gone_has_no_records(self, tmp_path: Path) -> None:
        assert read_records(tmp_path / "gone") == []

    def test_no_record_is_written_of_a_process_that_ended(self, tmp_path: Path, start: Start) -> None:
        process = start("pass")
        process.wait(PATIENCE_S)

        with pytest.raises(ProcessLookupError):
            write_record(tmp_path, "x", "a", process.pid)

        assert list(tmp_path.iterdir()) == []


class TestAlive:
    def test_a_process_is_alive_until_it_ends(self, start: Start) -> None:
        process = start()
        record = identify(process.pid)
        assert record is not None
        assert record.alive()

        record.signal(signal.SIGKILL)
        process.wait(PATIENCE_S)

        assert not record.alive()
        record.signal(signal.SIGKILL)
        assert identify(process.pid) is None

    def test_one_that_ended_but_was_not_waited_for_is_not_alive(self, start: Start) -> None:
        process = start("print()")
        record = identify(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert record is not None
        assert not record.alive()

    def test_another_process_of_the_same_id_is_not_the_same(self) -> None:
        record = identify(os.getpid())
        assert record is not None

        assert not record.model_copy(update={"created": record.created - 60}).alive()

    @pytest.mark.skipif(
        sys.platform != "linux", reason="elsewhere the time of creation is one by the wall clock"
    )
    def test_it_is_the_same_when_the_clock_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        record = identify(os.getpid())
        assert record is not None
        created = psutil.Process().create_time()
        boot_time = psutil.boot_time()
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_time + 3600)
        assert psutil.Process().create_time() > created + 3500

        assert record.alive()
        assert identify(os.getpid()) == record

    def test_a_signal_never_reaches_another_process_of_the_same_id(self, start: Start) -> None:
        process = start()
        record = ProcessRecord(kind="", id="", pid=process.pid, created=1.0)

        record.signal(signal.SIGKILL)
        signal_group(record, signal.SIGKILL)

        assert process.poll() is None


class TestWatch:
    def test_waiting_ends_when_the_process_does(self, start: Start) -> None:
        process = start()
        record = identify(process.pid)
        assert record is not None

        async def test() -> None:
            waiting = asyncio.ensure_future(wait_for_exit(record))
            await asyncio.sleep(0)
            assert not waiting.done()
            process.kill()
            await waiting

        within_patience(test)

    def test_waiting_for_one_that_ended_returns_at_once(self, start: Start) -> None:
        process = start()
        record = identify(process.pid)
        assert record is not None
        process.kill()
        process.wait(PATIENCE_S)

        within_patience(lambda: wait_for_exit(record))

    def test_waiting_where_no_descriptor_of_the_process_can_be_had(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mlflow_restaurant.process.watch._pidfd", lambda _: None)
        monkeypatch.setattr("mlflow_restaurant.process.watch.POLL_INTERVAL_S", 0.01)
        process = start()
        record = identify(process.pid)
        assert record is not None
        process.kill()

        within_patience(lambda: wait_for_exit(record))

    def test_a_wait_that_is_given_up_leaves_nothing_open(self, start: Start) -> None:
        record = identify(start().pid)
        assert record is not None
        me = psutil.Process()

        async def test() -> None:
            before = me.num_fds()
            waiting = asyncio.ensure_future(wait_for_exit(record))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert me.num_fds() == before

        within_patience(test)

    def test_a_process_is_ended_politely(self, start: Start) -> None:
        process = start()
        record = identify(process.pid)
        assert record is not None

        within_patience(lambda: end_process(record))

        assert process.wait(PATIENCE_S) == -signal.SIGTERM

    def test_one_that_does_not_listen_is_killed(self, start: Start) -> None:
        process = start(DEAF)
        first_line(process)
        record = identify(process.pid)
        assert record is not None

        within_patience(lambda: end_process(record, 0.05))

        assert process.wait(PATIENCE_S) == -signal.SIGKILL

    def test_what_it_started_is_ended_too(self, start: Start) -> None:
        process = start(PARENT)
        child = identify(int(first_line(process)))
        record = identify(process.pid)
        assert child is not None
        assert record is not None

        async def test() -> None:
            await end_process(record)
            await wait_for_exit(child)

        within_patience(test)

    def test_one_that_is_stopped_or_sleeps_is_not_held_up_and_one_that_works_is_unless_it_works_too_much(
        self, start: Start
    ) -> None:
        process = start("print('up', flush=True)\nwhile True: pass")
        first_line(process)
        busy = identify(process.pid)
        assert busy is not None
        assert is_held_up(busy, 0.1, 1.0)
        assert not is_held_up(busy, 0.9, 1.0)
        before = cpu_s(busy)
        while cpu_s(busy) == before:
            time.sleep(0.01)

        psutil.Process(process.pid).suspend()
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        assert not is_held_up(busy, 0.0, 1.0)
        process.kill()
        process.wait(PATIENCE_S)

        assert not is_held_up(busy, 0.0, 1.0)
        assert cpu_s(busy) == 0

    def test_what_it_started_and_left_behind_is_killed(self, start: Start) -> None:
        process = start(ORPHAN)
        child = identify(int(first_line(process)))
        record = identify(process.pid)
        assert child is not None
        assert record is not None

        async def test() -> None:
            await end_process(record)
            await wait_for_exit(child)

        within_patience(test)


class TestLease:
    def test_a_record_holds_only_the_process_that_it_names(self, tmp_path: Path) -> None:
        write_record(tmp_path, "x", "a", os.getpid())
        path = str(record_path(tmp_path, "a"))

        assert holds(path, os.getpid())
        assert not holds(path, os.getpid() + 1)
        assert not holds(str(tmp_path / "none"), os.getpid())

    @pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", "1", "\xff"])
    def test_a_record_that_cannot_be_read_holds_nobody(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "a.proc"
        path.write_text(text, encoding="latin-1")

        assert not holds(str(path), os.getpid())

    def test_it_is_lost_when_the_record_is_missing_too_often_in_a_row(self, tmp_path: Path) -> None:
        lease = Lease(str(record_path(tmp_path, "a")))

        for _ in range(MISSES_ALLOWED):
            assert not lease.lost()
        write_record(tmp_path, "x", "a", os.getpid())
        assert not lease.lost()
        remove_record(tmp_path, "a")

        assert [lease.lost() for _ in range(MISSES_ALLOWED + 1)] == [False] * MISSES_ALLOWED + [True]

    def test_a_process_ends_when_its_record_is_gone(self, tmp_path: Path, start: Start) -> None:
        path = record_path(tmp_path, "a")
        code = (
            "import sys; from mlflow_restaurant.process import lease; lease.CHECK_INTERVAL_S = 0.01\n"
            "sys.stdin.readline(); lease.end_with(sys.argv[1])\n" + SLEEP
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            write_record(tmp_path, "x", "a", process.pid)
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            first_line(process)
            assert process.poll() is None

            remove_record(tmp_path, "a")

            assert process.wait(PATIENCE_S) == -signal.SIGTERM
