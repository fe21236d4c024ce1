"""Process records: one small file in the run directory for each process of a home.

By them a server that was killed finds what it left running. A process ends itself when its record is gone
(see `lease`), so nothing outlives a home that was deleted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from mlflow_restaurant._version import __version__
from mlflow_restaurant.process.faults import fault_point

SUFFIX = ".proc"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CREATE_TIME_TOLERANCE_S = 2.0


class ProcessRecord(BaseModel):
    """What is known of one process; `created`, with `boot`, tells it from a later one with the same id (see `_birth`)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    id: str
    pid: int
    created: float
    boot: str = ""
    version: str = ""
    details: dict[str, Any] = {}

    def alive(self) -> bool:
        """Tell whether this very process still runs."""
        return self.process() is not None

    def process(self) -> psutil.Process | None:
        """Return the process, or None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            boot, created = _birth(process)
            same = boot == self.boot and abs(created - self.created) < _CREATE_TIME_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def signal(self, signum: int) -> None:
        """Send a signal, unless the process has ended."""
        process = self.process()
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signum)


def _birth(process: psutil.Process) -> tuple[str, float]:
    """Return which start of the machine a process belongs to, and when it was created, in seconds.

    On Linux they count from that start. psutil would add the moment of the start by the wall clock, which moves when that
    clock is set: every process would seem to be another one from then on.

    Raises:
        psutil.Error: the process has ended.
    """
    if sys.platform != "linux":
        return "", process.create_time()
    try:
        text = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        raise psutil.NoSuchProcess(process.pid) from None
    # Field 22, "starttime", in ticks; the second one is the name, in brackets, which may contain any character.
    return boot, int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def record_path(run: Path, record_id: str) -> Path:
    """Return the path of the record of that id."""
    return run / (record_id + SUFFIX)


def write_record(run: Path, kind: str, record_id: str, pid: int, **details: Any) -> ProcessRecord:
    """Write the record of a process that runs; a reader sees all of it or nothing.

    Raises:
        OSError: the disk is full, the home is gone, or the process has ended already.
    """
    try:
        boot, created = _birth(psutil.Process(pid))
    except psutil.Error as e:
        raise ProcessLookupError(f"process {pid} has ended already") from e
    record = ProcessRecord(
        kind=kind,
        id=record_id,
        pid=pid,
        created=created,
        boot=boot,
        version=__version__,
        details=details,
    )
    path = record_path(run, record_id)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(record.model_dump_json(), encoding="utf-8")
    fault_point(f"{kind} record: before it is there")
    temporary.replace(path)
    fault_point(f"{kind} record: after it is there")
    return record


def identify(pid: int) -> ProcessRecord | None:
    """Return an unwritten record of a process that runs, or None when it has ended."""
    try:
        boot, created = _birth(psutil.Process(pid))
    except psutil.Error:
        return None
    return ProcessRecord(kind="", id="", pid=pid, created=created, boot=boot)


def read_record(run: Path, record_id: str) -> ProcessRecord | None:
    """Return the record of that id, or None when there is none that can be read."""
    return _read(record_path(run, record_id))


def read_records(run: Path) -> list[ProcessRecord]:
    """Return all records of a home, those of ended processes too."""
    found = [_read(path) for path in sorted(run.glob("*" + SUFFIX))]
    return [record for record in found if record is not None]


def _read(path: Path) -> ProcessRecord | None:
    try:
        return ProcessRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remove_record(run: Path, record_id: str) -> None:
    """Remove a record, if it is there."""
    fault_point("record: before it is removed")
    record_path(run, record_id).unlink(missing_ok=True)
    fault_point("record: after it is removed")
