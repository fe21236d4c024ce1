"""What an HTTP server costs in CPU time for a small request, beside what our whole gateway costs.

    python -m benchmarks.http_servers [--seconds 3] [--rounds 5] [--callers 128]

uvicorn (httptools, uvloop) and granian serve an application that reads the body and answers the same to everyone; the
gateway is measured with a deployment behind it, its replicas left out. In turns, one after the other. Writes
``http-servers.md`` and ``http-servers.json`` into `benchmarks/results`, or where ``--output`` says.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from mlflow.deployments import get_deploy_client

from benchmarks import costs, machine, models
from benchmarks.costs import BODIES, processes
from benchmarks.environments import environment, installed
from benchmarks.formats import WRITERS
from benchmarks.load import Load, post, write_bodies
from benchmarks.measures import wait_for_answer
from benchmarks.page import RESULTS, Page
from benchmarks.ports import free_port
from benchmarks.processes import cpu_between, cpu_times, running, tree
from benchmarks.targets.base import Served
from benchmarks.targets.restaurant import NAME, temporary_home
from benchmarks.targets.scripted import APPS

MODEL = "floats"
SERVERS: dict[str, tuple[str, ...]] = {
    "uvicorn": ("uvicorn", "nothing_app:asgi", "--http", "httptools", "--loop", "uvloop", "--no-access-log"),
    "granian, ASGI": ("granian", "nothing_app:asgi", "--interface", "asgi", "--loop", "uvloop", "--no-ws"),
    "granian, RSGI": ("granian", "nothing_app:rsgi", "--interface", "rsgi", "--loop", "uvloop", "--no-ws"),
}
GATEWAY = "the gateway, with a deployment"


@dataclass(frozen=True)
class Cost:
    """Of one server in one round: CPU seconds of its processes, and the load they came from."""

    server: str
    cpu_s: float
    load: Load

    @property
    def request_us(self) -> float:
        """CPU time of a request, in microseconds."""
        return self.cpu_s / self.load.requests * 1e6


@contextlib.contextmanager
def serving(name: str, folder: Path) -> Iterator[Served]:
    """Run one of `SERVERS` for the time of the block."""
    program, *arguments = SERVERS[name]
    port = free_port()
    command: list[str | Path] = [
        python().with_name(program),
        *arguments,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = folder / f"{program}.log"
    with running(command, log, {"PYTHONPATH": str(APPS)}) as process:
        served = Served(f"http://127.0.0.1:{port}/", log, lambda: tree(process.pid))
        wait_for_answer(served, b"{}")
        yield served


@contextlib.contextmanager
def deployed(folder: Path) -> Iterator[Served]:
    """Run a deployment for the time of the block; of its processes, only the gateway counts."""
    with temporary_home() as home:
        saved = models.save(models.KINDS[MODEL], folder / MODEL)
        url = get_deploy_client(f"restaurant:{home.path}").create_deployment(NAME, str(saved))["url"]
        yield Served(f"{url}/invocations", home.logs, lambda: processes(home, "gateway"))


def measure(server: str, served: Served, bodies: Path, callers: int, seconds: float) -> Cost:
    before = cpu_times(served.processes())
    load = post(served.url, bodies, callers, seconds)
    cost = Cost(server, cpu_between(before, cpu_times(served.processes())), load)
    if load.status_errors or load.socket_errors:
        raise SystemExit(f"{server}: {load.status_errors + load.socket_errors} requests failed.")
    return cost


def run(callers: int, seconds: float, rounds: int) -> list[Cost]:
    found = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        frame = models.KINDS[MODEL].rows(BODIES)
        rows = [WRITERS["mlflow"](frame.iloc[at : at + 1]) for at in range(BODIES)]
        bodies = write_bodies(rows, folder / "bodies.json")
        servers = {server: stack.enter_context(serving(server, folder)) for server in SERVERS}
        servers[GATEWAY] = stack.enter_context(deployed(folder))
        for served in servers.values():
            post(served.url, bodies, callers, 1)
        for _ in range(rounds):
            found += [measure(server, served, bodies, callers, seconds) for server, served in servers.items()]
    return found


def report(costs: Sequence[Cost], callers: int) -> str:
    lines = [f"{callers} callers, one row a request; medians.", ""]
    lines += ["| server | µs CPU a request | requests/s |", "| --- | --: | --: |"]
    for server in dict.fromkeys(cost.server for cost in costs):
        own = [cost for cost in costs if cost.server == server]
        lines.append(
            f"| {server} | {median(o.request_us for o in own):.1f}"
            f" | {median(o.load.requests_per_s for o in own):,.0f} |"
        )
    return "\n".join(lines)


def python() -> Path:
    """Return the Python of the environment that the servers are in."""
    return environment("http-servers", ["granian[uvloop]", "httptools", "uvicorn", "uvloop"])


def versions() -> dict[str, str]:
    servers = {name: installed(python(), name) for name in ("uvicorn", "granian", "httptools", "uvloop")}
    return {**costs.versions(), **servers}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.http_servers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--callers", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each server and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: benchmarks/results")
    given = parser.parse_args(arguments)
    command = f"python -m benchmarks.http_servers --callers {given.callers} --seconds {given.seconds:g}"
    page = Page("http-servers", "HTTP servers", f"{command} --rounds {given.rounds}", versions())
    before = machine.describe()
    found = run(given.callers, given.seconds, given.rounds)
    text = report(found, given.callers)
    print(text)
    print(f"\nwrote {page.write(given.output, before, text, [asdict(cost) for cost in found])}")


if __name__ == "__main__":
    main()
