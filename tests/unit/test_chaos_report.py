"""The parts of the chaos suite that need no server: what answers come to, and the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.callers import Answer, tally
from benchmarks.chaos.outcome import Outcome, read, report, write
from benchmarks.chaos.scenarios import SCENARIOS

ANSWERS = [Answer(float(n), 0.01 * n, "", "1", "/d") for n in range(1, 100)]
LOST = Answer(100.0, 2.0, "ConnectionResetError", "", "/d")


def test_answers_are_counted() -> None:
    found = tally([*ANSWERS, LOST])
    assert (found.sent, found.failed, found.errors) == (100, 1, {"ConnectionResetError": 1})
    assert found.slowest_s == 2.0
    assert found.p99_s == pytest.approx(0.99)
    assert tally([]).p99_s == 0.0


def test_more_failures_than_may_be_break_the_rule() -> None:
    excused = Outcome("a", "A", excused=1)
    excused.count(tally([*ANSWERS, LOST]))
    assert (excused.sent, excused.failed, excused.broken) == (100, 1, [])
    excused.count(tally([LOST]))
    (text,) = excused.broken
    assert "2 requests failed" in text


def test_the_longest_recovery_counts() -> None:
    outcome = Outcome("a", "A")
    for seconds in (0.5, 2.0, 1.0):
        outcome.recovered(seconds)
    assert (outcome.strikes, outcome.recovery_s) == (3, 2.0)


def test_all_aims_must_be_reached() -> None:
    outcome = Outcome("a", "A")
    outcome.judge("0 failed", "0 failed", reached=True)
    assert outcome.reached
    outcome.judge("1 s", "1.2 s", reached=False)
    outcome.judge("2 s", "1.2 s", reached=True)
    assert (outcome.aim, outcome.value, outcome.reached) == (
        "0 failed; 1 s; 2 s",
        "0 failed; 1.2 s; 1.2 s",
        False,
    )


def test_the_table_says_what_failed_and_why_it_may() -> None:
    outcome = Outcome("a", "A", sent=1234, failed=3, slowest_s=0.5, excused=5, excuse="so it is", strikes=2)
    outcome.judge("1 s", "1.2 s", reached=False)
    lines = report({"cores": "2"}, [outcome])
    assert lines[0] == "Measured on: cores 2."
    assert "| A | 2 | 1,234 | 3 | up to 5 | 500 ms |  | 1 s | 1.2 s **(not reached)** |" in lines
    assert "- A: so it is" in lines


def test_results_of_other_scenarios_are_kept(tmp_path: Path) -> None:
    write(tmp_path, {}, [Outcome("b", "B"), Outcome("a", "A", sent=1)], "ab")
    lines = write(tmp_path, {}, [Outcome("a", "A", sent=2, broken=["a process was left"])], "ab")
    found = read(tmp_path / "chaos.json")["outcomes"]
    assert [(name, one["sent"]) for name, one in found.items()] == [("a", 2), ("b", 0)]
    assert "- **A: a process was left**" in lines
    assert "\n".join(lines) in (tmp_path / "chaos.md").read_text()


def test_every_scenario_says_what_it_is() -> None:
    assert len({scenario.title for scenario in SCENARIOS.values()}) == len(SCENARIOS)
    assert all(scenario.run.__doc__ for scenario in SCENARIOS.values())
