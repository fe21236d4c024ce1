"""Stack traces in the log of a replica."""

from __future__ import annotations

import pytest

from mlflow_restaurant.replica.traces import Traces


def test_stack_traces_are_printed_so_many_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    traces = Traces(2, 60)
    assert [traces.admit(now) for now in (1, 2, 3, 4, 60)] == [True, True, False, False, False]
    assert capsys.readouterr().err == ""
    assert traces.admit(61)
    assert capsys.readouterr().err == "3 stack traces were left out here: they came too fast\n"
    assert [traces.admit(now) for now in (62, 63)] == [True, False]


def test_a_stack_trace_says_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> None:
        raise ValueError("no") from KeyError("cause")

    traces = Traces(1, 60)
    for _ in range(2):
        try:
            failing()
        except ValueError as e:
            traces.print(e)
    said = capsys.readouterr().err
    assert said.count("in failing") == said.count("ValueError: no\n") == said.count("KeyError: 'cause'") == 1
