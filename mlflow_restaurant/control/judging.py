"""Whether a new revision may go on: judged by its errors, latencies and agreement beside the one that serves.

Both sides are counted over the same minutes, so what befalls both (a slow machine, callers who send nonsense) speaks
against neither. A difference counts only when chance alone would hardly make it: with a threshold and nothing else, one
error in fifty requests would end one good rollout in three. A request that has been under way for too long counts as
one that took so long, though it has no answer yet. Pure: counts in, a verdict out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHANCE = 0.001
"""A difference counts when chance alone would make it less often than this."""
P95 = 0.95
LATE_S = 1.0
"""Time without an answer from which a request is late where the other side answered nothing to compare it with."""


@dataclass(frozen=True)
class Limits:
    """What a new revision may do worse.

    Args:
        max_error_rate_increase: by how much the share of failed requests may grow, 0 to 1.
        max_latency_ratio: how many times as long as before 95 % of the requests may take.
        min_requests: answered by the new revision before it is judged.
        min_agreement: share of rows that must agree in the shadow, 0 to 1.
    """

    max_error_rate_increase: float
    max_latency_ratio: float
    min_requests: int
    min_agreement: float


@dataclass(frozen=True)
class Side:
    """What one side did.

    Attributes:
        requests: answered; `errors` of them speak against it.
        buckets: how many took up to each of the bounds.
        under_way: likewise, for how long those have been waited for that are not answered yet.
    """

    requests: int
    errors: int
    buckets: Sequence[int]
    under_way: Sequence[int] = ()

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Scale:
    """The bounds of latency buckets: number n holds what took up to ``first_s * growth ** n`` seconds."""

    first_s: float
    growth: float

    def bound(self, bucket: int) -> float:
        return self.first_s * self.growth**bucket

    def quantile(self, side: Side, share: float) -> float | None:
        """Return the bound that `share` of the requests stay within; None where there were none."""
        total = sum(side.buckets)
        passed = 0
        for number, count in enumerate(side.buckets):
            passed += count
            if count and passed >= share * total:
                return self.bound(number)
        return None

    def slower(self, side: Side, limit_s: float) -> int:
        """Return how many requests certainly took longer than `limit_s`."""
        return sum(self._longer(side.buckets, limit_s))

    def late(self, side: Side, limit_s: float) -> int:
        """Return how many requests have certainly been under way for longer than `limit_s`."""
        return sum(self._longer(side.under_way, limit_s))

    def with_late(self, side: Side, limit_s: float) -> Side:
        """Return a side that has answered those too which are `late`, in the time that they have taken so far."""
        late = self._longer(side.under_way, limit_s)
        if not any(late):
            return side
        buckets = [count + more for count, more in zip(side.buckets, late, strict=True)]
        return Side(side.requests + sum(late), side.errors, buckets)

    def _longer(self, buckets: Sequence[int], limit_s: float) -> list[int]:
        return [count if self.bound(number - 1) >= limit_s else 0 for number, count in enumerate(buckets)]


def judge(old: Side, new: Side, agreement: Mapping[str, Any] | None, limits: Limits) -> str:
    """Return why the new revision must go back at once; empty while nothing speaks against it.

    Args:
        agreement: ``rows`` compared and ``agreed``, of a revision in the shadow.
    """
    if new.requests < limits.min_requests:
        return ""
    return _errors(old, new, limits) or (_agreement(agreement, limits) if agreement is not None else "")


def judge_latency(old: Side, new: Side, limits: Limits, scale: Scale) -> str:
    """Return in what the new revision is slower than it may be; empty where it is not.

    Apart from the rest, because one stall of the machine slows all requests that are on their way: these are not
    independent of each other, however many they are. Only slowness that lasts speaks against a revision.
    """
    limit_s = _limit_s(old, limits, scale)
    if limit_s is None:
        return ""
    # Whatever keeps both from answering speaks against neither.
    old = scale.with_late(old, limit_s)
    before = scale.quantile(old, P95) or 0.0
    limit_s = limits.max_latency_ratio * before
    late = scale.late(new, limit_s)
    new = scale.with_late(new, limit_s)
    after = scale.quantile(new, P95)
    if after is None or min(old.requests, new.requests) < limits.min_requests:
        return ""
    if after <= limit_s or at_least(scale.slower(new, limit_s), sum(new.buckets), 1 - P95) > CHANCE:
        return ""
    return (
        f"its p95 is {milliseconds(after)}, that of the revision before {milliseconds(before)}"
        f" (max_latency_ratio={limits.max_latency_ratio:g})"
        + (f"; {late:,} of its {new.requests:,} requests have no answer yet" if late else "")
    )


def leaves_unanswered(old: Side, new: Side, share: float | None, limits: Limits, scale: Scale) -> bool:
    """Tell whether a new revision can't be judged because it does not answer, not because it is hardly asked.

    Args:
        share: of the requests that go to it, 0 to 1; None where that depends on who asks, or on what it has answered.
    """
    if new.requests >= limits.min_requests:
        return False
    limit_s = _limit_s(old, limits, scale)
    if scale.late(new, LATE_S if limit_s is None else limit_s):
        return True
    expected = 0.0 if share is None or share >= 1 else old.requests * share / (1 - share)
    return expected >= limits.min_requests and new.requests < expected / 2


def milliseconds(time_s: float) -> str:
    """Return a time in words."""
    found = time_s * 1000
    return f"{found:,.0f} ms" if found >= 1000 else f"{found:.3g} ms"


def _limit_s(old: Side, limits: Limits, scale: Scale) -> float | None:
    """Return the time from which a request takes too long; None where nothing was answered before."""
    before = scale.quantile(old, P95)
    return None if before is None else limits.max_latency_ratio * before


def _errors(old: Side, new: Side, limits: Limits) -> str:
    allowed = min(1.0, old.error_rate + limits.max_error_rate_increase)
    if new.error_rate <= allowed or at_least(new.errors, new.requests, max(allowed, 1e-9)) > CHANCE:
        return ""
    return (
        f"{new.error_rate:.1%} of its {new.requests:,} requests failed, and {old.error_rate:.1%} of the"
        f" {old.requests:,} of the revision before (max_error_rate_increase={limits.max_error_rate_increase:g})"
    )


def _agreement(found: Mapping[str, Any], limits: Limits) -> str:
    rows, agreed = found["rows"], found["agreed"]
    if rows < limits.min_requests or agreed >= limits.min_agreement * rows:
        return ""
    if at_least(rows - agreed, rows, max(1 - limits.min_agreement, 1e-9)) > CHANCE:
        return ""
    return (
        f"it agrees with the revision before on {agreed / rows:.1%} of {rows:,} rows"
        f" (min_agreement={limits.min_agreement:g})"
    )


def at_least(count: int, of: int, share: float) -> float:
    """Return how likely it is that `count` or more of `of` things have a property that each has by `share`."""
    if count <= 0 or share >= 1:
        return 1.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    found = 0.0
    for number in range(count, of + 1):
        term = math.exp(
            math.lgamma(of + 1)
            - math.lgamma(number + 1)
            - math.lgamma(of - number + 1)
            + number * log_share
            + (of - number) * log_rest
        )
        found += term
        if term < found * 1e-12 and number > of * share:
            break
    return min(1.0, found)
