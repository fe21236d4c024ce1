"""The controller is killed on the way of every kind of change: afterwards one revision serves, and nothing is lost.

In full: ``pytest tests/e2e/test_state_kills.py -s --state-kills full`` tries every fault point of every kind of change, and
300 moments drawn at random, and writes ``benchmarks/results/state-kills.md``.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from . import state_kills
from .state_kills import KINDS, Kind, Outcome, Server

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "state-kills.md"
MOMENTS = 300
SHORT_POINTS, SHORT_MOMENTS = 10, 4


@dataclass
class Tally:
    """What was tried of one kind of change."""

    points: int = 0
    at_points: int = 0
    at_moments: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, where: str) -> None:
        self.violations += [f"{where}: {violation}" for violation in outcome.violations]


def test_a_controller_that_dies_at_any_step_leaves_one_revision_serving(
    actor: Path, request: pytest.FixtureRequest
) -> None:
    full = request.config.getoption("--state-kills") == "full"
    seed = 20_261_126 if full else random.randrange(1 << 32)
    print(f"seed {seed}")
    draw, tallies = random.Random(seed), defaultdict[str, Tally](Tally)
    with state_kills.serving(actor) as server:
        if full:
            for kind in KINDS:
                _try_all_points(server, kind, tallies[kind.name])
            _try_moments(server, draw, tallies, MOMENTS)
            _write(tallies)
        else:
            for kind in draw.sample(KINDS, k=3):
                _try_points(server, kind, tallies[kind.name], draw, SHORT_POINTS // 3)
            _try_moments(server, draw, tallies, SHORT_MOMENTS)
    assert not [violation for tally in tallies.values() for violation in tally.violations]
    assert sum(tally.at_points for tally in tallies.values()) > 0


def _try_all_points(server: Server, kind: Kind, tally: Tally) -> None:
    begun, found = time.monotonic(), state_kills.points(server, kind)
    tally.points = len({name for name, _ in found})
    _try(server, kind, tally, found)
    print(
        f"{kind.name}: {len(found)} kills in {time.monotonic() - begun:.0f} s, {tally.violations or 'all well'}"
    )


def _try_points(server: Server, kind: Kind, tally: Tally, draw: random.Random, count: int) -> None:
    found = state_kills.points(server, kind)
    _try(server, kind, tally, draw.sample(found, k=min(count, len(found))))


def _try(server: Server, kind: Kind, tally: Tally, found: list[tuple[str, int]]) -> None:
    for name, passage in found:
        outcome = state_kills.try_point(server, kind, name, passage)
        tally.at_points += outcome.died
        tally.add(outcome, f"{kind.name}, killed at passage {passage} of '{name}'")


def _try_moments(server: Server, draw: random.Random, tallies: dict[str, Tally], count: int) -> None:
    for number in range(count):
        kind = draw.choice(KINDS)
        outcome = state_kills.try_moment(server, kind, draw)
        tallies[kind.name].at_moments += outcome.died
        tallies[kind.name].add(outcome, f"{kind.name}, killed at random moment {number}")


def _write(tallies: dict[str, Tally]) -> None:
    total = Tally()
    lines = [
        "# The controller killed during changes",
        "",
        "`pytest tests/e2e/test_state_kills.py -s --state-kills full`; each kill is followed by a start of the controller, and by the"
        " checks of `tests/e2e/state_kills.py`.",
        "",
        "| change | fault points | killed at them | killed at random moments | violations |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, tally in tallies.items():
        lines.append(
            f"| {name} | {tally.points} | {tally.at_points} | {tally.at_moments} | {len(tally.violations)} |"
        )
        total.at_points += tally.at_points
        total.at_moments += tally.at_moments
        total.violations += tally.violations
    lines.append(f"| all | | {total.at_points} | {total.at_moments} | {len(total.violations)} |")
    TABLE.write_text(
        "\n".join([*lines, "", *(f"- {v}" for v in total.violations)]).rstrip() + "\n", encoding="utf-8"
    )
