"""The blocking client of the admin API, used by the plugin and the command line. Starts the server on demand."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3

from mlflow_restaurant.control.connection import pool_of
from mlflow_restaurant.control.starting import CONTROLLER, ServerProcess, wait_for_end
from mlflow_restaurant.errors import HomeError, RestaurantError, Unresponsive, from_json
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.records import ProcessRecord, read_records
from mlflow_restaurant.process.watch import signal_group

DOWN_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 5.0
REPEATABLE = ("GET", "DELETE")

Progress = Callable[[str], None]


class ControlClient:
    """Talks to the server of one home.

    Args:
        home: the home, or its path.
    """

    def __init__(self, home: Home | Path | str) -> None:
        self.home = home if isinstance(home, Home) else Home(Path(home))
        self.process = ServerProcess(self.home)

    # -- the server's life

    def is_running(self) -> bool:
        """Tell whether a server of this home answers."""
        return self.process.is_running()

    def ensure_running(self) -> None:
        """Start the server, unless it runs; of several callers at once, one starts it.

        Raises:
            RestaurantError: it can't be started; the message says why.
        """
        self.process.ensure_running()

    @contextlib.contextmanager
    def running(self, environ: Mapping[str, str]) -> Iterator[None]:
        """Run the server for the time of the block; it ends too when this process is killed.

        Args:
            environ: variables for the server, over those of this process.
        """
        self.home.ensure()
        tie_r, tie_w = os.pipe()
        try:
            self.process.start(environ, tie_r)
            yield
        finally:
            os.close(tie_w)
            os.close(tie_r)
            self.down()

    def down(self) -> bool:
        """Stop the server and every process of the home; False when nothing ran.

        A server that does not answer is killed, and what it leaves is ended.
        """
        records = [r for r in read_records(self.home.run) if r.alive()] if self.home.run.is_dir() else []
        controller = next((r for r in records if r.kind == CONTROLLER), None)
        if controller is not None:
            self._end(controller)
        self.process.end_leftovers()
        self.home.remove_run_elsewhere()
        return bool(records)

    def _end(self, controller: ProcessRecord) -> None:
        timeout_s = DOWN_TIMEOUT_S
        try:
            self._request("POST", "/down")
        except Unresponsive:
            timeout_s = 0.0
        except RestaurantError:  # it is on its way up, or down
            pass
        for record in wait_for_end([controller], timeout_s):
            signal_group(record, signal.SIGKILL)
            wait_for_end([record], KILL_TIMEOUT_S)

    # -- commands

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._get("/status")
        return found

    def create_deployment(self, name: str, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        return self._long("POST", "/deployments", {**request, "name": name}, progress)

    def update_deployment(self, name: str, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        return self._long("PATCH", f"/deployments/{_quoted(name)}", request, progress)

    def rollback(
        self, name: str, revision: int | None, progress: Progress, *, reason: str = "", wait: bool = False
    ) -> dict[str, Any]:
        request = {"revision": revision, "reason": reason, "wait": wait}
        return self._long("POST", f"/rollbacks/{_quoted(name)}", request, progress)

    def promote(self, name: str, progress: Progress) -> dict[str, Any]:
        return self._long("POST", f"/promotions/{_quoted(name)}", {}, progress)

    def abort(self, name: str, progress: Progress) -> dict[str, Any]:
        return self._long("POST", f"/aborts/{_quoted(name)}", {}, progress)

    def delete_deployment(self, name: str, endpoint: str | None = None) -> None:
        self._request(
            "DELETE", f"/deployments/{_quoted(name)}", fields={"endpoint": endpoint, "actor": _user()}
        )

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self._get(f"/deployments/{_quoted(name)}", {"endpoint": endpoint})
        return found

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get("/deployments", {"endpoint": endpoint})
        return found

    def history(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get(f"/history/{_quoted(name)}")
        return found

    def events(
        self,
        name: str | None = None,
        *,
        since: datetime | None = None,
        after: int = 0,
        limit: int | None = None,
        revive: bool = True,
    ) -> list[dict[str, Any]]:
        """List events, those that happened first at first.

        Args:
            name: only those of the deployments or endpoints of this name, also of what is deleted.
            since: only those from then on.
            after: only those with a greater ``id``.
            limit: the newest so many.
            revive: start a server that has gone, rather than to raise `HomeError`.
        """
        fields = {
            "name": name,
            "since": None if since is None else since.isoformat(),
            "after": str(after),
            "limit": None if limit is None else str(limit),
        }
        found: list[dict[str, Any]] = json.loads(
            self._request("GET", "/events", fields=fields, revive=revive).data
        )
        return found

    def create_endpoint(self, name: str, traffic: object = None, sticky: object = None) -> dict[str, Any]:
        return self._sent("POST", "/endpoints", {"name": name, "traffic": traffic, "sticky": sticky})

    def update_endpoint(self, name: str, traffic: object = None, sticky: object = None) -> dict[str, Any]:
        return self._sent("PATCH", f"/endpoints/{_quoted(name)}", {"traffic": traffic, "sticky": sticky})

    def delete_endpoint(self, name: str) -> None:
        self._request("DELETE", f"/endpoints/{_quoted(name)}", fields={"actor": _user()})

    def get_endpoint(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._get(f"/endpoints/{_quoted(name)}")
        return found

    def list_endpoints(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get("/endpoints")
        return found

    # -- parts

    def _get(self, path: str, fields: Mapping[str, str | None] | None = None) -> Any:
        return json.loads(self._request("GET", path, fields=fields).data)

    def _sent(self, method: str, path: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        payload = {**payload, "actor": _user()}
        answer: dict[str, Any] = json.loads(self._request(method, path, payload).data)
        return answer

    def _long(self, method: str, path: str, payload: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        payload = {**payload, "actor": _user()}
        with contextlib.closing(self._request(method, path, payload, stream=True)) as response:
            for message in _messages(response):
                if "progress" in message:
                    progress(message["progress"])
                elif "error" in message:
                    raise from_json(message["error"], message["error"]["http_status"])
                else:
                    result: dict[str, Any] = message["result"]
                    return result
        raise RestaurantError(
            "The server went down before the command was done; a rollout that had begun goes on when it runs again:"
            " see 'mlflow-restaurant status'."
        )

    def _request(
        self,
        method: str,
        path: str,
        payload: Mapping[str, Any] | None = None,
        *,
        fields: Mapping[str, str | None] | None = None,
        stream: bool = False,
        revive: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        given = {name: value for name, value in (fields or {}).items() if value is not None}
        query = "?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in given.items()) if given else ""
        body = None if payload is None else json.dumps(payload).encode()
        try:
            response = self._send(method, path + query, body, stream=stream)
        except (urllib3.exceptions.HTTPError, OSError) as e:
            if method not in REPEATABLE or not revive:
                raise self._unanswered(e) from None
            response = self._send_again(method, path + query)
        if response.status != 200:
            raise _error(response)
        return response

    def _send(
        self, method: str, target: str, body: bytes | None, *, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": "application/json"}
        pool = pool_of(self.home.admin_socket, self.process.check)
        return pool.request(method, target, body=body, headers=headers, preload_content=not stream)

    def _send_again(self, method: str, target: str) -> urllib3.BaseHTTPResponse:
        """Send a request that changes nothing when repeated to the server that is there now."""
        try:
            self.ensure_running()
            return self._send(method, target, None, stream=False)
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise self._unanswered(e) from None

    def _unanswered(self, error: Exception) -> HomeError:
        return HomeError(
            f"The server of {self.home.path} does not answer ({error}); see {self.home.server_log}."
        )


def _messages(response: urllib3.BaseHTTPResponse) -> Iterator[dict[str, Any]]:
    buffered = b""
    try:
        for chunk in response.stream():
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
    except urllib3.exceptions.HTTPError:
        return


def _error(response: urllib3.BaseHTTPResponse) -> RestaurantError:
    try:
        return from_json(json.loads(response.data), response.status)
    except ValueError:
        return RestaurantError(f"The server answered with status {response.status}.")


def _user() -> str:
    """Return the name of the system user, or the user id where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _quoted(name: str) -> str:
    return quote(str(name), safe="")
