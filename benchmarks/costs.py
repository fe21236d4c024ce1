"""What one request, one call and one row cost in CPU time, in gateway and replica; where it scales follows from that.

    python -m benchmarks.costs [--models floats text mixed] [--seconds 3] [--rounds 3]

Writes ``costs.md`` and ``costs.json`` into `benchmarks/results`, or where ``--output`` says. Loads one deployment with more and more callers, which makes batches larger, and splits the CPU time of each process
into a part for each request or row and a part for each call, by least squares.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from mlflow.deployments import get_deploy_client
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import machine, models
from benchmarks.formats import WRITERS
from benchmarks.load import post, write_bodies, wrk_version
from benchmarks.page import RESULTS, Page
from benchmarks.processes import cpu_between, cpu_times
from benchmarks.targets.restaurant import NAME, temporary_home
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.records import read_records

CALLERS = (1, 4, 16, 64, 128, 256, 512)
MODELS = ("floats", "text", "mixed")
BODIES = 16
MAX_ROWS = 1024
"""The default of `max_batch_rows`."""
BATCHES = "mlflow_restaurant_batch_requests"


@dataclass(frozen=True)
class Load:
    """One load: callers, answered requests, calls to the replica, CPU seconds of gateway and replica, wall seconds."""

    callers: int
    requests: int
    calls: float
    gateway_s: float
    replica_s: float
    wall_s: float

    @property
    def rows(self) -> float:
        """Rows in a call."""
        return self.requests / self.calls


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a process for each request and for each call."""

    request_s: float
    call_s: float


def fit(loads: Sequence[Load], seconds: Sequence[float]) -> Cost:
    """Split CPU seconds into requests and calls; every load counts the same, whatever its length."""
    weights = 1 / np.array(seconds)
    counts = np.array([[load.requests, load.calls] for load in loads]) * weights[:, None]
    (request_s, call_s), *_ = np.linalg.lstsq(counts, np.ones(len(loads)), rcond=None)
    return Cost(float(request_s), float(call_s))


@dataclass(frozen=True)
class Split:
    """How many processes of each kind, and what they could answer."""

    gateways: int
    replicas: int
    rows: float
    requests_per_s: float


def capacity(gateway: Cost, replica: Cost, gateways: int, replicas: int, callers: int) -> Split:
    """Return what so many processes, each with a core of its own, could answer to callers elsewhere: an upper bound.

    Each gateway has one call at each replica at a time, so all callers together are shared out among
    ``gateways * replicas`` calls; a call has as many rows as that leaves.
    """
    rows = max(1.0, min(MAX_ROWS, callers / (gateways * replicas)))
    by_gateways = gateways / (gateway.request_s + gateway.call_s / rows)
    by_replicas = replicas / (replica.request_s + replica.call_s / rows)
    return Split(gateways, replicas, rows, min(by_gateways, by_replicas))


def best_split(gateway: Cost, replica: Cost, cores: int, callers: int) -> Split:
    """Return the best use of so many cores."""
    splits = [
        capacity(gateway, replica, gateways, replicas, callers)
        for gateways in range(1, cores)
        for replicas in range(1, cores - gateways + 1)
    ]
    return max(splits, key=lambda split: (split.requests_per_s, -split.gateways - split.replicas))


def measure(home: Home, url: str, bodies: Path, callers: int, seconds: float) -> Load:
    before_calls = calls_of(url)
    before = {kind: cpu_times(processes(home, kind)) for kind in ("gateway", "replica")}
    load = post(f"{url}/invocations", bodies, callers, seconds)
    used = {kind: cpu_between(before[kind], cpu_times(processes(home, kind))) for kind in before}
    if load.status_errors or load.socket_errors:
        raise SystemExit(f"{load.status_errors + load.socket_errors} requests failed; see {home.logs}.")
    return Load(
        callers,
        load.requests,
        calls_of(url) - before_calls,
        used["gateway"],
        used["replica"],
        load.seconds,
    )


