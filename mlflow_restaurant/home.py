"""The home directory of a server: where everything lies that it keeps, and who may touch it.

A home has mode 0700: its sockets are the only door to the admin API, and whoever may open them may do anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow_restaurant.config import HOME_VARIABLE
from mlflow_restaurant.errors import HomeError, InvalidRequest

TARGET = "restaurant"
MAX_SOCKET_PATH = 90
"""Longest path of the run directory plus a socket name that fits into ``sockaddr_un`` (104 bytes on macOS)."""
LONGEST_SOCKET_NAME = 14
SHORT_DIRECTORY = Path("/tmp")
"""Not the temporary directory of the environment: every shell must find the same sockets."""


@dataclass(frozen=True)
class Home:
    """The paths inside one home."""

    path: Path

    @property
    def database(self) -> Path:
        return self.path / "state.db"

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Directory of sockets and process records; a short one elsewhere when the home's path is too long."""
        if len(os.fsencode(self.records)) + 1 + LONGEST_SOCKET_NAME <= MAX_SOCKET_PATH:
            return self.records
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return SHORT_DIRECTORY / f"mlflow-restaurant-{os.getuid()}-{digest}"

    @property
    def records(self) -> Path:
        """The run directory as seen from the home: gone with the home, wherever the sockets are."""
        return self.path / "run"

    @property
    def admin_socket(self) -> Path:
        return self.run / "admin.sock"

    @property
    def forkserver_socket(self) -> Path:
        return self.run / "fork.sock"

    @property
    def server_log(self) -> Path:
        return self.logs / "server.log"

    def deployment_log(self, name: str) -> Path:
        """Log of one deployment: its events and whatever its replicas print."""
        return self.logs / "deployments" / f"{name}.log"

    def ensure(self) -> None:
        """Make the directories that are missing.

        Raises:
            HomeError: the home is a file, belongs to another user or can't be written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(self.path)
            if self.database.exists() or not any(self.path.iterdir()):
                self.path.chmod(0o700)  # never of a directory that holds other things too
            for directory in (self.models, self.logs / "deployments"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.run.mkdir(mode=0o700, exist_ok=True)
            _check_owner(self.run)
            if self.run != self.records and not self.records.exists():
                self.records.unlink(missing_ok=True)
                self.records.symlink_to(self.run)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as e:
            raise HomeError(
                f"The home {self.path} can't be used: {e.strerror}. Name another with"
                f" {HOME_VARIABLE} or the target {TARGET}:/path."
            ) from None

    def remove_run_elsewhere(self) -> None:
        """Remove the run directory, if it lies outside the home."""
        if self.run != self.records:
            with contextlib.suppress(OSError):
                self.records.unlink()
            shutil.rmtree(self.run, ignore_errors=True)


def _check_owner(path: Path) -> None:
    owner = path.stat().st_uid
    if owner != os.getuid():
        raise HomeError(
            f"{path} belongs to another user (id {owner}). Name a home of your own with {HOME_VARIABLE}"
            f" or the target {TARGET}:/path."
        )


def default_home() -> Home:
    """Return ``$MLFLOW_RESTAURANT_HOME``, else ``~/.mlflow-restaurant``."""
    named = os.environ.get(HOME_VARIABLE)
    return Home((Path(named).expanduser() if named else Path.home() / ".mlflow-restaurant").resolve())


def home_of_target(target_uri: str) -> Home:
    """Return the home that a deployment target names: ``restaurant`` or ``restaurant:/abs/path``.

    Raises:
        InvalidRequest: the target has another form.
    """
    scheme, colon, rest = target_uri.partition(":")
    if scheme == TARGET and not colon:
        return default_home()
    if scheme == TARGET and rest.startswith("//"):
        raise InvalidRequest(
            f"The target {target_uri} names another machine, which is not supported yet:"
            f" use '{TARGET}' or '{TARGET}:/absolute/path'."
        )
    if scheme == TARGET and rest.startswith("/"):
        return Home(Path(rest).resolve())
    raise InvalidRequest(f"{target_uri!r} is no target: use '{TARGET}' or '{TARGET}:/absolute/path'.")
