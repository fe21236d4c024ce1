"""A process with MLflow, pandas and scikit-learn imported, from which jobs are forked.

Importing MLflow takes seconds and some 200 MB; a fork of a process that has done so starts in milliseconds and
shares that memory. Fork copies only the thread that calls it, so this process has one thread; where a library has
started another one, nothing is forked.

Protocol, on a unix socket, one connection a job: the client sends one JSON line ``{"job", "args", "env", "title"}``
with two file descriptors (log, status pipe); the answer is a line ``{"pid": n}``, and when the job has ended a line
``{"exit": code}``, negative for a signal; or ``{"refused": names}`` when there are threads of these names. A job writes its own lines to the status pipe.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_restaurant.process.lease import CHECK_INTERVAL_S, Lease, end_with

JOBS = {
    "replica": "mlflow_restaurant.replica.app:main",
    "fetch": "mlflow_restaurant.control.artifacts:main",
    "environment": "mlflow_restaurant.replica.environments:main",
    "trial_run": "mlflow_restaurant.control.trial_run:main",
    "gateway": "mlflow_restaurant.gateway.server:main",
}
PRELOADED = (
    "skops.io",  # first: it goes through all modules that are there already, which takes seconds after MLflow
    "mlflow.pyfunc.scoring_server",
    "mlflow.artifacts",
    "mlflow.sklearn",
    "mlflow.store.artifact.models_artifact_repo",
    "mlflow.store.artifact.runs_artifact_repo",
    "mlflow.tracing.processor.base_mlflow",
    "mlflow.utils.proto_json_utils",
    "fastapi.responses",
    "pandas",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "sklearn.pipeline",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.off",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "mlflow_restaurant.control.artifacts",
    "mlflow_restaurant.replica.app",
    "mlflow_restaurant.replica.environments",
    "mlflow_restaurant.replica.serving",
)
WARM_UP = "mlflow_restaurant.replica.warm:warm_up"
"""Called once before the first fork: what each replica would otherwise do after it."""
MAX_REQUEST_BYTES = 4 << 20
RECEIVE_TIMEOUT_S = 5.0
SINGLE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""Keeps OpenBLAS from starting threads in the fork server; each replica sets its own number."""
THREADS_SAFE_TO_FORK = {"jemalloc_bg_thd"}
"""pyarrow's allocator stops and restarts this one around a fork by itself."""
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Report = Callable[[dict[str, Any]], None]


def reporter(status_fd: int) -> Report:
    """Return a function that writes one JSON line to the status pipe; a reader that is gone is no error."""

    def report(message: dict[str, Any]) -> None:
        data = (json.dumps(message) + "\n").encode()
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(status_fd, data) :]

    return report


def load_job(name: str) -> Callable[[dict[str, Any], Report], int]:
    """Return the function of a job; it takes its arguments and a reporter and returns an exit status."""
    job: Callable[[dict[str, Any], Report], int] = _named(JOBS[name])
    return job


def _named(function: str) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


