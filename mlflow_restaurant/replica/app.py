"""A replica: MLflow's scoring application for one model, on a unix socket.

Within this package's own environment `fast` shortens the way of the commonest requests through it.

This file runs in two ways: as a job forked from the fork server, and by its path with the Python of the model's own
environment (``python app.py ARGUMENTS STATUS_FD``), where neither this package nor this version of MLflow need be
installed. So it imports the standard library at the top, and below only what every environment of a model has.
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import traceback
from pathlib import Path

if __package__:
    from mlflow_restaurant.process import lease, merging
    from mlflow_restaurant.replica import own_steps
    from mlflow_restaurant.replica.model_guard import IN_TURN, Guard, limit_threads
    from mlflow_restaurant.replica.traces import TRACES
else:  # run by its path, outside the package; a model's own modules may have the same names
    import own_steps  # type: ignore[no-redef,import-not-found,unused-ignore]
    from model_guard import (  # type: ignore[no-redef,import-not-found,unused-ignore]
        IN_TURN,
        Guard,
        limit_threads,
    )
    from traces import TRACES  # type: ignore[no-redef,import-not-found,unused-ignore]

    sys.path[0] = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "process")
    import lease  # type: ignore[no-redef,import-not-found,unused-ignore]
    import merging  # type: ignore[no-redef,import-not-found,unused-ignore]

    del sys.path[0]
    for name in ("own_steps", "model_guard", "traces", "lease", "merging"):
        del sys.modules[name]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Report = Callable[[dict[str, Any]], None]

BACKLOG = 2048
KEEP_ALIVE_S = 24 * 3600
SHORTCUTS_VARIABLE = "RESTAURANT_SHORTCUTS"
"""``-C env.RESTAURANT_SHORTCUTS=off`` lets MLflow's application answer everything."""
EXIT_LOAD_FAILED = 3
EXIT_MODEL_EXITED = 4


class Server:
    """The scoring application and the server that answers for it; `stop` ends it after what is in flight."""

    def __init__(self, app: "Any", bound: socket.socket, grace_s: float) -> None:
        self.app, self.bound, self.grace_s = app, bound, grace_s
        self.answer: Any = getattr(app, "answer", None)  # of `serving.Scoring`
        self.exit_code = 0
        self.uvicorn: Any = None

    def run(self) -> int:
        if hasattr(self.app, "wsgi_app"):
            self._run_wsgi()
        else:
            self._run_asgi()
        return self.exit_code

    def stop(self, exit_code: int) -> None:
        self.exit_code = exit_code
        if self.uvicorn is not None:
            self.uvicorn.should_exit = True
            self.uvicorn.wake()
        else:
            os.kill(os.getpid(), 15)

    def _run_asgi(self) -> None:
        import uvicorn

        bound, answer = self.bound, self.answer

        class Quiet(uvicorn.Server):
            """Waits for its end; the original looks ten times a second, also when nobody asks for predictions."""

            async def main_loop(self) -> None:
                self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
                accepting = self.loop.create_task(accept(self))
                if not self.should_exit:
                    await self.ended.wait()
                accepting.cancel()

            def handle_exit(self, sig: int, frame: "Any") -> None:
                super().handle_exit(sig, frame)
                self.wake()

            def wake(self) -> None:
                if hasattr(self, "ended"):
                    self.loop.call_soon_threadsafe(self.ended.set)

        async def accept(server: uvicorn.Server) -> None:
            """Give each connection a thread that scores what it can; without shortcuts, all is uvicorn's."""
            if answer is not None:
                from mlflow_restaurant.replica import direct

                await direct.Listener(bound, answer, server).accept()

        config = uvicorn.Config(
            with_headers_of_gateway(self.app),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(self.grace_s) + 1,
        )
        logging.getLogger("uvicorn.error").addFilter(lambda _: TRACES.admit())
        self.uvicorn = Quiet(config)
        self.uvicorn.run(sockets=[bound] if answer is None else [])

    def _run_wsgi(self) -> None:
        """Serve the Flask application of MLflow 2, with the server that MLflow 2 brings."""
        from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped,unused-ignore]

        app, fd, grace = with_turn(self.app), self.bound.fileno(), int(self.grace_s) + 1

        class Application(BaseApplication):  # type: ignore[misc,unused-ignore]
            def load_config(self) -> None:
                settings = {"bind": f"fd://{fd}", "worker_class": "gthread", "threads": 6, "timeout": 0}
                for key, value in {**settings, "graceful_timeout": grace, "keepalive": 75}.items():
                    self.cfg.set(key, value)

            def load(self) -> "Any":
                return app

        os.set_inheritable(fd, True)
        Application().run()


def import_skops_first(path: str) -> None:
    """Import skops before MLflow if the model needs it: it goes through all modules that are there already, for seconds."""
    if "mlflow" not in sys.modules and any(Path(path).rglob("*.skops")):
        with contextlib.suppress(ImportError):
            import skops.io  # type: ignore[import-untyped,unused-ignore]  # noqa: F401


def load_model(path: str, model_config: "dict[str, Any] | None") -> "Any":
    """Load the pyfunc as MLflow's own scoring server does."""
    from mlflow import pyfunc

    return pyfunc.load_model(path, model_config=model_config) if model_config else pyfunc.load_model(path)


