"""Pictures of a run. matplotlib comes with the extra `benchmarks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Run
from benchmarks.summary import Summary

OURS_COLOR = "#d1495b"
COLORS = ("#30638e", "#6b9ac4", "#00798c", "#57a773", "#edae49", "#8d6a9f", "#7f7f7f")
DPI = 110
OURS = "restaurant"


@dataclass(frozen=True)
class Curve:
    """One figure by the number of callers."""

    name: str
    label: str
    title: str


CURVES = (
    Curve("requests_per_s", "requests/s", "Requests a second"),
    Curve("p50_ms", "p50, ms", "Latency, p50"),
    Curve("cpu_s_per_1000", "CPU s per 1,000 requests", "CPU time"),
)


def draw(run: Run, summary: Summary, folder: Path, prefix: str) -> dict[str, str]:
    """Draw every picture the results suffice for; returns file names by what they show."""
    import matplotlib as mpl

    mpl.use("Agg")
    made = {}
    for rows in summary.rows():
        for curve in CURVES:
            file = f"{prefix}-{curve.name.replace('_', '-')}-{rows}.png"
            what = f"{curve.title}, {rows} {'row' if rows == 1 else 'rows'} a request"
            _save(_curves(run, summary, rows, curve, what), folder / file)
            made[what] = file
    file = f"{prefix}-start-and-memory.png"
    _save(_bars(run, summary), folder / file)
    made["Start and memory"] = file
    return made


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    # Without it the file would name the version that drew it, and differ from run to run.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)


def _style(targets: Sequence[str], target: str) -> dict[str, Any]:
    if target.startswith(OURS):
        ours = [t for t in targets if t.startswith(OURS)]
        lines = ("-", "--", "-.", ":")
        return {"color": OURS_COLOR, "linestyle": lines[ours.index(target) % 4], "linewidth": 2}
    others = [t for t in targets if not t.startswith(OURS)]
    return {"color": COLORS[others.index(target) % len(COLORS)], "linewidth": 1.5}


def _curves(run: Run, summary: Summary, rows: int, curve: Curve, title: str) -> Any:
    import matplotlib.pyplot as plt

    models, targets = summary.models(), summary.targets()
    figure, axes = plt.subplots(
        1, len(models), figsize=(3.6 * len(models) + 3, 4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, model in zip(axes[0], models, strict=True):
        for target in targets:
            points = _points(summary, model, target, rows, curve.name)
            if points:
                axis.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    label=run.titles[target],
                    **_style(targets, target),
                )
        axis.set(title=run.titles[model], xscale="log", yscale="log", xlabel="callers")
        axis.set_xticks(summary.callers(), [str(c) for c in summary.callers()])
        axis.xaxis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(curve.label)
    figure.suptitle(title)
    found = {
        label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside right center", fontsize="small")
    return figure


def _points(summary: Summary, model: str, target: str, rows: int, name: str) -> list[tuple[int, float]]:
    values = ((callers, summary.cell(model, target, rows, callers, name)) for callers in summary.callers())
    return [(callers, value) for callers, value in values if value]


def _bars(run: Run, summary: Summary) -> Any:
    import matplotlib.pyplot as plt

    model = summary.models()[0]
    targets = summary.targets()
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 0.4 * len(targets) + 1.5), sharey=True, layout="constrained"
    )
    panels: Sequence[tuple[str, str]] = (
        ("start_s", "from nothing to the first prediction, s"),
        ("ready_pss_mb", "memory when ready, MB (PSS)"),
    )
    colors = [OURS_COLOR if t.startswith(OURS) else COLORS[0] for t in targets]
    for axis, (name, label) in zip(axes, panels, strict=True):
        values = [summary.figure(model, target, name) or 0 for target in targets]
        axis.barh([run.titles[t] for t in targets], values, color=colors)
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
    axes[0].invert_yaxis()
    figure.suptitle(run.titles[model])
    return figure
