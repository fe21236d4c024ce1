"""Settings of the other servers' batching, the same for each that takes them."""

MAX_BATCH = 128
"""Requests in one batch: as many as there are callers."""

BATCH_WAIT_S = 0.001
"""How long a batch that is not full waits. Short, so that a single caller hardly notices it."""
