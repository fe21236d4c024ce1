"""The report: what was measured, as Markdown. Nothing here measures or reads files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.summary import Summary

FIGURES = (
    ("start_s", "Start, s: from the command, with nothing running, to the first prediction", 2),
    ("create_s", "The same with the server running, s: `create` of one more deployment", 2),
    ("ready_pss_mb", "Memory when ready, MB: all processes, shared pages once (PSS)", 0),
    ("ready_uss_mb", "Private memory when ready, MB: all processes (USS)", 0),
    ("ready_rss_mb", "Resident memory when ready, MB: all processes, shared pages in each (RSS)", 0),
    ("loaded_pss_mb", "Memory after the load, MB (PSS)", 0),
    ("big_s", "One request of 10,000 rows, s", 3),
)
BLOCK_START = "<!-- results: written by the benchmark -->"
BLOCK_END = "<!-- end of results -->"

IDLE = "idle_cores"
"""Name of the figure for the part of a core that a server with idle deployments uses."""

BUSY = 0.9
"""Part of a core from which on the load generator may be what was measured."""


@dataclass(frozen=True)
class Run:
    """One run of the benchmark, as it is written into its JSON file."""

    command: str
    seconds: float
    baseline: str
    machine: dict[str, str]
    generator: str
    versions: dict[str, str]
    """Version of each target, by name."""
    titles: dict[str, str]
    """What each target and model is called, by name."""
    second_replicas: list[tuple[str, str]]
    """Pairs of targets, the second with one more replica than the first."""
    absent: dict[str, str] = field(default_factory=dict)
    """Why a target was not measured, by name."""
    notes: list[str] = field(default_factory=list)
    """What went wrong on the way."""
    records: list[dict[str, Any]] = field(default_factory=list)


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table, numbers to the right."""
    marks = ["---", *["--:"] * (len(heads) - 1)]
    return [_line(heads), _line(marks), *(_line(line) for line in lines), ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float | None, digits: int) -> str:
    """Write a number with that many decimals, or a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def with_ratio(value: float | None, ratio: float | None, digits: int) -> str:
    """Write a number, and its ratio to the baseline with two significant digits."""
    if value is None:
        return "–"
    return f"{number(value, digits)} ({short(ratio)} x)" if ratio is not None else number(value, digits)


def short(ratio: float) -> str:
    """Write a ratio with two significant digits, or more where they are whole."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def render(run: Run, summary: Summary, pictures: Mapping[str, str]) -> str:
    """Return the report.

    Args:
        run: how it was measured.
        summary: what was measured.
        pictures: file names by what they show.
    """
    lines = ["# Results", "", *_head(run, summary), *_absent(run)]
    lines += [line for what, file in pictures.items() for line in (f"![{what}]({file})", "")]
    for rows in summary.rows():
        lines += _grids(run, summary, rows)
    lines += _figures(run, summary)
    lines += _second_replica(run, summary)
    lines += _idle(run, summary)
    lines += _cells(run, summary)
    return "\n".join(lines).rstrip() + "\n"


def headline(run: Run, summary: Summary) -> str:
    """Return the table that the documentation shows: the first model, single rows."""
    model, rows = summary.models()[0], summary.rows()[0]
    grid = _grid(run, summary, model, rows, "requests_per_s", 0)
    latency = _grid(run, summary, model, rows, "p50_ms", 2)
    heads = ["requests/s", *(_callers(c) for c in summary.callers())]
    lines = [
        f"{run.titles[model]}, {_rows(rows)} a request, medians of {_rounds(summary)}; in brackets the ratio to"
        f" `{run.titles[run.baseline]}`. Measured {run.machine.get('date', '')} with `{run.command}`.",
        "",
        *_absent(run),
        *table(heads, grid),
        *table(["p50, ms", *heads[1:]], latency),
    ]
    return "\n".join(lines).rstrip()


