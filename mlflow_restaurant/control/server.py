"""The controller process: takes the home's lock, puts the parts together, and ends them in order."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

from mlflow_restaurant._version import __version__
from mlflow_restaurant.config import ServerSettings
from mlflow_restaurant.control.api import admin_app
from mlflow_restaurant.control.commands import Commands
from mlflow_restaurant.control.controller import Controller
from mlflow_restaurant.control.log_rotation import keep_bounded
from mlflow_restaurant.control.store import Store
from mlflow_restaurant.errors import HomeError, RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process import faults, lease
from mlflow_restaurant.process.fork_launcher import FORKSERVER_ID
from mlflow_restaurant.process.forkserver import Report, quiet_environment, reporter
from mlflow_restaurant.process.http import HttpServer, bind_unix
from mlflow_restaurant.process.records import (
    read_record,
    read_records,
    record_path,
    remove_record,
    write_record,
)
from mlflow_restaurant.process.watch import end_process
from mlflow_restaurant.stores import OF_A_RUN

CONTROLLER_ID = "controller"
LOCK_FILE = "controller.lock"
ADMIN_GRACE_S = 2
START_TIMEOUT_S = 30.0
LOCK_POLL_S = 0.05

_logger = logging.getLogger(__name__)


async def serve(
    home: Home, settings: ServerSettings, ready: Report, tie: int | None = None, *, foreground: bool = False
) -> None:
    """Run the server of `home` until SIGTERM, SIGINT or a client's ``down``; `ready` is told when it answers.

    Args:
        tie: a pipe; when its other end is closed, the server ends too.
        foreground: see `run`.

    Raises:
        RestaurantError: the database, the port or the home can't be used.
    """
    write_record(home.run, "controller", CONTROLLER_ID, os.getpid(), foreground=foreground)
    lease.end_with(str(record_path(home.records, CONTROLLER_ID)))
    known = home.database.exists()
    store = Store(home.database)
    store.open()
    controller = Controller(home, settings, store)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, ended.set)
    if tie is not None:
        loop.add_reader(tie, _untie, loop, tie, ended)
    await controller.start()
    if known:  # the models beside a new database may belong to one that was moved away
        controller.models.clean()
    forking = asyncio.ensure_future(controller.jobs.fork.keep_warm())
    commands = Commands(controller)
    admin = HttpServer(admin_app(commands, ended.set), ADMIN_GRACE_S)
    serving = asyncio.ensure_future(admin.serve([bind_unix(home.admin_socket)]))
    looping = asyncio.ensure_future(controller.run())
    events = controller.events
    works = (
        controller.weigh(),
        controller.gateways.watch(),
        controller.scaler.run(),
        events.run(),
        keep_bounded(home, settings),
    )
    watching = [asyncio.ensure_future(work) for work in works]
    await controller.routes.wait_until_serving(START_TIMEOUT_S)
    ready({"ready": True, "url": commands.views.url()})
    events.note("server", f"the server runs (version {__version__}, process {os.getpid()})")
    await ended.wait()
    events.note("server", "the server goes down")
    await controller.stop()
    admin.should_exit = True
    forking.cancel()
    for task in watching:
        task.cancel()
    await asyncio.gather(serving, looping, forking, *watching, return_exceptions=True)
    events.close()
    await _end_forkserver(home)
    home.admin_socket.unlink(missing_ok=True)
    store.close()
    for record in read_records(home.run):
        remove_record(home.run, record.id)


def _untie(loop: asyncio.AbstractEventLoop, tie: int, ended: asyncio.Event) -> None:
    loop.remove_reader(tie)
    ended.set()


async def _end_forkserver(home: Home) -> None:
    record = read_record(home.run, FORKSERVER_ID)
    if record is not None:
        await end_process(record)


def run(home: Home, ready: Report, tie: int | None = None, *, foreground: bool = False) -> int:
    """Be the controller of `home`, in this process; returns the exit status.

    Args:
        tie: as for `serve`.
        foreground: somebody waits for this process, as a supervisor does; it takes the place of one in the background.
        ready: told ``{"ready": true}`` once the server answers, or ``{"error": {...}}``.
    """
    os.environ.update(quiet_environment())
    faults.arm()
    for name in OF_A_RUN:
        os.environ.pop(name, None)
    try:
        home.ensure()
        settings = ServerSettings.load(home.path)  # before another server is ended for this one
        with (home.run / LOCK_FILE).open("w") as lock:
            if not _take(lock, home, foreground=foreground):
                ready({"ready": True, "already": True})
                return 0
            asyncio.run(serve(home, settings, ready, tie, foreground=foreground))
    except RestaurantError as e:
        ready({"error": {**e.to_json(), "http_status": e.http_status}})
        return 1
    return 0


def _take(lock: IO[str], home: Home, *, foreground: bool) -> bool:
    """Take the lock of a home; False where another server has it.

    One in the background, which a command may have started since the one before ended, is ended for one in the
    foreground: nobody would start it again when it dies. Gateways and replicas go on, and are taken over.

    Raises:
        HomeError: the lock does not come free.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        record = read_record(home.run, CONTROLLER_ID)
        holder = record if record is not None and record.alive() else None
        if not foreground or (holder is not None and holder.details.get("foreground") is not False):
            return False
        if time.monotonic() > deadline:
            raise HomeError(
                f"The lock of {home.path} is held by a process that can't be ended for this one; end it, and try again."
            )
        if holder is not None:
            holder.signal(signal.SIGKILL)
        time.sleep(LOCK_POLL_S)


def main(argv: list[str] | None = None) -> int:
    """Run the controller of the home that ``--home`` names; with ``--detach``, in a process of its own."""
    parser = argparse.ArgumentParser(prog="mlflow_restaurant.control.server")
    parser.add_argument("--home", required=True)
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--detach", action="store_true")
    parser.add_argument("--tie-fd", type=int)
    arguments = parser.parse_args(argv)
    if arguments.detach and os.fork():
        os._exit(0)
    logging.basicConfig(
        level=logging.INFO, format="[%(asctime)s] %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    report = reporter(arguments.status_fd)

    def ready(message: dict[str, Any]) -> None:
        if "error" in message:
            _logger.error("%s", message["error"]["message"])
        report(message)

    return run(Home(Path(arguments.home)), ready, arguments.tie_fd)


if __name__ == "__main__":
    sys.exit(main())
