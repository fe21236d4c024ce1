"""A new revision on trial: it gets its shares of the requests, step by step, and is judged beside the one that serves.

Each step lasts `bake_s`. What the gateways count of both sides is added up twice a second and judged; the first reason
against the new revision ends the trial, and the controller lets the old one go on alone. A step at whose end the new
revision was asked too little to be judged passes, and that is noted. One at whose end it leaves what it was asked
unanswered goes on, and it is judged by what there is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control.judging import (
    P95,
    Limits,
    Scale,
    Side,
    judge,
    judge_latency,
    leaves_unanswered,
    milliseconds,
)
from mlflow_restaurant.entities import FULL_TRAFFIC, Revision
from mlflow_restaurant.gateway.agreement import total
from mlflow_restaurant.gateway.sides import BUCKETS, FIRST_S, GROWTH
from mlflow_restaurant.sticky import OFF

POLL_S = 0.5
SLOW_FOR_S = 5.0
"""So long a new revision must have been too slow, look after look, before it goes back for that; a step that would end
meanwhile waits for it. A stall of the machine is over by then, and later requests outweigh those that it slowed.
A step that leaves requests unanswered waits as long until it is believed that it does so no more."""
NONE = [0] * BUCKETS
SCALE = Scale(FIRST_S, GROWTH)

Counted = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]


class Tryout:
    """The trial of one revision.

    Args:
        revision: the new revision.
        counted: asks all gateways what they counted of the trials under way, by deployment.
        changed: called when the share, the verdict or the end changes.
        progress: told how it goes.
        note: records an event.
    """

    def __init__(
        self,
        revision: Revision,
        counted: Counted,
        changed: Callable[[], None],
        progress: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self.revision, self.counted, self.changed = revision, counted, changed
        self.progress, self.note = progress, note
        self.shares = revision.config.shares()
        self.step = 0
        self.since = time.monotonic()
        self.passed = False
        self.verdict = ""
        self.slow_since: float | None = None
        self.unanswered_at: float | None = None
        self.not_judged: list[dict[str, int]] = []
        self.report: dict[str, Any] = {}
        self.said = ""
        self.task: asyncio.Task[None] | None = None

    @property
    def mode(self) -> Literal["canary", "shadow"]:
        return "shadow" if self.revision.config.strategy == "shadow" else "canary"

    @property
    def share(self) -> float:
        """Share of the requests, in percent."""
        return self.shares[self.step - 1]

    @property
    def sticky(self) -> str:
        return "" if self.revision.config.sticky == OFF else self.revision.config.sticky

    def start(self) -> None:
        self._next()
        self.task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def _run(self) -> None:
        while True:
            left = self.since + self.revision.config.bake_s - time.monotonic()
            await asyncio.sleep(left if 0 < left < POLL_S else POLL_S)
            await self._look()
            if self.verdict:
                break
            if self._is_baked() and self.slow_since is None and not self._is_unanswered():
                self._note_if_not_judged()
                if self.step == len(self.shares):
                    self.passed = True
                    break
                self._next()
        self.changed()

    def _next(self) -> None:
        self.step += 1
        self.slow_since = self.unanswered_at = None
        self.since = time.monotonic()
        self.note(self._where())
        self._say(self._where())
        self.changed()

    def _is_baked(self) -> bool:
        return time.monotonic() - self.since >= self.revision.config.bake_s

    def _is_unanswered(self) -> bool:
        """Tell whether the new revision left requests unanswered a short time ago."""
        return self.unanswered_at is not None and time.monotonic() - self.unanswered_at < SLOW_FOR_S

    def _note_if_not_judged(self) -> None:
        """Say so when a step passes in which there were too few requests to judge."""
        requests, needed = self.report["new"]["requests"], self.revision.config.min_requests
        if requests >= needed:
            return
        self.not_judged.append({"step": self.step, "requests": requests, "min_requests": needed})
        self.report["not_judged"] = self.not_judged
        self.note(
            f"step {self.step} of {len(self.shares)} was not judged: {requests:,} of {needed:,} requests"
        )

    def _judged_share(self) -> float | None:
        """Return the share of the requests that the new revision must have been given; None where that is not known."""
        return None if self.mode == "shadow" or self.sticky else self.share / FULL_TRAFFIC

    async def _look(self) -> None:
        """Ask what was counted, and judge."""
        name, number = self.revision.deployment, self.revision.number
        parts = [found[name] for found in await self.counted() if name in found]
        mine = [part for part in parts if (part["revision"], part["step"]) == (number, self.step)]
        old, new = side(part["old"] for part in mine), side(part["new"] for part in mine)
        agreement = total(part["agreement"] for part in mine).to_json() if self.mode == "shadow" else None
        self.report = {
            "strategy": self.mode,
            "step": self.step,
            "steps": len(self.shares),
            "share": self.share,
            "old": described(old),
            "new": described(new),
            **({"agreement": agreement} if agreement is not None else {}),
            **({"not_judged": self.not_judged} if self.not_judged else {}),
        }
        may = limits(self.revision.config)
        if leaves_unanswered(old, new, self._judged_share(), may, SCALE):
            self.unanswered_at = time.monotonic()
        elif new.requests >= may.min_requests:
            self.unanswered_at = None
        if self._is_baked() and self._is_unanswered():
            may = replace(may, min_requests=1)
        self.verdict = judge(old, new, agreement, may) or self._lasting(judge_latency(old, new, may, SCALE))
        self._say(f"{self._where()}: {told(self.report)}")

    def _lasting(self, slowness: str) -> str:
        """Return what was found too slow once it has been so for `SLOW_FOR_S`."""
        now = time.monotonic()
        if not slowness:
            self.slow_since = None
        elif self.slow_since is None:
            self.slow_since = now
        return slowness if self.slow_since is not None and now - self.slow_since >= SLOW_FOR_S else ""

    def _say(self, text: str) -> None:
        self.said = text
        self.progress(text)

    def _where(self) -> str:
        spent = int(time.monotonic() - self.since)
        share = f"{self.share:g} % of the requests"
        what = f"copies of {share} go" if self.mode == "shadow" else f"{share} go"
        return (
            f"{what} to revision {self.revision.number} (step {self.step} of {len(self.shares)},"
            f" {spent} of {self.revision.config.bake_s:g} s)"
        )


def limits(config: DeploymentConfig) -> Limits:
    return Limits(
        max_error_rate_increase=config.max_error_rate_increase,
        max_latency_ratio=config.max_latency_ratio,
        min_requests=config.min_requests,
        min_agreement=config.min_agreement,
    )


def side(parts: Iterable[Mapping[str, Any]]) -> Side:
    """Return what all gateways counted of one side."""
    found = list(parts)
    buckets, under_way = (
        [sum(counts) for counts in zip(*(part.get(name, NONE) for part in found), strict=True)] or NONE
        for name in ("buckets", "under_way")
    )
    requests = sum(part["requests"] for part in found)
    return Side(requests, sum(part["errors"] for part in found), buckets, under_way)


def described(found: Side) -> dict[str, Any]:
    p95 = SCALE.quantile(found, P95)
    return {
        "requests": found.requests,
        "errors": found.errors,
        "error_rate": round(found.error_rate, 6),
        "p95_ms": None if p95 is None else round(p95 * 1000, 3),
        "under_way": sum(found.under_way),
    }


def told(report: Mapping[str, Any]) -> str:
    """Return how both sides fare, for people."""
    sides = ", ".join(f"{name} {_told_side(report[name])}" for name in ("new", "old"))
    agreement = report.get("agreement")
    if not agreement or not agreement["rows"]:
        return sides
    return f"{sides}, {agreement['agreed'] / agreement['rows']:.1%} of {agreement['rows']:,} rows agree"


def _told_side(found: Mapping[str, Any]) -> str:
    p95 = "–" if found["p95_ms"] is None else milliseconds(found["p95_ms"] / 1000)
    under_way = f", {found['under_way']:,} under way" if found["under_way"] else ""
    return f"{found['error_rate']:.1%} errors of {found['requests']:,}, p95 {p95}{under_way}"
