"""Tests that need the machine for themselves, and those beside them."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path

from tests.turns import turn


def test_one_that_runs_alone_waits_for_the_others_and_keeps_them_out(tmp_path: Path) -> None:
    told: list[str] = []

    def test(name: str, alone: bool) -> threading.Thread:
        def body() -> None:
            with turn(tmp_path, alone):
                told.append(name)
                time.sleep(0.05)
                told.append(f"end of {name}")

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    with ExitStack() as first:
        first.enter_context(turn(tmp_path, alone=False))
        with turn(tmp_path, alone=False):  # beside it
            pass
        alone = test("alone", alone=True)
        time.sleep(0.2)
        late = test("late", alone=False)  # comes after the one that waits
        time.sleep(0.2)
        assert told == []
    alone.join()
    late.join()
    assert told == ["alone", "end of alone", "late", "end of late"]
