"""Medians over the rounds, and their ratios to the baseline. Nothing here measures."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CellKey = tuple[str, str, int, int]
"""Model, target, rows, callers."""

FigureKey = tuple[str, str, str]
"""Model, target, figure."""

MEDIANS = ("requests_per_s", "p50_ms", "p99_ms", "cpu_s_per_1000", "rss_mb", "generator_share")
SUMS = ("requests", "errors", "checked", "wrong")


@dataclass(frozen=True)
class Summary:
    """What the rounds come to.

    Args:
        cells: medians (and sums of errors) by model, target, rows and callers.
        figures: medians of single figures by model, target and figure.
        baseline: name of the target that ratios refer to.
    """

    cells: Mapping[CellKey, Mapping[str, float]]
    figures: Mapping[FigureKey, float]
    baseline: str

    def cell(self, model: str, target: str, rows: int, callers: int, name: str) -> float | None:
        return self.cells.get((model, target, rows, callers), {}).get(name)

    def cell_ratio(self, model: str, target: str, rows: int, callers: int, name: str) -> float | None:
        """Return a target's median over the baseline's; None when one of them is missing."""
        mine = self.cell(model, target, rows, callers, name)
        return ratio(mine, self.cell(model, self.baseline, rows, callers, name))

    def figure(self, model: str, target: str, name: str) -> float | None:
        return self.figures.get((model, target, name))

    def figure_ratio(self, model: str, target: str, name: str) -> float | None:
        return ratio(self.figure(model, target, name), self.figure(model, self.baseline, name))

    def more(self, model: str, one: str, two: str, name: str) -> float | None:
        """Return how much more of a figure target `two` has than target `one`."""
        first, second = self.figure(model, one, name), self.figure(model, two, name)
        return None if first is None or second is None else second - first

    def models(self) -> list[str]:
        return _unique([*(key[0] for key in self.cells), *(key[0] for key in self.figures)])

    def targets(self) -> list[str]:
        return _unique([*(key[1] for key in self.cells), *(key[1] for key in self.figures)])

    def rows(self) -> list[int]:
        return sorted({key[2] for key in self.cells})

    def callers(self) -> list[int]:
        return sorted({key[3] for key in self.cells})

    def done(self) -> int:
        """Return how many rounds there were."""
        return int(max((cell["rounds"] for cell in self.cells.values()), default=0))


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def summarize(records: Sequence[Mapping[str, Any]], baseline: str) -> Summary:
    """Return the medians of the records of all rounds.

    Args:
        records: each with `round`, `model`, `target`, and either `rows`, `callers` and what was measured, or
            `figure` and `value` (None: it failed).
        baseline: name of the target that ratios refer to.
    """
    cells: dict[CellKey, list[Mapping[str, Any]]] = defaultdict(list)
    figures: dict[FigureKey, list[float]] = defaultdict(list)
    for record in records:
        if "callers" in record:
            cells[record["model"], record["target"], record["rows"], record["callers"]].append(record)
        elif record.get("value") is not None:
            figures[record["model"], record["target"], record["figure"]].append(record["value"])
    return Summary(
        {key: _cell(found) for key, found in cells.items()},
        {key: statistics.median(values) for key, values in figures.items()},
        baseline,
    )


def _cell(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {"rounds": len(rounds)}
    for name in MEDIANS:
        values = [r[name] for r in rounds if r.get(name) is not None]
        if values:
            found[name] = statistics.median(values)
    for name in SUMS:
        found[name] = sum(r.get(name) or 0 for r in rounds)
    return found
