"""The admin API: an HTTP application on the unix socket of the home.

Long commands answer with lines of JSON: ``{"progress": text}`` as often as there is something to say, then one of
``{"result": ...}`` or ``{"error": {"error_code", "message", "http_status"}}``. A caller that goes away gives the
command up.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
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
    api = _Api(commands, shut_down)
    return Starlette(
        routes=[
            Route("/status", api.status),
            Route("/down", api.down, methods=["POST"]),
            Route("/deployments", api.list_deployments),
            Route("/deployments", api.create_deployment, methods=["POST"]),
            Route("/deployments/{name:path}", api.get_deployment),
            Route("/deployments/{name:path}", api.update_deployment, methods=["PATCH"]),
            Route("/deployments/{name:path}", api.delete_deployment, methods=["DELETE"]),
            Route("/history/{name:path}", api.history),
            Route("/events", api.events),
            Route("/rollbacks/{name:path}", api.rollback, methods=["POST"]),
            Route("/promotions/{name:path}", api.promote, methods=["POST"]),
            Route("/aborts/{name:path}", api.abort, methods=["POST"]),
            Route("/endpoints", api.list_endpoints),
            Route("/endpoints", api.create_endpoint, methods=["POST"]),
            Route("/endpoints/{name:path}", api.get_endpoint),
            Route("/endpoints/{name:path}", api.update_endpoint, methods=["PATCH"]),
            Route("/endpoints/{name:path}", api.delete_endpoint, methods=["DELETE"]),
            Route("/suspects", api.suspect, methods=["POST"]),
            Route("/distrusts", api.distrust, methods=["POST"]),
            Route("/wakes", api.wake, methods=["POST"]),
        ],
        exception_handlers={RestaurantError: _error, Exception: _unexpected},
    )


class _Api:
    """The handlers: from a request to a command and back."""

    def __init__(self, commands: Commands, shut_down: Callable[[], None]) -> None:
        self.commands, self.shut_down = commands, shut_down

    async def status(self, _: Request) -> Response:
        return JSONResponse(await self.commands.views.status())

    async def down(self, _: Request) -> Response:
        self.shut_down()
        return JSONResponse({})

    async def list_deployments(self, request: Request) -> Response:
        return JSONResponse(self.commands.views.list_deployments(request.query_params.get("endpoint")))

    async def get_deployment(self, request: Request) -> Response:
        return JSONResponse(self.commands.views.get(_name(request), request.query_params.get("endpoint")))

    async def create_deployment(self, request: Request) -> Response:
        body = await request.json()
        return _streamed(lambda progress: self.commands.create(body["name"], body, progress))

    async def update_deployment(self, request: Request) -> Response:
        body = await request.json()
        return _streamed(lambda progress: self.commands.update(_name(request), body, progress))

    async def delete_deployment(self, request: Request) -> Response:
        params = request.query_params
        await self.commands.delete(_name(request), params.get("endpoint"), params.get("actor", ""))
        return JSONResponse({})

    async def rollback(self, request: Request) -> Response:
        body = await request.json()
        return _streamed(lambda progress: self.commands.rollback(_name(request), body, progress))

    async def promote(self, request: Request) -> Response:
        actor = (await request.json()).get("actor", "")
        return _streamed(lambda progress: self.commands.promote(_name(request), progress, actor))

    async def abort(self, request: Request) -> Response:
        actor = (await request.json()).get("actor", "")
        return _streamed(lambda progress: self.commands.abort(_name(request), progress, actor))

    async def history(self, request: Request) -> Response:
        return JSONResponse(self.commands.views.history(_name(request)))

    async def events(self, request: Request) -> Response:
        params = request.query_params
        return JSONResponse(
            await self.commands.views.events(
                params.get("name"),
                since=datetime.fromisoformat(params["since"]) if "since" in params else None,
                after=int(params.get("after", 0)),
                limit=int(params["limit"]) if "limit" in params else None,
            )
        )

    async def list_endpoints(self, _: Request) -> Response:
        return JSONResponse(self.commands.views.list_endpoints())

    async def create_endpoint(self, request: Request) -> Response:
        body = await request.json()
        return JSONResponse(await self.commands.endpoints.create(body["name"], *_split(body)))

    async def get_endpoint(self, request: Request) -> Response:
        return JSONResponse(self.commands.views.get_endpoint(_name(request)))

    async def update_endpoint(self, request: Request) -> Response:
        body = await request.json()
        return JSONResponse(await self.commands.endpoints.update(_name(request), *_split(body)))

    async def delete_endpoint(self, request: Request) -> Response:
        await self.commands.endpoints.delete(_name(request), request.query_params.get("actor", ""))
        return JSONResponse({})

    async def wake(self, request: Request) -> Response:
        self.commands.controller.scaler.wake((await request.json())["deployment"])
        return JSONResponse({})

    async def suspect(self, request: Request) -> Response:
        body = await request.json()
        self.commands.controller.suspect(body["key"], body["reason"])
        return JSONResponse({})

    async def distrust(self, request: Request) -> Response:
        body = await request.json()
        self.commands.controller.outcomes.end_batching(body["deployment"], body["revision"], body["reason"])
        return JSONResponse({})


def _split(body: Mapping[str, Any]) -> tuple[object, object, str]:
    """Return traffic, stickiness and who gives them to an endpoint."""
    return body.get("traffic"), body.get("sticky"), body.get("actor", "")


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name


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
