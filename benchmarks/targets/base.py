"""What a server under test is to the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil


class Absent(RuntimeError):
    """The server can't be measured on this machine; the message says why."""


@dataclass(frozen=True)
class Served:
    """A model that is being served, or will be once the server has started.

    Args:
        url: takes predictions, with POST.
        log: the server's output.
        processes: returns the server's living processes; none means that it has ended.
        figures: what this server alone can show, by name; each call measures once.
    """

    url: str
    log: Path
    processes: Callable[[], list[psutil.Process]]
    figures: Mapping[str, Callable[[], float]] = field(default_factory=dict)


class Target(Protocol):
    """A server, with its settings."""

    @property
    def title(self) -> str:
        """What the report calls it."""

    @property
    def body_format(self) -> str:
        """How it wants its requests: a key of `benchmarks.formats.WRITERS`."""

    def prepare(self) -> str:
        """Install what is needed and return the version.

        Raises:
            Absent: it can't be installed.
        """

    def serve(self, model: Path, folder: Path) -> AbstractContextManager[Served]:
        """Serve a saved model for the time of the block; it may not answer yet when the block begins.

        Args:
            model: directory of the model.
            folder: an empty directory, for logs and whatever the server keeps.
        """
