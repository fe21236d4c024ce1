"""What gateways and replicas have in common when they talk HTTP.

Only the standard library is imported: replicas in other environments run this file where the package is missing.
"""

from __future__ import annotations

import os
from http import HTTPStatus

AT_ONCE = min(32, (os.cpu_count() or 1) + 4)
"""Predictions of one replica at a time: as many as in the threads of an event loop, where MLflow's server makes them."""
TURN = b"x-restaurant-turn"
"""Sent by gateways that merge requests: this prediction waits for others that came with it, from other gateways."""
COUNTS = b"x-restaurant-counts"
"""Sent with requests that were put together: rows of each, as numbers with commas between, by which a missing text is told
to be what it is in its own request. A replica that can't do that says `APART`, and gets each request alone."""
APART = 409
STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
