"""The admin API: an HTTP application on the unix socket of the home.

Long commands answer with lines of JSON: ``{"progress": text}`` as often as there is something to say, then one of
``{"result": ...}`` or ``{"error": {"error_code", "message", "http_status"}}``. A caller that goes away gives the
command up.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlflow_restaurant.control.commands import Commands
from mlflow_restaurant.control.jobs import Progress
from mlflow_restaurant.errors import Cancelled, RestaurantError

_logger = logging.getLogger(__name__)

Command = Callable[[Progress], Awaitable[Any]]


def admin_app(commands: Commands, shut_down: Callable[[], None]) -> Starlette:
    """Return the application; `shut_down` is called when a client asks for the end of the server."""

    async def status(_: Request) -> Response:
        return JSONResponse(await commands.status())

    async def down(_: Request) -> Response:
        shut_down()
        return JSONResponse({})

    async def list_deployments(request: Request) -> Response:
        return JSONResponse(commands.list_deployments(request.query_params.get("endpoint")))

    async def get_deployment(request: Request) -> Response:
        return JSONResponse(commands.get(request.path_params["name"], request.query_params.get("endpoint")))

    async def create_deployment(request: Request) -> Response:
        body = await request.json()
        return _streamed(lambda progress: commands.create(body["name"], body, progress))

    async def update_deployment(request: Request) -> Response:
        body, name = await request.json(), request.path_params["name"]
        return _streamed(lambda progress: commands.update(name, body, progress))

    async def delete_deployment(request: Request) -> Response:
        await commands.delete(request.path_params["name"], request.query_params.get("endpoint"))
        return JSONResponse({})

    async def history(request: Request) -> Response:
        return JSONResponse(commands.history(request.path_params["name"]))

    async def list_endpoints(_: Request) -> Response:
        return JSONResponse(commands.list_endpoints())

    async def create_endpoint(request: Request) -> Response:
        body = await request.json()
        return JSONResponse(commands.create_endpoint(body["name"], body.get("traffic")))

    async def get_endpoint(request: Request) -> Response:
        return JSONResponse(commands.get_endpoint(request.path_params["name"]))

    async def update_endpoint(request: Request) -> Response:
        body = await request.json()
        return JSONResponse(commands.update_endpoint(request.path_params["name"], body.get("traffic")))

    async def delete_endpoint(request: Request) -> Response:
        commands.delete_endpoint(request.path_params["name"])
        return JSONResponse({})

    async def suspect(request: Request) -> Response:
        body = await request.json()
        for replica in list(commands.controller.replicas.values()):
            replica.suspect(body["key"], body["reason"])
        return JSONResponse({})

    return Starlette(
        routes=[
            Route("/status", status),
            Route("/down", down, methods=["POST"]),
            Route("/deployments", list_deployments),
            Route("/deployments", create_deployment, methods=["POST"]),
            Route("/deployments/{name:path}", get_deployment),
            Route("/deployments/{name:path}", update_deployment, methods=["PATCH"]),
            Route("/deployments/{name:path}", delete_deployment, methods=["DELETE"]),
            Route("/history/{name:path}", history),
            Route("/endpoints", list_endpoints),
            Route("/endpoints", create_endpoint, methods=["POST"]),
            Route("/endpoints/{name:path}", get_endpoint),
            Route("/endpoints/{name:path}", update_endpoint, methods=["PATCH"]),
            Route("/endpoints/{name:path}", delete_endpoint, methods=["DELETE"]),
            Route("/suspects", suspect, methods=["POST"]),
        ],
        exception_handlers={RestaurantError: _error, Exception: _unexpected},
    )


async def _error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RestaurantError)
    return JSONResponse(error.to_json(), status_code=error.http_status)


async def _unexpected(_: Request, error: Exception) -> Response:
    _logger.error("a command failed unexpectedly", exc_info=error)
    return JSONResponse(_internal(error).to_json(), status_code=500)


def _internal(error: BaseException) -> RestaurantError:
    return RestaurantError(f"The server failed unexpectedly ({type(error).__name__}: {error}); see its log.")


def _streamed(command: Command) -> Response:
    return StreamingResponse(_lines(command), media_type="application/x-ndjson")


async def _lines(command: Command) -> AsyncIterator[str]:
    said: asyncio.Queue[str | None] = asyncio.Queue()
    task = asyncio.ensure_future(command(said.put_nowait))
    task.add_done_callback(lambda _: said.put_nowait(None))
    try:
        while (text := await said.get()) is not None:
            yield _line({"progress": text})
        yield _line(_outcome(task))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _outcome(task: asyncio.Future[Any]) -> dict[str, Any]:
    if task.cancelled():
        error: BaseException | None = Cancelled("The command was given up: a later one overtook it.")
    else:
        error = task.exception()
    if error is None:
        return {"result": task.result()}
    if not isinstance(error, RestaurantError):
        _logger.error("a command failed unexpectedly", exc_info=error)
        error = _internal(error)
    return {"error": {**error.to_json(), "http_status": error.http_status}}


def _line(message: dict[str, Any]) -> str:
    return json.dumps(message) + "\n"
