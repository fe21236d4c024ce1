"""What surrounds the server: a disk that is full, a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

from mlflow.exceptions import MlflowException

from benchmarks.chaos.form import Form
from benchmarks.chaos.outcome import Outcome
from benchmarks.chaos.processes import oldest, repeatedly
from benchmarks.chaos.stage import Harm, Models, Stage, staged

NAME = "steady"
DISK = "size=32m,mode=700"
FAKETIME = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")
JUMPS_S = (86_400, -86_400, 3600, 5, -5, 0)
SEEN_WITHIN_S = 1.2
"""Time until libfaketime, which looks every second, has seen a jump."""
STAT = Path("/proc/stat")


class Impossible(Exception):
    """This can't be brought about here; the message says why."""


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """Mount an empty file system in memory at `path` for the time of the block.

    Raises:
        Impossible: this user may not, or there is no mount command.
    """
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Impossible("there is no mount command") from None
    if done.returncode != 0:
        raise Impossible(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(directory: Path) -> Path:
    """Leave no byte free in the file system of `directory`; returns the file that takes it all."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return filler


@contextlib.contextmanager
def small_disk(models: Models) -> Iterator[Stage]:
    """Give a server whose home has a small disk to itself."""
    with staged(models) as stage, mounted(stage.home.path, DISK):
        try:
            yield stage
        finally:
            stage.control.down()


def full_disk(stage: Stage, form: Form, outcome: Outcome) -> None:
    """What serves goes on; a change fails in one sentence, and a killed replica is back once there is room."""

    def strike() -> float:
        filler = fill(stage.home.path)
        try:
            stage.client.update_deployment(NAME, config={"timeout_s": "7"})
            outcome.broken.append("an update was made on a full disk")
        except MlflowException as e:
            if "full" not in str(e) and "No space left" not in str(e):
                outcome.broken.append(f"an update on a full disk failed with: {e}")
        victim = oldest(stage.replicas(NAME))
        stage.signal(victim, SIGKILL)
        time.sleep(form.seconds / 4)
        filler.unlink()
        return stage.until(lambda: stage.is_whole(NAME, victim, 2), "the replica is replaced")

    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:
        repeatedly(form, form.seconds / 2, outcome, strike)
    outcome.count(callers.tally())


@dataclass
class Clock:
    """The wall clock of a server's processes: libfaketime shifts it, and what ``/proc/stat`` says with it."""

    directory: Path

    def set(self, offset_s: int) -> None:
        """Let the clock jump to so many seconds from the true time."""
        self._write(self.directory / "offset", f"{offset_s:+d}\n")
        lines = STAT.read_text().splitlines(keepends=True)
        shifted = [f"btime {int(x.split()[1]) + offset_s}\n" if x.startswith("btime") else x for x in lines]
        self._write(self.directory / "stat", "".join(shifted))

    def _write(self, path: Path, text: str) -> None:
        with path.open("r+" if path.exists() else "w") as file:  # the same file: it is mounted elsewhere
            file.write(text)
            file.truncate()

    def environ(self) -> dict[str, str]:
        """Return the variables of processes that go by this clock.

        Raises:
            Impossible: libfaketime is not installed.
        """
        found = [path for pattern in FAKETIME for path in Path("/").glob(pattern[1:])]
        if sys.platform != "linux" or not found:
            raise Impossible("libfaketime is missing (Debian, Ubuntu: apt-get install faketime)")
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.directory / "offset"),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def start_server(self, stage: Stage) -> None:
        """Start a controller by this clock; its processes inherit it.

        Raises:
            Impossible: libfaketime is missing, or this user may not mount what ``/proc/stat`` says.
            Harm: it does not start.
        """
        command = ["unshare", "-m", "sh", "-c", f'mount --bind "{self.directory}/stat" {STAT} && exec "$@"']
        up = [sys.executable, "-m", "mlflow_restaurant.cli", "-t", f"restaurant:{stage.home.path}", "up"]
        done = subprocess.run(
            [*command, "sh", *up],
            env={**os.environ, **self.environ()},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            error = done.stderr.strip()
            raise Impossible(error) if os.geteuid() else Harm(f"the server does not start: {error}")


def jumping_clock(stage: Stage, form: Form, outcome: Outcome) -> None:
    """By a day, an hour, 5 s, forwards and back; after each, a controller and a replica are killed, and it is updated."""
    clock = Clock(stage.orders)
    clock.set(0)
    clock.start_server(stage)
    jumps = iter(JUMPS_S * 1000)

    def strike() -> float:
        clock.set(next(jumps))
        time.sleep(SEEN_WITHIN_S)
        controller, before = stage.one_of("controller"), set(stage.replicas(NAME))
        stage.signal(controller, SIGKILL)
        stage.until(lambda: controller not in stage.pids("controller"), "the controller has ended")
        begun = time.monotonic()
        clock.start_server(stage)
        if set(stage.replicas(NAME)) != before:
            outcome.broken.append("a replica was not taken over")
        victim = oldest(before)
        stage.signal(victim, SIGKILL)
        stage.until(lambda: stage.is_whole(NAME, victim, 2), "the replica is replaced")
        stage.client.update_deployment(NAME)
        return time.monotonic() - begun

    with stage.besieged(NAME, stage.models.linear, replicas="2") as callers:
        repeatedly(form, form.seconds / len(JUMPS_S), outcome, strike)
    outcome.count(callers.tally())
