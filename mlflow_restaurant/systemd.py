"""The unit file with which systemd keeps a server running, from boot on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

UNIT = "mlflow-restaurant.service"
STOP_S = 90


def unit_file(command: Path, home: Path, environ: Mapping[str, str], *, system: bool) -> str:
    """Return the unit file for the server of a home.

    Args:
        command: the ``mlflow-restaurant`` command.
        environ: variables that the server needs.
        system: for the system's own units, which start at boot, or else for those of a user.
    """
    reload = "systemctl" if system else "systemctl --user"
    folder = "/etc/systemd/system" if system else "~/.config/systemd/user"
    linger = [] if system else ["#   loginctl enable-linger    (so that it runs while you are not logged in)"]
    return "\n".join(
        [
            f"# mlflow-restaurant up --systemd > {folder}/{UNIT}",
            f"#   {reload} daemon-reload && {reload} enable --now {UNIT.removesuffix('.service')}",
            *linger,
            "[Unit]",
            f"Description=MLflow models in service, from {_plain(str(home))}",
            "After=network.target",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={_argument(str(command))} --target {_argument(f'restaurant:{home}')} up --foreground",
            *[f"Environment={quoted(f'{name}={value}')}" for name, value in sorted(environ.items())],
            "# Should the main process be killed, the others go on serving, and the next one takes them over.",
            "KillMode=process",
            "Restart=on-failure",
            "RestartSec=1",
            f"TimeoutStopSec={STOP_S}",
            "LimitNOFILE=65536",
            "",
            "[Install]",
            f"WantedBy={'multi-user.target' if system else 'default.target'}",
            "",
        ]
    )


def quoted(text: str) -> str:
    """Return a word as systemd reads it back; see systemd.syntax(7), "Quoting", and systemd.unit(5), "Specifiers"."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped}"'


def _argument(text: str) -> str:
    """Return a word of a command line, in which systemd would replace variables."""
    return quoted(text).replace("$", "$$")


def _plain(text: str) -> str:
    return text.replace("%", "%%").replace("\n", " ")
