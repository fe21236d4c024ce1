"""What the gateways count: for Prometheus, and the latest requests of each deployment for `status`.

Counters live in memory: on a full disk, a gateway whose counters were mapped to files would be ended by the kernel.
Whichever gateway is asked adds up those of all.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

WINDOW_S = 60.0
KEPT_SAMPLES = 4096
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

OWN = CollectorRegistry()
REQUESTS = Counter(
    "mlflow_restaurant_requests",
    "Scoring requests answered",
    ["deployment", "revision", "status"],
    registry=OWN,
)
LATENCY = Histogram(
    "mlflow_restaurant_request_seconds",
    "Time to answer a scoring request",
    ["deployment"],
    buckets=BUCKETS_S,
    registry=OWN,
)
RETRIES = Counter(
    "mlflow_restaurant_retries", "Requests sent to a second replica", ["deployment"], registry=OWN
)
WAITING = Gauge(
    "mlflow_restaurant_waiting_requests", "Requests waiting for a replica", ["deployment"], registry=OWN
)

Families = list[dict[str, Any]]


@dataclass(frozen=True)
class Sample:
    """One answered request: when (seconds of `time.monotonic`), how long it took (seconds), and its status."""

    at: float
    took_s: float
    status: int


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
    REQUESTS.labels(deployment, str(revision), str(status)).inc()
    LATENCY.labels(deployment).observe(took_s)


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
