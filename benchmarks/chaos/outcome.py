"""What came of each scenario, and the table of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.callers import Tally

RULE = """A request counts as failed if it gets anything but the right prediction with status 200, also when its connection is
refused or breaks. *By design* are the failures that can't be avoided, and how many of them there may be."""


@dataclass
class Outcome:
    """What came of one scenario.

    Attributes:
        name, title: of the scenario.
        sent, failed, slowest_s: of the requests, and of those that failed, `errors` by what was wrong.
        strikes: how often the fault was brought about.
        recovery_s: time until all was as before, the longest.
        aim: what is to be reached, in words, and `value`: what was.
        reached: None where there is no aim but that nothing fails.
        excused: how many requests may fail, and `excuse`: why.
        broken: what must never happen, and did.
    """

    name: str
    title: str
    sent: int = 0
    failed: int = 0
    slowest_s: float = 0.0
    strikes: int = 0
    recovery_s: float | None = None
    aim: str = ""
    value: str = ""
    reached: bool | None = None
    excused: int = 0
    excuse: str = ""
    errors: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def count(self, tally: Tally) -> None:
        """Add what callers saw, which breaks the rule when more failed than may."""
        self.sent += tally.sent
        self.failed += tally.failed
        self.slowest_s = max(self.slowest_s, tally.slowest_s)
        for error, count in tally.errors.items():
            self.errors[error] = self.errors.get(error, 0) + count
        if self.failed > self.excused:
            self.broken.append(f"{self.failed} requests failed: {self.errors}")

    def recovered(self, seconds: float) -> None:
        self.strikes += 1
        self.recovery_s = max(self.recovery_s or 0.0, seconds)

    def judge(self, aim: str, value: str, *, reached: bool) -> None:
        """Say what was to be reached and what was; several aims of one scenario are all to be reached."""
        self.aim = f"{self.aim}; {aim}" if self.aim else aim
        self.value = f"{self.value}; {value}" if self.value else value
        self.reached = reached and self.reached is not False


def read(file: Path) -> dict[str, Any]:
    """Return the results in a JSON file, empty ones if there is none."""
    if not file.is_file():
        return {"machine": {}, "outcomes": {}}
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def write(folder: Path, machine: dict[str, str], outcomes: Iterable[Outcome], order: Iterable[str]) -> None:
    """Write outcomes into `chaos.json` and `chaos.md` of a folder, over those of the same scenarios."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "chaos.json"
    kept: dict[str, Any] = read(file)["outcomes"]
    kept |= {outcome.name: asdict(outcome) for outcome in outcomes}
    sorted_ = {name: kept[name] for name in order if name in kept}
    file.write_text(json.dumps({"machine": machine, "outcomes": sorted_}, indent=1) + "\n", encoding="utf-8")
    text = render(machine, [Outcome(**found) for found in sorted_.values()])
    (folder / "chaos.md").write_text(text, encoding="utf-8")


def render(machine: dict[str, str], outcomes: Iterable[Outcome]) -> str:
    """Return the report in Markdown."""
    found = list(outcomes)
    made = ", ".join(f"{name} {value}" for name, value in machine.items())
    return "\n".join(["# Chaos", "", made, "", *table(found), "", RULE, ""])


def table(outcomes: list[Outcome]) -> list[str]:
    """Return the lines of the table, and below it why some failures are by design, and what went wrong."""
    lines = [
        "| fault | times | requests sent | failed | by design | slowest | recovery | aim | found |",
        "| --- | --: | --: | --: | --: | --: | --: | --- | --- |",
    ]
    lines += [_row(outcome) for outcome in outcomes]
    notes = [f"- {o.title}: {o.excuse}" for o in outcomes if o.excuse]
    broken = [f"- **{o.title}: {text}**" for o in outcomes for text in o.broken]
    return [*lines, *([""] if notes or broken else []), *notes, *broken]


def _row(outcome: Outcome) -> str:
    recovery = "" if outcome.recovery_s is None else _seconds(outcome.recovery_s)
    mark = {True: "", False: " **(not reached)**", None: ""}[outcome.reached]
    cells = [
        outcome.title,
        f"{outcome.strikes:,}" if outcome.strikes else "",
        f"{outcome.sent:,}" if outcome.sent else "",
        f"{outcome.failed:,}" if outcome.sent else "",
        f"up to {outcome.excused:,}" if outcome.excused else "",
        _seconds(outcome.slowest_s) if outcome.sent else "",
        recovery,
        outcome.aim,
        outcome.value + mark,
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
