"""One run: every server serves every model, round by round, and the report is written.

All of it, some hours:              python -m benchmarks
Us and MLflow, one model, minutes:  python -m benchmarks --quick
What is missing:                    python -m benchmarks --continue
The report again, from its JSON:    python -m benchmarks --report

Results are written after each round, and cover complete rounds only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, models
from benchmarks.formats import Unsupported
from benchmarks.load import LoadError, wrk_version
from benchmarks.measures import BIG_ROWS, Plan, Question, measure
from benchmarks.plots import draw
from benchmarks.report import IDLE, Run, headline, render, replace_block
from benchmarks.summary import Summary, summarize
from benchmarks.targets import BASELINE, OURS, TARGETS, Absent, Target, load_target
from benchmarks.targets.restaurant import idle_cpu

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
CALLERS = (1, 8, 32, 128)
ROWS = (1, 100)
HIDDEN = ("--output", "--report", "--continue")
SECOND_REPLICAS = [("restaurant", "restaurant-2r"), ("mlflow", "mlflow-2w")]


@dataclass(frozen=True)
class Options:
    """What to run, and where its results go."""

    name: str
    command: str
    targets: tuple[str, ...]
    models: tuple[str, ...]
    rounds: int
    plan: Plan
    idle: bool
    output: Path
    more: bool
    """Whether to go on with the run that is in `output`."""


def parse(arguments: Sequence[str]) -> tuple[Options, bool]:
    """Return the options, and whether only the report is to be written again."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="us and MLflow, one model, two minutes")
    parser.add_argument("--report", action="store_true", help="write the report again from the JSON file")
    parser.add_argument(
        "--continue",
        action="store_true",
        dest="more",
        help="measure only what is missing: rounds, and servers that failed",
    )
    parser.add_argument("--rounds", type=int, help="default: 5; 3 with --quick")
    parser.add_argument("--seconds", type=float, help="of load in each cell; default: 2")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument(
        "--models", nargs="+", choices=models.KINDS, metavar="NAME", help=", ".join(models.KINDS)
    )
    parser.add_argument("--callers", nargs="+", type=int, help="default: 1 8 32 128")
    parser.add_argument("--rows", nargs="+", type=int, help="in a request; default: 1 100")
    parser.add_argument("--no-idle", action="store_true", help="leave out the 50 idle deployments")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: benchmarks/results")
    given = parser.parse_args(arguments)
    quick = given.quick
    plan = Plan(
        callers=tuple(given.callers or ((1, 32, 128) if quick else CALLERS)),
        rows=tuple(given.rows or ((1,) if quick else ROWS)),
        seconds=given.seconds or 2.0,
        warm_up_s=1.0,
        big=not quick,
    )
    options = Options(
        name="quick" if quick else "full",
        command=shown(arguments),
        targets=tuple(given.targets or ((OURS, BASELINE) if quick else TARGETS)),
        models=tuple(given.models or (("floats",) if quick else models.KINDS)),
        rounds=given.rounds or (3 if quick else 5),
        plan=plan,
        idle=not (quick or given.no_idle),
        output=given.output,
        more=given.more,
    )
    return options, given.report


def shown(arguments: Sequence[str]) -> str:
    """Return the command as the report names it: without folders of this machine, or how often it was begun."""
    kept, skip = ["python -m benchmarks"], False
    for argument in arguments:
        if not skip and argument not in HIDDEN and not argument.startswith("--output="):
            kept.append(argument)
        skip = argument == "--output"
    return " ".join(kept)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options, report_only = parse(sys.argv[1:] if arguments is None else arguments)
    if report_only:
        write_report(read_run(options), options)
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run = read_run(options) if options.more else new_run(options)
    except LoadError as e:
        raise SystemExit(str(e)) from None
    try:
        execute(run, options)
    except KeyboardInterrupt:
        done = f"{rounds_done(run)} complete rounds are in {options.output}"
        raise SystemExit(f"Interrupted; every server was ended. {done}.") from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def new_run(options: Options) -> Run:
    names = {name: models.KINDS[name].title for name in options.models}
    return Run(
        command=options.command,
        seconds=options.plan.seconds,
        baseline=BASELINE,
        machine=machine.describe(),
        generator=wrk_version(),
        versions={},
        titles={**names, BASELINE: load_target(BASELINE).title},
        second_replicas=SECOND_REPLICAS,
    )


def execute(run: Run, options: Options) -> None:
    """Measure everything; the records are gathered in `run`, and written after each round."""
    targets = prepare(run, options.targets)
    with workshop() as folder:
        saved, questions = make_models(options, folder)
        for number in range(options.rounds):
            found: list[dict[str, Any]] = []
            for model in options.models:
                for name, target in targets.items():
                    if is_measured(run, options.plan, number, model, name):
                        continue
                    forget(run, number, model, name)
                    say(f"round {number + 1} of {options.rounds}: {run.titles[model]}, {target.title}")
                    where = {"round": number, "model": model, "target": name}
                    records = measure(
                        target, saved[model], questions[model], options.plan, new_folder(folder)
                    )
                    gather(run, found, where, records)
            if options.idle and not has_idle(run, number):
                say("50 idle deployments")
                model = options.models[0]
                where = {"round": number, "model": model, "target": OURS}
                gather(run, found, where, idle(saved[model]))
            if found:
                run.records.extend(found)
                write_report(run, options)


