"""What the gateways count: for Prometheus, and the latest requests of each deployment for `status`.

Counters live in memory: on a full disk, a gateway whose counters were mapped to files would be ended by the kernel.
Whichever gateway is asked adds up those of all.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

WINDOW_S = 60.0
KEPT_SAMPLES = 4096
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BUCKETS_SIZE = tuple(2**n for n in range(14))
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

OWN = CollectorRegistry()
RETRIES = Counter(
    "mlflow_restaurant_retries", "Requests sent to a second replica", ["deployment"], registry=OWN
)
BATCH_REQUESTS = Histogram(
    "mlflow_restaurant_batch_requests",
    "Mergeable scoring requests sent to a replica in one call",
    ["deployment"],
    buckets=BUCKETS_SIZE,
    registry=OWN,
)
BATCH_ROWS = Histogram(
    "mlflow_restaurant_batch_rows",
    "Rows of the mergeable scoring requests sent to a replica in one call",
    ["deployment"],
    buckets=BUCKETS_SIZE,
    registry=OWN,
)
RERUNS = Counter(
    "mlflow_restaurant_batch_reruns",
    "Merged calls that were run again in parts because they failed",
    ["deployment"],
    registry=OWN,
)
WAITING = Gauge(
    "mlflow_restaurant_waiting_requests", "Requests waiting for a replica", ["deployment"], registry=OWN
)

Families = list[dict[str, Any]]


class Sample(NamedTuple):
    """One answered request: when (seconds of `time.monotonic`), how long it took (seconds), and its status."""

    at: float
    took_s: float
    status: int


class Tally:
    """The answered requests of one revision of a deployment: by status, and by how long they took.

    Plain numbers, for there is one to count for every request: the client library takes a lock for each.
    """

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0

    def add(self, status: int, took_s: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.buckets[bisect_left(BUCKETS_S, took_s)] += 1
        self.seconds += took_s


class _Tallies(Collector):
    """The tallies as metrics."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, int], Tally] = {}

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "mlflow_restaurant_requests",
            "Scoring requests answered",
            labels=["deployment", "revision", "status"],
        )
        for (deployment, revision), tally in self.tallies.items():
            for status, count in tally.statuses.items():
                requests.add_metric([deployment, str(revision), str(status)], count)
        yield requests
        latency = HistogramMetricFamily(
            "mlflow_restaurant_request_seconds", "Time to answer a scoring request", labels=["deployment"]
        )
        for deployment in dict.fromkeys(name for name, _ in self.tallies):
            own = [tally for (name, _), tally in self.tallies.items() if name == deployment]
            counts = accumulate(map(sum, zip(*[tally.buckets for tally in own], strict=True)))
            bounds = [str(bound) for bound in map(float, BUCKETS_S)] + ["+Inf"]
            latency.add_metric(
                [deployment],
                [(bound, float(count)) for bound, count in zip(bounds, counts, strict=True)],
                sum(tally.seconds for tally in own),
            )
        yield latency


TALLIES = _Tallies()
OWN.register(TALLIES)


class Recent:
    """The latest requests of each deployment."""

    def __init__(self) -> None:
        self.samples: dict[str, deque[Sample]] = {}

    def add(self, deployment: str, sample: Sample) -> None:
        kept = self.samples.get(deployment)
        if kept is None:
            kept = self.samples[deployment] = deque(maxlen=KEPT_SAMPLES)
        kept.append(sample)

    def forget(self, deployment: str) -> None:
        self.samples.pop(deployment, None)

    def to_json(self) -> dict[str, Any]:
        """Return, for each deployment, ``[[age in s, latency in s, status], ...]`` of the last minute."""
        now = time.monotonic()
        return {
            name: [[now - s.at, s.took_s, s.status] for s in kept if now - s.at <= WINDOW_S]
            for name, kept in self.samples.items()
        }


def observe(deployment: str, revision: int, status: int, took_s: float) -> None:
    """Count one answered request."""
    tally = TALLIES.tallies.get((deployment, revision))
    if tally is None:
        tally = TALLIES.tallies[deployment, revision] = Tally()
    tally.add(status, took_s)


def observe_batch(deployment: str, requests: int, rows: int) -> None:
    """Count one call to a replica with so many mergeable requests, and rows in them."""
    BATCH_REQUESTS.labels(deployment).observe(requests)
    BATCH_ROWS.labels(deployment).observe(rows)


def forget(deployment: str) -> None:
    """Drop all that was counted of a deployment that is gone."""
    for metric in (RETRIES, BATCH_REQUESTS, BATCH_ROWS, RERUNS, WAITING):
        metric.remove(deployment)
    for key in [key for key in TALLIES.tallies if key[0] == deployment]:
        del TALLIES.tallies[key]


def families() -> Families:
    """Return this gateway's metrics, as JSON: name, documentation, type and samples (name, labels, value) of each."""
    return [
        {
            "name": metric.name,
            "documentation": metric.documentation,
            "type": metric.type,
            "samples": [
                [s.name, s.labels, s.value] for s in metric.samples if not s.name.endswith("_created")
            ],
        }
        for metric in OWN.collect()
    ]


class _Sum(Collector):
    """The metrics of several gateways, added up."""

    def __init__(self, gateways: Iterable[Families]) -> None:
        self.gateways = gateways

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        values: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
        for gateway in self.gateways:
            for family in gateway:
                name = family["name"]
                merged.setdefault(name, Metric(name, family["documentation"], family["type"]))
                for sample, labels, value in family["samples"]:
                    key = (name, sample, tuple(labels.items()))
                    values[key] = values.get(key, 0.0) + value
        for (name, sample, labels), value in values.items():
            merged[name].add_sample(sample, dict(labels), value)
        yield from merged.values()


def exposition(others: Iterable[Families]) -> bytes:
    """Return the metrics of this gateway and of `others`, added up, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Sum([families(), *others]))
    return generate_latest(registry)
