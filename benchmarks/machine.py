"""What the measurements were made on; no names of hosts or people, and no paths."""

from __future__ import annotations

import os
import platform
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import psutil

CPU_INFO = Path("/proc/cpuinfo")


def describe() -> dict[str, str]:
    """Return what a reader needs to judge the numbers."""
    cores = psutil.cpu_count() or 0
    load = os.getloadavg()[0]
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cores": str(cores),
        "processor": processor(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "load before": f"{load:.1f} of {cores} cores",
    }


def anonymous(text: str) -> str:
    """Return text without this machine's name and without folders of its user."""
    places = {tempfile.gettempdir(): "TMP", str(Path.home()): "~", platform.node(): "HOST"}
    for place, mark in places.items():
        if len(place) > 1:
            text = text.replace(place, mark)
    return text


def processor(cpu_info: Path = CPU_INFO) -> str:
    if cpu_info.is_file():
        for line in cpu_info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
