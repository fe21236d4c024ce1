"""What the gateway counts: for Prometheus, and the latest requests of each deployment for `status`."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

WINDOW_S = 60.0
KEPT_SAMPLES = 4096
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

REQUESTS = Counter(
    "mlflow_restaurant_requests", "Scoring requests answered", ["deployment", "revision", "status"]
)
LATENCY = Histogram(
    "mlflow_restaurant_request_seconds", "Time to answer a scoring request", ["deployment"], buckets=BUCKETS_S
)
RETRIES = Counter("mlflow_restaurant_retries", "Requests sent to a second replica", ["deployment"])
WAITING = Gauge(
    "mlflow_restaurant_waiting_requests",
    "Requests waiting for a replica",
    ["deployment"],
    multiprocess_mode="livesum",
)


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


def exposition(directory: str | None) -> bytes:
    """Return the metrics of all gateways in Prometheus' text format."""
    registry = CollectorRegistry()
    if directory and Path(directory).is_dir():
        multiprocess.MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest()
