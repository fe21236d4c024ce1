"""The gateway process: one HTTP server for callers, and one on a unix socket for the controller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlflow_restaurant.entities import RouteTable
from mlflow_restaurant.gateway.metrics import Families, families
from mlflow_restaurant.process.http import KEEP_ALIVE_S, HttpServer, bind_unix, raise_descriptor_limit

GATEWAY_SOCKETS = "g-*.sock"
OTHERS_TIMEOUT_S = 1.0


def main(args: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> int:
    """Wait for the word to begin, then serve until SIGTERM.

    Args:
        args: ``fd`` (listening socket), ``begin`` (a pipe that the word comes from), ``control``, ``handover``, ``admin``, ``record`` and ``logs`` (paths),
            ``grace_s`` (time for what is in flight when asked to stop).
        report: told ``{"ready": true}``.
    """
    import uvloop

    from mlflow_restaurant.gateway import app, lane  # noqa: F401  (all that takes long comes before the word)

    if not os.read(args["begin"], 1):
        return 0  # the controller has gone, or needs it no more
    os.close(args["begin"])
    raise_descriptor_limit()
    # uvicorn warns of each request that it can't read: who sends many would fill the disk.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    uvloop.run(_serve(args, report))
    return 0


async def _serve(args: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
    from mlflow_restaurant.gateway.app import Gateway
    from mlflow_restaurant.gateway.lane import Lane

    listener = socket.socket(fileno=args["fd"])
    controller = ControllerLink(Path(args["admin"]))
    others = OtherGateways(Path(args["control"]))
    gateway = Gateway(
        _log_writer(Path(args["logs"])),
        controller.suspect,
        others.metrics,
        controller.wake,
        args["max_bodies_mb"],
        controller.distrust,
    )
    lane = Lane(gateway, KEEP_ALIVE_S)
    public = HttpServer(gateway, args["grace_s"], lane.connect, lane.leave)
    control = HttpServer(control_app(gateway), 1)
    bound = bind_unix(Path(args["control"]))
    handover = asyncio.ensure_future(hand_over(bind_unix(Path(args["handover"])), listener))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        public.should_exit = True
        gateway.informed.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop)
    serving_control = asyncio.ensure_future(control.serve([bound]))
    await control.ready.wait()
    report({"ready": True})
    # Until it has a route table, a gateway knows no deployment: callers wait in the socket's backlog.
    await gateway.informed.wait()
    await public.serve([listener])
    control.should_exit = True
    handover.cancel()
    await serving_control
    await gateway.upstream.close()
    await controller.close()


async def hand_over(door: socket.socket, listener: socket.socket) -> None:
    """Give the listening socket to whoever asks: a new controller needs it to start further gateways."""
    loop = asyncio.get_running_loop()
    with door:
        while True:
            connection, _ = await loop.sock_accept(door)
            with connection, contextlib.suppress(OSError):
                socket.send_fds(connection, [b"L"], [listener.fileno()])


def control_app(gateway: Any) -> Starlette:
    """Return the application that the controller talks to."""

    async def set_routes(request: Request) -> Response:
        await gateway.set_table(RouteTable.model_validate_json(await request.body()))
        return JSONResponse({"version": gateway.table.version})

    async def drain(request: Request) -> Response:
        wanted = await request.json()
        drained = await gateway.drain(wanted["key"], wanted["timeout_s"])
        return JSONResponse({"drained": drained})

    async def stats(_: Request) -> Response:
        return JSONResponse(gateway.recent.to_json())

    async def trials(_: Request) -> Response:
        return JSONResponse(gateway.trials.to_json())

    async def activity(_: Request) -> Response:
        return JSONResponse(gateway.activity.to_json())

    async def metrics(_: Request) -> Response:
        return JSONResponse(families())

    async def ping(_: Request) -> Response:
        return JSONResponse({})

    return Starlette(
        routes=[
            Route("/routes", set_routes, methods=["PUT"]),
            Route("/drain", drain, methods=["POST"]),
            Route("/stats", stats, methods=["GET"]),
            Route("/trials", trials, methods=["GET"]),
            Route("/activity", activity, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/ping", ping, methods=["GET"]),
        ]
    )


class OtherGateways:
    """The other gateways of the home, found by their control sockets.

    Args:
        control: the control socket of this gateway.
    """

    def __init__(self, control: Path) -> None:
        self.control = control

    async def metrics(self) -> list[Families]:
        """Return the metrics of those that answer."""
        sockets = [s for s in self.control.parent.glob(GATEWAY_SOCKETS) if s != self.control]
        answers = await asyncio.gather(*map(self._ask, sockets))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, path: Path) -> Families | None:
        connector = aiohttp.UnixConnector(path=str(path))
        timeout = aiohttp.ClientTimeout(total=OTHERS_TIMEOUT_S)
        with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError):
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get("http://gateway/metrics") as response,
            ):
                answer: Families = await response.json()
                return answer
        return None


class ControllerLink:
    """Tells the controller what a gateway sees; when it is down, nobody is told, and nothing waits for it."""

    def __init__(self, admin: Path) -> None:
        self.admin = admin
        self.session: aiohttp.ClientSession | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def suspect(self, deployment: str, key: str, reason: str) -> None:
        """Tell of a replica that does not answer."""
        self._mention("/suspects", {"deployment": deployment, "key": key, "reason": reason})

    def distrust(self, deployment: str, revision: int, reason: str) -> None:
        """Tell of a revision whose requests are merged no more."""
        self._mention("/distrusts", {"deployment": deployment, "revision": revision, "reason": reason})

    def _mention(self, path: str, message: dict[str, Any]) -> None:
        task = asyncio.ensure_future(self._tell(path, message))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def wake(self, deployment: str) -> None:
        """Ask for replicas of a deployment that sleeps."""
        await self._tell("/wakes", {"deployment": deployment})

    async def _tell(self, path: str, message: dict[str, Any]) -> None:
        if self.session is None:
            connector = aiohttp.UnixConnector(path=str(self.admin))
            self.session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5))
        with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError):
            async with self.session.post(f"http://controller{path}", json=message):
                pass

    async def close(self) -> None:
        if self.session is not None:
            await self.session.close()


def _log_writer(logs: Path) -> Callable[[str, str], None]:
    def write(deployment: str, text: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with (
            contextlib.suppress(OSError),
            (logs / "deployments" / f"{deployment}.log").open("a", encoding="utf-8") as file,
        ):
            file.write(f"[{moment}] {text}\n")

    return write
