"""Every fault on real processes under steady load, and the table of what callers saw.

All of it, three quarters of an hour:  python -m benchmarks.chaos
A few seconds of each:                 python -m benchmarks.chaos --short
Some:                                  python -m benchmarks.chaos --only kill-replica clock

Results are written after each scenario, over those of the same scenario in an earlier run.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import machine
from benchmarks.chaos.form import FULL, SHORT, Form
from benchmarks.chaos.outcome import Outcome, write
from benchmarks.chaos.scenarios import SCENARIOS, perform
from benchmarks.chaos.stage import Models, staged, workshop
from benchmarks.chaos.surroundings import Impossible

RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 1 when something happened that must never happen."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="a few seconds of each, as in the tests")
    parser.add_argument("--seconds", type=float, help="of load under each fault; default: 60")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: benchmarks/results")
    given = parser.parse_args(arguments)
    form = SHORT if given.short else FULL
    if given.seconds is not None:
        form = replace(form, seconds=given.seconds)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = machine.describe()
    broken = False
    with workshop() as models:
        for name in given.only or SCENARIOS:
            say(name)
            try:
                outcome = alone(name, models, form)
            except Impossible as e:
                say(f"  left out: {e}")
                continue
            tell(outcome)
            broken = broken or bool(outcome.broken)
            write(given.output, about, [outcome], SCENARIOS)
    return int(broken)


def alone(name: str, models: Models, form: Form) -> Outcome:
    """Run a scenario on a server of its own."""
    place = SCENARIOS[name].place
    with place(models, form) if place is not None else staged(models) as stage:
        return perform(name, stage, form)


def tell(outcome: Outcome) -> None:
    recovery = "" if outcome.recovery_s is None else f", recovery {outcome.recovery_s:.2f} s"
    say(
        f"  {outcome.sent} sent, {outcome.failed} failed, slowest {outcome.slowest_s:.2f} s{recovery}"
        f" {outcome.value}"
    )
    for text in outcome.broken:
        say(f"  BROKEN: {text}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
