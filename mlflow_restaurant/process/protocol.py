"""What gateways and replicas have in common when they talk HTTP."""

from __future__ import annotations

import os
from http import HTTPStatus

AT_ONCE = min(32, (os.cpu_count() or 1) + 4)
"""Predictions of one replica at a time: as many as in the threads of an event loop, where MLflow's server makes them."""
STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