def with_shortcuts(app: "Any", model: "Any", guard: Guard) -> "Any":
    """Put the shortcuts in front of MLflow's application, where there are any for this model."""
    if not __package__ or os.environ.get(SHORTCUTS_VARIABLE) == "off":
        return app
    try:
        from mlflow_restaurant.replica import fast, serving
    except ImportError:  # a name that this MLflow doesn't have
        return app
    shortcuts = fast.shortcuts(model)
    if shortcuts is None:
        return app
    guard.guard(shortcuts)
    return serving.Scoring(app, shortcuts)


def with_headers_of_gateway(app: "Any") -> "Any":
    """Take what the gateway says by headers: when it is a request's turn, and values as UTF-8 that callers sent otherwise.

    Only an application with shortcuts can tell requests apart that were put together.
    """
    tells_apart = hasattr(app, "answer")

    async def wrapped(scope: "Any", receive: "Any", send: "Any") -> None:
        headers = scope.get("headers", ())
        names = {name for name, _ in headers}
        IN_TURN.set(merging.TURN in names)
        if merging.COUNTS in names and not tells_apart:
            await send({"type": "http.response.start", "status": merging.NEVER, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if not all(value.isascii() for _, value in headers):
            raw = [(name, value.decode("utf-8").encode("latin-1")) for name, value in headers]
            scope = {**scope, "headers": raw}
        await app(scope, receive, send)

    return wrapped


def with_turn(app: "Any") -> "Any":
    """`with_headers_of_gateway` for a WSGI application, but for values that are not ASCII."""
    turn, counts = (
        "HTTP_" + name.decode().upper().replace("-", "_") for name in (merging.TURN, merging.COUNTS)
    )

    def wrapped(environ: "Any", start_response: "Any") -> "Any":
        IN_TURN.set(turn in environ)
        if counts in environ:
            start_response(f"{merging.NEVER} Not Implemented", [("Content-Length", "0")])
            return []
        return app(environ, start_response)

    return wrapped


def mend_fastapi() -> None:
    """Give FastAPI back the decorator that MLflow before 3.2 uses and that newer releases of Starlette removed.

    Such a version of MLflow does not limit Starlette's, so an environment that is built for it today has a newer one.
    """
    try:
        from fastapi import FastAPI
    except ImportError:  # MLflow before 2.22 serves with Flask
        return
    if hasattr(FastAPI, "route"):
        return

    def route(self: "Any", path: str, methods: "list[str] | None" = None) -> "Any":
        def add(function: "Any") -> "Any":
            self.add_route(path, function, methods=methods)
            return function

        return add

    FastAPI.route = route  # type: ignore[attr-defined,unused-ignore]


def bind(path: str) -> socket.socket:
    """Return a unix socket that listens on `path`; one left there by an ended process is replaced."""
    if os.path.exists(path):
        os.unlink(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(path)
    bound.listen(BACKLOG)
    return bound


def main(args: "dict[str, Any]", report: "Report") -> int:
    """Serve until SIGTERM; returns the exit status.

    Args:
        args: ``model`` (directory), ``socket`` and ``record`` (paths), ``model_config`` (object or None),
            ``grace_s`` (time for what is in flight when asked to stop), ``threads`` (of BLAS and OpenMP).
        report: told ``{"ready": true, "own_step": name, "tells_requests_apart": bool}`` (see `own_steps`, `texts`), or
            ``{"failed": reason}`` when the model does not load.
    """
    # The gateway keeps the deadline of each request; MLflow's own must never come first.
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = str(7 * 24 * 3600)
    try:
        import_skops_first(args["model"])
        from mlflow.pyfunc import scoring_server

        mend_fastapi()
        model = load_model(args["model"], args.get("model_config"))
        limit_threads(args.get("threads"))
        own_step = own_steps.own_step(model)
        guard = Guard(args.get("threads"))
        guard.guard(model)
        app = with_shortcuts(scoring_server.init(model), model, guard)
        server = Server(app, bind(args["socket"]), args["grace_s"])
    except BaseException as e:
        report({"failed": f"{type(e).__name__}: {e}"})
        with contextlib.suppress(OSError):  # the disk may be full
            traceback.print_exc()
        return EXIT_LOAD_FAILED

    def model_exited(e: BaseException) -> None:
        report({"exiting": f"the model raised {type(e).__name__}"})
        server.stop(EXIT_MODEL_EXITED)
        with contextlib.suppress(OSError):
            traceback.print_exception(type(e), e, e.__traceback__)

    guard.on_exit = model_exited
    tells_apart = getattr(getattr(app, "shortcuts", None), "tells_requests_apart", False)
    report({"ready": True, "own_step": own_step, "tells_requests_apart": tells_apart})
    return server.run()


def run_by_path() -> int:
    """Run with the arguments and the status descriptor of the command line."""
    status_fd = int(sys.argv[2])
    args = json.loads(sys.argv[1])
    lease.end_with(args["record"])

    def report(message: "dict[str, Any]") -> None:
        os.write(status_fd, (json.dumps(message) + "\n").encode())

    return main(args, report)


if __name__ == "__main__":
    sys.exit(run_by_path())