def processes(home: Home, kind: str) -> list[psutil.Process]:
    found = [record.process() for record in read_records(home.run) if record.kind == kind]
    return [process for process in found if process is not None]


def calls_of(url: str) -> float:
    with urllib.request.urlopen(url.partition("/deployments/")[0] + "/metrics") as answer:
        text = answer.read().decode()
    samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
    return sum(s.value for s in samples if s.name == f"{BATCHES}_count" and s.labels["deployment"] == NAME)


def run(model: str, seconds: float, rounds: int) -> list[Load]:
    kind = models.KINDS[model]
    found = []
    with tempfile.TemporaryDirectory() as folder, temporary_home() as home:
        saved = models.save(kind, Path(folder) / model)
        frame = kind.rows(BODIES)
        bodies = write_bodies(
            [WRITERS["mlflow"](frame.iloc[at : at + 1]) for at in range(BODIES)], Path(folder) / "bodies.json"
        )
        url = get_deploy_client(f"restaurant:{home.path}").create_deployment(NAME, str(saved))["url"]
        post(f"{url}/invocations", bodies, 32, 1)
        for _ in range(rounds):
            found += [measure(home, url, bodies, callers, seconds) for callers in CALLERS]
    return found


def report(model: str, loads: Sequence[Load]) -> str:
    lines = [
        f"## {models.KINDS[model].title}",
        "",
        "One row a request, one gateway, one replica; medians.",
        "",
    ]
    lines += [
        "| callers | requests/s | rows in a call | gateway, µs CPU a request | replica, µs CPU a call |",
        "| --: | --: | --: | --: | --: |",
    ]
    for callers in CALLERS:
        own = [load for load in loads if load.callers == callers]
        lines.append(
            f"| {callers} | {median(o.requests / o.wall_s for o in own):,.0f}"
            f" | {median(o.rows for o in own):.1f}"
            f" | {median(o.gateway_s / o.requests * 1e6 for o in own):.0f}"
            f" | {median(o.replica_s / o.calls * 1e6 for o in own):.0f} |"
        )
    gateway = fit(loads, [load.gateway_s for load in loads])
    replica = fit(loads, [load.replica_s for load in loads])
    lines += [
        "",
        f"- gateway: {gateway.request_s * 1e6:.1f} µs a request + {gateway.call_s * 1e6:.0f} µs a call",
        f"- replica: {replica.request_s * 1e6:.1f} µs a row + {replica.call_s * 1e6:.0f} µs a call",
    ]
    lines += ["", "| cores | callers | gateways | replicas | rows in a call | requests/s at most |"]
    lines += ["| --: | --: | --: | --: | --: | --: |"]
    for cores in (16, 64):
        for callers in (128, 1024, 4096):
            best = best_split(gateway, replica, cores, callers)
            lines.append(
                f"| {cores} | {callers:,} | {best.gateways} | {best.replicas} | {best.rows:.0f}"
                f" | {best.requests_per_s:,.0f} |"
            )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    names = ("mlflow-restaurant", "mlflow", "scikit-learn")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"Python": platform.python_version(), **found, "wrk": wrk_version()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=models.KINDS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each number of callers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: benchmarks/results")
    given = parser.parse_args(arguments)
    command = f"python -m benchmarks.costs --models {' '.join(given.models)} --seconds {given.seconds:g}"
    page = Page("costs", "Costs", f"{command} --rounds {given.rounds}", versions())
    before = machine.describe()
    found = {model: run(model, given.seconds, given.rounds) for model in given.models}
    text = "\n\n".join(report(model, loads) for model, loads in found.items())
    records = [{"model": model, **asdict(load)} for model, loads in found.items() for load in loads]
    print(text)
    print(f"\nwrote {page.write(given.output, before, text, records)}")


if __name__ == "__main__":
    main()
