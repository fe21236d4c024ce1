"""The server's process, as others see it: whether it runs, starting it on demand, ending what is left of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

from mlflow_restaurant.errors import HomeError, Unresponsive, from_json
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.records import ProcessRecord, read_records, remove_record
from mlflow_restaurant.process.watch import block_until_exit, cpu_s, is_held_up, signal_group

START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0
START_LOCK = "start.lock"
PROBE_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 15.0
"""Time without an answer after which the server counts as hanging; it may wait for a locked database for a while."""
CONTROLLER = "controller"
ANSWER_POLL_S = 0.05


class ServerProcess:
    """The server of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def is_running(self) -> bool:
        """Tell whether a server of this home answers, or is there and may be busy."""
        return self._probe(PROBE_TIMEOUT_S) is not False

    def check(self) -> None:
        """See to it that the server is not waited for in vain.

        Raises:
            Unresponsive: its process is there, but does not answer even what takes it no time.
        """
        controller = next((r for r in read_records(self.home.run) if r.kind == CONTROLLER), None)
        if controller is None:  # whoever waits for its answer will see it go
            return
        used, asked = cpu_s(controller), time.monotonic()
        if self._probe(ANSWER_TIMEOUT_S) is not None:
            return
        if controller.alive() and not is_held_up(
            controller, cpu_s(controller) - used, time.monotonic() - asked
        ):
            raise Unresponsive(
                f"The server of {self.home.path} does not answer, though its process {controller.pid} is there;"
                " end it with 'mlflow-restaurant down' and start it again with 'mlflow-restaurant up'."
            )

    def _probe(self, timeout_s: float) -> bool | None:
        """Tell whether the server answers what takes it no time; None when it takes that, and says nothing."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(timeout_s)
            try:  # one that was just killed may still be connected to, but never answers
                probe.connect(str(self.home.admin_socket))
                probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return bool(probe.recv(1))
            except (TimeoutError, BlockingIOError):  # the latter when it accepts no more connections
                return None
        return False

    def ensure_running(self) -> None:
        """Start the server, unless it runs; of several callers at once, one starts it.

        Raises:
            RestaurantError: it can't be started; the message says why.
        """
        if self.is_running():
            return
        self.home.ensure()
        with (self.home.run / START_LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.is_running():
                self.start()

    def start(self, environ: Mapping[str, str] | None = None, tie: int | None = None) -> None:
        """Start a server that detaches from this process; `tie` is a pipe whose end ends the server."""
        log = os.open(self.home.server_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        status_r, status_w = os.pipe()
        argv = [sys.executable, "-m", "mlflow_restaurant.control.server", "--home", str(self.home.path)]
        tied = [] if tie is None else ["--tie-fd", str(tie)]
        try:
            subprocess.run(
                [*argv, "--status-fd", str(status_w), "--detach", *tied],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environ or {})},
                pass_fds=[status_w, *([] if tie is None else [tie])],
                start_new_session=True,
                cwd=self.home.path,
                check=False,
            )
        finally:
            os.close(log)
            os.close(status_w)
        with os.fdopen(status_r, "rb", 0) as status:
            readable, _, _ = select.select([status], [], [], START_TIMEOUT_S)
            line = status.readline() if readable else b""
        self._check_start(line, timed_out=not readable)

    def _check_start(self, line: bytes, *, timed_out: bool) -> None:
        if not line:
            what = f"was not ready within {START_TIMEOUT_S:g} s" if timed_out else "ended while it started"
            raise HomeError(f"The server {what}; its log is {self.home.server_log}.")
        message = json.loads(line)
        if "error" in message:
            raise from_json(message["error"], message["error"]["http_status"])
        if message.get("already"):
            self._wait_for_another()

    def _wait_for_another(self) -> None:
        """Wait for the server that holds the home's lock but does not answer yet."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_running():
            if time.monotonic() > deadline:
                raise HomeError(
                    f"Another server of {self.home.path} is there but does not answer; end it with"
                    " 'mlflow-restaurant down'."
                )
            time.sleep(ANSWER_POLL_S)

    def end_leftovers(self) -> None:
        """End the processes of the home that still run, and forget all of them."""
        left = [r for r in read_records(self.home.run) if r.alive()] if self.home.run.is_dir() else []
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for record in left:
                signal_group(record, signum)
            left = wait_for_end(left, END_TIMEOUT_S)
        if self.home.run.is_dir():
            for record in read_records(self.home.run):
                remove_record(self.home.run, record.id)


def wait_for_end(records: list[ProcessRecord], timeout_s: float) -> list[ProcessRecord]:
    """Wait for processes to end; returns those that still run."""
    deadline = time.monotonic() + timeout_s
    return [r for r in records if not block_until_exit(r, max(0.0, deadline - time.monotonic()))]
