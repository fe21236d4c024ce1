"""Which scoring requests wait, and which of them go to a replica next. Pure: calls and a clock in, batches out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from mlflow_restaurant.entities import BatchRoute
from mlflow_restaurant.gateway.calls import Batch, Call
from mlflow_restaurant.gateway.scoring import Reader

MAX_BATCH_BYTES = 1 << 20

Group = dict[Call, None]


class Queue:
    """The waiting calls: those that can be merged in groups, each of the others alone, all in order of arrival.

    What failed in a batch goes before all others; it has waited before.
    """

    def __init__(self) -> None:
        self.reader: Reader | None = None
        self.max_rows, self.wait_s = 1, 0.0
        self.groups: dict[object, Group] = {}
        self.again: deque[Batch] = deque()
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Call]:
        for batch in self.again:
            yield from batch.calls
        for group in self.groups.values():
            yield from group

    def read_by(self, batch: BatchRoute | None) -> None:
        """Merge by these rules from now on, also what waits already but for what is to go alone; None merges nothing."""
        self.reader = None if batch is None else Reader(batch)
        self.max_rows, self.wait_s = (1, 0.0) if batch is None else (batch.max_rows, batch.wait_ms / 1000)
        alone = [batch for batch in self.again if len(batch.calls) == 1]
        self.again = deque(batch for batch in self.again if len(batch.calls) > 1)
        self.size -= len(alone)
        calls = self.clear()
        self.again.extend(alone)
        self.size += len(alone)
        for call in calls:
            self.add(call)

    def clear(self) -> list[Call]:
        """Take out all calls."""
        calls = list(self)
        self.groups.clear()
        self.again.clear()
        self.size = 0
        return calls

    def add(self, call: Call) -> None:
        """Let a call wait for its turn."""
        call.part = part = (
            self.reader.parse(call.body) if self.reader is not None and call.is_mergeable() else None
        )
        call.key = part.kind if part is not None else call
        group = self.groups.get(call.key)
        if group is None:
            self.groups[call.key] = {call: None}
        else:
            group[call] = None
        self.size += 1

    def remove(self, call: Call) -> bool:
        """Take a call out of the queue; False when it was not there."""
        group = self.groups.get(call.key, {})
        if call in group:
            del group[call]
            if not group:
                del self.groups[call.key]
        else:
            batch = next((batch for batch in self.again if call in batch.calls), None)
            if batch is None:
                return False
            batch.calls.remove(call)
            if not batch.calls:
                self.again.remove(batch)
        self.size -= 1
        return True

    def put_back(self, *batches: Batch, behind: float | None = None) -> None:
        """Let these batches be the next, in this order; calls that nobody waits for are left out.

        Args:
            behind: let all that came before this moment, on the clock of `Call.started`, go first.
        """
        for batch in batches if behind is not None else reversed(batches):
            calls = batch.waiting()
            if len(calls) > 1 and batch.reader is not self.reader:
                for call in calls:
                    self.add(call)
            elif calls:
                batch.calls, batch.behind = calls, behind
                if behind is not None:
                    self.again.append(batch)
                else:
                    self.again.appendleft(batch)
                self.size += len(calls)

    def next(
        self, now: float, most_rows: float = math.inf, most_calls: float = math.inf
    ) -> Batch | float | None:
        """Take the batch whose turn it is.

        Args:
            now: on the clock of `Call.started`, in seconds.
            most_rows: how many rows it may have if it has several calls, where that is less than `max_rows`.
            most_calls: how many calls it may have.

        Returns:
            the batch; or the moment when there will be one, when all that is there may wait for more rows; or None.
        """
        for batch in self.again:
            if batch.behind is None or not self._has_from_before(batch.behind):
                self.again.remove(batch)
                self.size -= len(batch.calls)
                return batch
        key = due = None
        most_rows = min(most_rows, self.max_rows)
        if self.wait_s <= 0:
            key = next(iter(self.groups), None)
        else:
            key, due = self._ripe(now, most_rows, most_calls)
        return due if key is None else self._take(key, most_rows, most_calls)

    def _has_from_before(self, moment: float) -> bool:
        return any(next(iter(group)).started < moment for group in self.groups.values())

    def _ripe(self, now: float, most_rows: float, most_calls: float) -> tuple[object | None, float | None]:
        """Return the oldest group that need not wait, or None and the moment until which the first one may."""
        first_due: float | None = None
        for key, group in self.groups.items():
            oldest = next(iter(group))
            due = oldest.started + self.wait_s
            rows = sum(call.part.count for call in group if call.part is not None)
            if oldest.part is None or due <= now or rows >= most_rows or len(group) >= most_calls:
                return key, None
            first_due = due if first_due is None else min(first_due, due)
        return None, first_due

    def _take(self, key: object, most_rows: float, most_calls: float) -> Batch:
        """Take as many calls of a group as fit into one request; the rest goes behind the other groups."""
        group = self.groups.pop(key)
        calls: list[Call] = []
        rows = size = 0
        for call in group:
            if call.part is not None:
                rows += call.part.count
                size += len(call.body)
            if calls and (rows > most_rows or size > MAX_BATCH_BYTES or len(calls) + 1 > most_calls):
                break
            calls.append(call)
        if len(calls) < len(group):
            self.groups[key] = dict.fromkeys(list(group)[len(calls) :])
        self.size -= len(calls)
        return Batch(calls, self.reader)