class ForkServer:
    """Accepts jobs on `listener` until SIGTERM, or until its lease is lost."""

    def __init__(self, listener: socket.socket, lease: Lease) -> None:
        self.listener = listener
        self.lease = lease
        self.waiting: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.wake_r, self.wake_w = os.pipe()
        self.stopping = False

    def run(self) -> None:
        for fd in (self.wake_r, self.wake_w):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake_r, selectors.EVENT_READ)
        while not self.stopping:
            ready = self.selector.select(CHECK_INTERVAL_S)
            if not ready and self.lease.lost():
                return
            for key, _ in ready:
                if key.fileobj is self.listener:
                    self._accept()
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.wake_r, 4096)
            self._reap()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        connection.settimeout(RECEIVE_TIMEOUT_S)
        try:
            request, fds = receive_request(connection)
        except (OSError, ValueError):
            connection.close()
            return
        if is_gone(connection):  # while the request waited, as at the start: nobody would end the job
            for fd in fds:
                os.close(fd)
            connection.close()
            return
        if threads := unexpected_threads():
            self._refuse(connection, fds, threads)
            return
        # A signal that comes before the child has left this process's handlers waits until it has.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._child(request, fds)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        for fd in fds:
            os.close(fd)
        self.waiting[pid] = connection
        _send(connection, {"pid": pid})

    def _refuse(self, connection: socket.socket, fds: list[int], threads: list[str]) -> None:
        for fd in fds:
            os.close(fd)
        with connection:
            _send(connection, {"refused": threads})

    def _reap(self) -> None:
        while self.waiting:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            connection = self.waiting.pop(pid, None)
            if connection is not None:
                _send(connection, {"exit": os.waitstatus_to_exitcode(status)})
                connection.close()

    def _child(self, request: dict[str, Any], fds: list[int]) -> None:
        """Become the job; never returns."""
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGCHLD, *ENDING_SIGNALS):
                signal.signal(signum, signal.SIG_DFL)
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
            self.selector.close()
            self.listener.close()
            for connection in self.waiting.values():
                connection.close()
            os.close(self.wake_r)
            os.close(self.wake_w)
            code = run_job(request, *fds)
        except BaseException:  # whatever it is, this process must not become a second fork server
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def is_gone(connection: socket.socket) -> bool:
    """Tell whether the client has closed the connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(RECEIVE_TIMEOUT_S)


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Read one request and its two descriptors.

    Raises:
        OSError: the connection ended or took too long.
        ValueError: it is no request of this protocol.
    """
    data, fds, _, _ = socket.recv_fds(connection, 65536, 2)
    try:
        while not data.endswith(b"\n"):
            more = connection.recv(65536)
            if not more or len(data) > MAX_REQUEST_BYTES:
                raise ValueError("not a request")
            data += more
        if len(fds) != 2:
            raise ValueError("a log and a status descriptor are needed")
        request: dict[str, Any] = json.loads(data)
    except (OSError, ValueError):
        for fd in fds:
            os.close(fd)
        raise
    return request, list(fds)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        connection.sendall((json.dumps(message) + "\n").encode())


def run_job(request: dict[str, Any], log_fd: int, status_fd: int) -> int:
    """Run one job in this process, its output going to the log."""
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    os.environ.update(request.get("env", {}))
    if "numpy" in sys.modules:  # every fork would draw the same numbers
        sys.modules["numpy"].random.seed()
    title = request.get("title")
    if title:
        import setproctitle

        setproctitle.setproctitle(title)
    if "record" in request["args"]:
        end_with(request["args"]["record"])
    return load_job(request["job"])(request["args"], reporter(status_fd))


def quiet_environment() -> dict[str, str]:
    """Return the variables that keep MLflow from starting threads and from phoning home."""
    return {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def preload() -> None:
    """Import and prepare what most jobs need; what is missing is skipped."""
    for module in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    _named(WARM_UP)()


def unexpected_threads() -> list[str]:
    """Return the names of threads, Python's or a library's, that a fork would cut off in the middle of something."""
    main = threading.main_thread()
    names = [thread.name for thread in threading.enumerate() if thread is not main]
    tasks = Path("/proc/self/task")
    if tasks.is_dir():  # Linux
        known = {str(thread.native_id) for thread in threading.enumerate()}
        others = [task for task in tasks.iterdir() if task.name not in known]
        for task in others:
            with contextlib.suppress(OSError):  # it has just ended
                names.append((task / "comm").read_text().strip())
    return [name for name in names if name not in THREADS_SAFE_TO_FORK]


def main() -> int:
    """Serve on the listening socket whose descriptor is the first argument; the second is the record's path."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    os.environ.update(quiet_environment())
    preload()
    for name in SINGLE_THREAD:  # read when the library was loaded, and not for what jobs start
        os.environ.pop(name, None)
    gc.collect()
    gc.freeze()
    ForkServer(listener, Lease(sys.argv[2])).run()
    return 0


if __name__ == "__main__":
    # Taking down an interpreter with all that imported would take most of a second.
    os._exit(main())