def replace_block(page: str, block: str) -> str:
    """Put `block` between the two marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    before, start, rest = page.partition(BLOCK_START)
    _, end, after = rest.partition(BLOCK_END)
    if not start or not end:
        raise ValueError(f"The page needs a line {BLOCK_START!r} and a line {BLOCK_END!r}.")
    return f"{before}{start}\n\n{block}\n\n{end}{after}"


def _head(run: Run, summary: Summary) -> list[str]:
    base = run.titles[run.baseline]
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    shares = [c["generator_share"] for c in summary.cells.values() if "generator_share" in c]
    lines = [
        f"Written by `{run.command}`. Medians of {_rounds(summary)}, in turns, {run.seconds:g} s of load in each"
        f" cell; in brackets the ratio to `{base}`.",
        "",
        f"Machine: {machine}.",
        "",
        "Versions: " + ", ".join(f"{run.titles[name]} {v}" for name, v in run.versions.items()) + ".",
        "",
    ]
    if shares:
        busy = sum(share >= BUSY for share in shares)
        lines += [
            f"Load generator: {run.generator}, one thread; it used at most {max(shares):.0%} of one core, and"
            f" {'in no cell' if not busy else f'in {busy} of {len(shares)} cells'} {BUSY:.0%} or more.",
            "",
        ]
    return lines


def _absent(run: Run) -> list[str]:
    lines = [f"- {run.titles.get(name, name)} was not measured: {why}" for name, why in run.absent.items()]
    lines += [f"- {note}" for note in run.notes]
    return [*lines, ""] if lines else []


def _grids(run: Run, summary: Summary, rows: int) -> Iterator[str]:
    kinds = (("requests_per_s", "requests/s", 0), ("p50_ms", "p50, ms", 2))
    for name, unit, digits in kinds:
        for model in summary.models():
            lines = _grid(run, summary, model, rows, name, digits)
            if lines:
                heads = [unit, *(_callers(c) for c in summary.callers())]
                yield f"## {run.titles[model]}, {_rows(rows)} a request: {unit}"
                yield ""
                yield from table(heads, lines)


def _rounds(summary: Summary) -> str:
    return "1 round" if summary.done() == 1 else f"{summary.done()} rounds"


def _rows(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def _callers(callers: int) -> str:
    return "1 caller" if callers == 1 else f"{callers} callers"


def _grid(run: Run, summary: Summary, model: str, rows: int, name: str, digits: int) -> list[list[str]]:
    def write(target: str, callers: int) -> str:
        value = summary.cell(model, target, rows, callers, name)
        return with_ratio(value, summary.cell_ratio(model, target, rows, callers, name), digits)

    return _filled(run, summary, write, summary.callers())


def _filled(
    run: Run, summary: Summary, write: Callable[[str, Any], str], columns: Sequence[Any]
) -> list[list[str]]:
    lines = [[run.titles[t], *(write(t, column) for column in columns)] for t in summary.targets()]
    return [line for line in lines if any(cell != "–" for cell in line[1:])]


def _figures(run: Run, summary: Summary) -> Iterator[str]:
    models = summary.models()
    for name, title, digits in FIGURES:

        def write(target: str, model: str, name: str = name, digits: int = digits) -> str:
            ratio = summary.figure_ratio(model, target, name)
            return with_ratio(summary.figure(model, target, name), ratio, digits)

        lines = _filled(run, summary, write, models)
        if lines:
            yield f"## {title}"
            yield ""
            yield from table(["", *(run.titles[m] for m in models)], lines)


def _second_replica(run: Run, summary: Summary) -> Iterator[str]:
    lines = []
    for one, two in run.second_replicas:
        for model in summary.models():
            private = summary.more(model, one, two, "ready_uss_mb")
            if private is not None:
                shared = summary.more(model, one, two, "ready_pss_mb")
                lines.append([run.titles[two], run.titles[model], number(private, 0), number(shared, 0)])
    if lines:
        yield "## Memory of the second replica, MB"
        yield ""
        yield from table(["", "model", "private (USS)", "with its part of shared pages (PSS)"], lines)


def _idle(run: Run, summary: Summary) -> Iterator[str]:
    for (_, target, name), value in summary.figures.items():
        if name == IDLE:
            yield "## Idle, with 50 deployments"
            yield ""
            yield f"{run.titles[target]}: {value:.1%} of one core."
            yield ""


def _cells(run: Run, summary: Summary) -> Iterator[str]:
    yield "## Every cell"
    yield ""
    heads = ["model", "server", "rows", "callers", "requests/s", "x", "p50 ms", "p99 ms"]
    heads += ["CPU s / 1,000", "RSS MB", "errors", "wrong", "wrk's share"]
    lines = []
    for (model, target, rows, callers), cell in summary.cells.items():
        ratio = summary.cell_ratio(model, target, rows, callers, "requests_per_s")
        lines.append(
            [
                run.titles[model],
                run.titles[target],
                str(rows),
                str(callers),
                number(cell.get("requests_per_s"), 0),
                "–" if ratio is None else short(ratio),
                number(cell.get("p50_ms"), 2),
                number(cell.get("p99_ms"), 2),
                number(cell.get("cpu_s_per_1000"), 3),
                number(cell.get("rss_mb"), 0),
                f"{cell['errors']:.0f} of {cell['requests']:,.0f}",
                f"{cell['wrong']:.0f} of {cell['checked']:.0f}",
                f"{cell.get('generator_share', 0):.0%}",
            ]
        )
    yield from table(heads, lines)