def records_of(run: Run, number: int, model: str, target: str) -> list[dict[str, Any]]:
    """Return what was measured of a server with a model in a round."""
    return [
        record
        for record in run.records
        if (record["round"], record["model"], record["target"]) == (number, model, target)
        and record.get("figure") != IDLE
    ]


def is_measured(run: Run, plan: Plan, number: int, model: str, target: str) -> bool:
    """Tell whether a server was measured with a model in a round, up to the last cell."""
    cells = {(r["rows"], r["callers"]) for r in records_of(run, number, model, target) if "callers" in r}
    return cells.issuperset((rows, callers) for rows in plan.rows for callers in plan.callers)


def has_idle(run: Run, number: int) -> bool:
    return any(record["round"] == number and record.get("figure") == IDLE for record in run.records)


def forget(run: Run, number: int, model: str, target: str) -> None:
    """Drop what a server left of a round that it did not get through, and the note of it: it is measured again."""
    left = records_of(run, number, model, target)
    run.records[:] = [record for record in run.records if record not in left]
    failed = failure(run, number, model, target)
    run.notes[:] = [text for text in run.notes if not text.startswith(failed)]


def failure(run: Run, number: int, model: str, target: str) -> str:
    """Return how a note begins that says why a server was not measured in a round."""
    return f"{run.titles[target]}, {run.titles[model]}, round {number + 1}: "


def rounds_done(run: Run) -> int:
    return 1 + max((record["round"] for record in run.records), default=-1)


def idle(model: Path) -> Iterator[dict[str, Any]]:
    yield {"figure": IDLE, "value": idle_cpu(model)}


def prepare(run: Run, names: Sequence[str]) -> dict[str, Target]:
    """Return the targets that can be measured; the others are noted as absent."""
    found = {}
    for name in names:
        target = load_target(name)
        run.titles[name] = target.title
        say(f"preparing {target.title}")
        try:
            run.versions[name] = target.prepare()
            found[name] = target
        except Absent as e:
            run.absent[name] = machine.anonymous(str(e))
            say(f"  absent: {e}")
    return found


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A temporary directory for models, logs and tracking."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    kept = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    try:
        yield folder
    finally:
        if kept is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = kept
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix="server-", dir=folder))


def make_models(options: Options, folder: Path) -> tuple[dict[str, Path], dict[str, dict[int, Question]]]:
    """Save every model and think of questions for it."""
    saved, questions = {}, {}
    for name in options.models:
        say(f"training {models.KINDS[name].title}")
        saved[name] = models.save(models.KINDS[name], folder / name)
        questions[name] = {
            rows: Question(models.KINDS[name], saved[name], rows) for rows in options.plan.rows
        }
        if options.plan.big:
            questions[name][BIG_ROWS] = Question(models.KINDS[name], saved[name], BIG_ROWS, bodies=1)
    return saved, questions


def gather(
    run: Run, found: list[dict[str, Any]], where: dict[str, Any], records: Iterator[dict[str, Any]]
) -> None:
    """Add records to those found in this round; a server that fails is noted, and the run goes on."""
    try:
        for record in records:
            remark = record.pop("note", None)
            found.append({**where, **record})
            say(f"  {told(record)}")
            if remark:
                note(run, f"{run.titles[where['target']]}: {record['figure']} {remark}")
    except Unsupported as e:
        note(run, f"{run.titles[where['target']]}, {run.titles[where['model']]}: {e}")
    except Exception as e:  # Whatever a server does, the others are still to be measured.
        note(run, f"{failure(run, where['round'], where['model'], where['target'])}{e}")


def told(record: dict[str, Any]) -> str:
    if "figure" in record:
        return f"{record['figure']}: {record['value'] or 0:.3f}"
    return (
        f"{record['rows']} rows, {record['callers']} callers: {record['requests_per_s']:.0f}/s,"
        f" p50 {record['p50_ms'] or 0:.2f} ms, {record['errors']} errors, {record['wrong']} wrong"
    )


def note(run: Run, text: str) -> None:
    say(f"  {text}")
    line = " ".join(machine.anonymous(text).split())
    if line not in run.notes:
        run.notes.append(line)


def read_run(options: Options) -> Run:
    file = options.output / f"{options.name}.json"
    return Run(**json.loads(file.read_text(encoding="utf-8")))


def write_report(run: Run, options: Options) -> None:
    """Write the run as JSON, the report and the pictures."""
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"{options.name}.json"
    file.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")
    summary = summarize(run.records, run.baseline)
    report = options.output / f"{options.name}.md"
    report.write_text(render(run, summary, pictures(run, summary, options)), encoding="utf-8")
    say(f"wrote {report}")
    if options.output == RESULTS and options.name == "full":
        page = replace_block(PAGE.read_text(encoding="utf-8"), headline(run, summary))
        PAGE.write_text(page, encoding="utf-8")


def pictures(run: Run, summary: Summary, options: Options) -> dict[str, str]:
    try:
        return draw(run, summary, options.output, options.name) if summary.cells else {}
    except ImportError:
        say("no pictures: matplotlib is missing; install the extra: pip install -e '.[benchmarks]'")
        return {}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
