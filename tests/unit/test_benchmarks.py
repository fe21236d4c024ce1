"""The parts of the benchmark that do not measure: reading wrk, medians and ratios, formats, the report."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import benchmarks.run
from benchmarks import costs, http_servers
from benchmarks.formats import (
    Unsupported,
    read_list,
    read_mlflow,
    read_v2,
    same,
    write_rows,
    write_split,
    write_v2,
)
from benchmarks.load import Load, LoadError, parse_wrk
from benchmarks.machine import anonymous
from benchmarks.measures import Failed, Plan
from benchmarks.page import Page
from benchmarks.processes import cpu_between
from benchmarks.report import (
    BLOCK_END,
    BLOCK_START,
    IDLE,
    Run,
    headline,
    number,
    render,
    replace_block,
    short,
)
from benchmarks.run import Options, execute, is_measured, parse, shown
from benchmarks.summary import Summary, ratio, summarize
from benchmarks.targets import BASELINE, TARGETS, load_target

WRK = """Running 2s test @ http://127.0.0.1:1/invocations
  1 threads and 32 connections
Requests/sec:    100.00
{"requests": 210, "seconds": 2.000000, "p50_ms": 3.5000, "p99_ms": 9.0000, "max_ms": 12.0000, "status_errors": 10, "socket_errors": 1}
"""
WHERE = ("round", "model", "target")
FRAME = pd.DataFrame({"a": [1.5, 2.0], "b": [True, False], "c": ["x", "y"]})
GAPS = pd.DataFrame({"a": [1.5, None], "c": ["x", None]})


def cell(number: int, target: str, requests_per_s: float, **more: Any) -> dict[str, Any]:
    where = {"round": number, "model": "floats", "target": target, "rows": 1, "callers": 32}
    counts = {"requests": 100, "errors": 0, "checked": 16, "wrong": 0}
    measured = {"requests_per_s": requests_per_s, "p50_ms": 2.0, "p99_ms": 4.0, "cpu_s_per_1000": 1.0}
    return {**where, **counts, **measured, "rss_mb": 200.0, "generator_share": 0.1, **more}


def figure(target: str, name: str, value: float | None) -> dict[str, Any]:
    return {"round": 0, "model": "floats", "target": target, "figure": name, "value": value}


RECORDS = [
    cell(0, "mlflow", 100.0),
    cell(1, "mlflow", 300.0),
    cell(2, "mlflow", 200.0, errors=2),
    cell(0, "restaurant", 1000.0, wrong=1),
    cell(1, "restaurant", 900.0),
    cell(2, "restaurant", 4000.0),
    figure("mlflow", "start_s", 5.0),
    figure("restaurant", "start_s", 2.5),
    figure("restaurant", "ready_uss_mb", 100.0),
    figure("restaurant-2r", "ready_uss_mb", 130.0),
    figure("mlflow", "big_s", None),
    figure("restaurant", "idle_cores", 0.0123),
]


@pytest.fixture
def summary() -> Summary:
    return summarize(RECORDS, "mlflow")


@pytest.fixture
def run() -> Run:
    return Run(
        command="python -m benchmarks",
        seconds=2.0,
        baseline="mlflow",
        machine={"cores": "2"},
        generator="wrk 4",
        versions={"mlflow": "3.0"},
        titles={"floats": "floats", "mlflow": "MLflow", "restaurant": "us", "restaurant-2r": "us twice"},
        second_replicas=[("restaurant", "restaurant-2r"), ("mlflow", "mlflow-2w")],
        absent={"rayserve": "no such version"},
        records=RECORDS,
    )


class TestWrk:
    def test_its_line_of_json_is_read(self) -> None:
        load = parse_wrk(WRK, generator_cpu_s=0.5)

        assert (load.requests, load.status_errors, load.socket_errors) == (210, 10, 1)
        assert (load.p50_ms, load.p99_ms, load.max_ms) == (3.5, 9.0, 12.0)
        assert load.requests_per_s == 100.0, "answers with an error status do not count"
        assert load.generator_share == 0.25

    @pytest.mark.parametrize("output", ["", "unable to connect"])
    def test_without_one_the_error_says_what_it_printed(self, output: str) -> None:
        with pytest.raises(LoadError, match=output or "nothing"):
            parse_wrk(output)


class TestSummary:
    def test_medians_over_the_rounds_and_their_ratio(self, summary: Summary) -> None:
        assert summary.cell("floats", "mlflow", 1, 32, "requests_per_s") == 200.0
        assert summary.cell_ratio("floats", "restaurant", 1, 32, "requests_per_s") == 5.0
        assert summary.figure_ratio("floats", "restaurant", "start_s") == 0.5

    def test_errors_add_up(self, summary: Summary) -> None:
        assert summary.cell("floats", "mlflow", 1, 32, "errors") == 2
        assert summary.cell("floats", "restaurant", 1, 32, "wrong") == 1
        assert summary.cell("floats", "restaurant", 1, 32, "checked") == 48

    def test_what_is_missing_is_none(self, summary: Summary) -> None:
        assert summary.cell("floats", "mlflow", 1, 128, "p50_ms") is None
        assert summary.cell_ratio("floats", "restaurant-2r", 1, 32, "p50_ms") is None
        assert summary.figure("floats", "mlflow", "big_s") is None
        assert ratio(1.0, 0.0) is None

    def test_how_much_more_a_second_replica_takes(self, summary: Summary) -> None:
        assert summary.more("floats", "restaurant", "restaurant-2r", "ready_uss_mb") == 30.0
        assert summary.more("floats", "mlflow", "mlflow-2w", "ready_uss_mb") is None

    def test_what_there_is(self, summary: Summary) -> None:
        assert summary.targets() == ["mlflow", "restaurant", "restaurant-2r"]
        assert (summary.models(), summary.rows(), summary.callers()) == (["floats"], [1], [32])


class TestReport:
    def test_it_has_tables_with_ratios_absences_and_pictures(self, run: Run, summary: Summary) -> None:
        text = render(run, summary, {"Speed": "speed.png"})

        assert "| us | 1,000 (5.0 x) |" in text
        assert "- rayserve was not measured: no such version" in text
        assert "![Speed](speed.png)" in text
        assert "| us twice | floats | 30 | – |" in text
        assert "1.2% of one core" in text
        assert "| 2 of 300 | 0 of 48 |" in text
        assert "10%" in text
        assert "and in no cell 90% or more" in text

    def test_a_busy_generator_is_told(self, run: Run) -> None:
        text = render(run, summarize([cell(0, "mlflow", 1.0, generator_share=0.95)], "mlflow"), {})

        assert "in 1 of 1 cells 90% or more" in text

    def test_every_line_of_a_table_has_as_many_cells_as_its_head(self, run: Run, summary: Summary) -> None:
        for block in render(run, summary, {}).split("\n\n"):
            lines = [line for line in block.splitlines() if line.startswith("|")]
            assert len({line.count("|") for line in lines}) <= 1

    def test_the_headline_goes_between_the_marks_of_a_page(self, run: Run, summary: Summary) -> None:
        page = f"before\n{BLOCK_START}\nold\n{BLOCK_END}\nafter\n"

        once = replace_block(page, headline(run, summary))

        assert "old" not in once
        assert "1,000 (5.0 x)" in once
        assert once.startswith("before\n")
        assert once.endswith(f"{BLOCK_END}\nafter\n")
        assert replace_block(once, headline(run, summary)) == once

    def test_a_page_without_marks_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs a line"):
            replace_block("no marks", "block")

    @pytest.mark.parametrize(
        ("value", "text"), [(80.4, "80"), (9.96, "10.0"), (1.25, "1.2"), (0.333, "0.33")]
    )
    def test_ratios_are_short(self, value: float, text: str) -> None:
        assert short(value) == text

    def test_a_missing_number_is_a_dash(self) -> None:
        assert (number(None, 2), number(1234.5, 1)) == ("–", "1,234.5")


class TestFormats:
    def test_split(self) -> None:
        assert json.loads(write_split(GAPS)) == {
            "dataframe_split": {"columns": ["a", "c"], "data": [[1.5, "x"], [None, None]]}
        }

    def test_rows(self) -> None:
        assert json.loads(write_rows(FRAME)) == {"rows": [[1.5, True, "x"], [2.0, False, "y"]]}

    def test_v2_has_a_tensor_for_each_column(self) -> None:
        inputs = json.loads(write_v2(FRAME))["inputs"]

        assert [(i["name"], i["datatype"], i["shape"]) for i in inputs] == [
            ("a", "FP64", [2, 1]),
            ("b", "BOOL", [2, 1]),
            ("c", "BYTES", [2, 1]),
        ]

    def test_v2_has_no_missing_values(self) -> None:
        with pytest.raises(Unsupported):
            write_v2(GAPS)

    def test_answers(self) -> None:
        assert read_mlflow(b'{"predictions": [1, 2]}') == [1, 2]
        assert read_v2(b'{"outputs": [{"data": [1, 2]}]}') == [1, 2]
        assert read_list(b"[1, 2]") == [1, 2]

    @pytest.mark.parametrize(
        ("expected", "got", "verdict"),
        [
            ([1.0], [1.0 + 1e-12], True),
            ([1.0], [1.001], False),
            ([1.0, 2.0], [1.0], False),
            (["spam"], ["spam"], True),
            (["spam"], ["ham"], False),
            ([1.0], [None], False),
        ],
    )
    def test_same(self, expected: list[Any], got: list[Any], verdict: bool) -> None:
        assert same(expected, got) is verdict


def test_cpu_of_processes_that_came_and_went() -> None:
    assert cpu_between({(1, 0.0): 2.0, (2, 0.0): 9.0}, {(1, 0.0): 3.5, (3, 1.0): 1.0}) == 2.5


class TestCommand:
    def test_quick_is_us_and_mlflow(self) -> None:
        options, report_only = parse(["--quick"])

        assert (options.targets, options.models) == (("restaurant", "mlflow"), ("floats",))
        assert (options.plan.callers, options.plan.rows, report_only) == ((1, 32, 128), (1,), False)

    def test_all_of_it_has_five_rounds(self) -> None:
        options, _ = parse([])

        assert options.rounds == 5
        assert options.targets == tuple(TARGETS)
        assert options.plan.callers == (1, 8, 32, 128)
        assert options.plan.rows == (1, 100)

    def test_the_report_names_no_folder(self) -> None:
        assert shown(["--quick", "--output", "/somewhere", "--continue", "--rounds", "1"]) == (
            "python -m benchmarks --quick --rounds 1"
        )


# -- going on with a run ----------------------------------------------------------------------------------------------

PLAN = Plan(callers=(1, 32), rows=(1,), seconds=1, warm_up_s=0, big=False)


def options(folder: Path, rounds: int = 2) -> Options:
    return Options(
        name="quick",
        command="c",
        targets=("restaurant", "mlflow"),
        models=("floats",),
        rounds=rounds,
        plan=PLAN,
        idle=True,
        output=folder,
        more=True,
    )


class TestGoingOn:
    """Runs in which servers say what they are told, and MLflow fails in some."""

    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        found: list[str] = []
        self.failing = {"mlflow"}

        def measure(target: Any, *_: Any) -> Iterator[dict[str, Any]]:
            name = "mlflow" if "mlflow models" in target.title else "restaurant"
            found.append(name)
            yield {"figure": "start_s", "value": 1.0}
            for callers in PLAN.callers:
                if name in self.failing and callers == 32:
                    raise Failed("it ended")
                yield {k: v for k, v in cell(0, name, 9.0, callers=callers).items() if k not in WHERE}

        def idle_cpu(_: Any) -> float:
            found.append("idle")
            return 0.01

        monkeypatch.setattr(benchmarks.run, "measure", measure)
        monkeypatch.setattr(benchmarks.run, "idle_cpu", idle_cpu)
        monkeypatch.setattr(
            benchmarks.run, "prepare", lambda _, names: {name: load_target(name) for name in names}
        )
        monkeypatch.setattr(benchmarks.run, "make_models", lambda *_: ({"floats": Path()}, {"floats": {}}))
        return found

    def test_each_round_measures_all_and_going_on_only_what_failed(
        self, measured: list[str], tmp_path: Path, run: Run
    ) -> None:
        titles = {name: load_target(name).title for name in ("restaurant", "mlflow")}
        run.titles.update(titles, floats="four floats")
        run.records.clear()
        run.notes.clear()
        execute(run, options(tmp_path))
        assert measured == ["restaurant", "mlflow", "idle"] * 2
        assert [n for n in run.notes if "it ended" in n] == [
            f"{titles['mlflow']}, four floats, round {number}: it ended" for number in (1, 2)
        ]

        measured.clear()
        self.failing.clear()
        execute(run, options(tmp_path, rounds=3))

        assert measured == ["mlflow", "mlflow", "restaurant", "mlflow", "idle"]
        assert run.notes == []
        assert [r["round"] for r in run.records if r.get("figure") == IDLE] == [0, 1, 2]
        for at in range(3):
            for target in ("restaurant", "mlflow"):
                assert is_measured(run, PLAN, at, "floats", target)
        assert len([r for r in run.records if r["target"] == "mlflow"]) == 3 * 3


def test_a_page_says_when_where_and_with_what(tmp_path: Path) -> None:
    page = Page("costs", "Costs", "python -m benchmarks.costs", {"Python": "3.11"})

    path = page.write(tmp_path, {"date": "2026-11-28", "cores": "2"}, "| a |", [{"b": 1}])

    text = path.read_text(encoding="utf-8")
    for part in (
        "# Costs",
        "`python -m benchmarks.costs`",
        "date 2026-11-28, cores 2",
        "Python 3.11",
        "| a |",
    ):
        assert part in text
    assert json.loads((tmp_path / "costs.json").read_text(encoding="utf-8"))["records"] == [{"b": 1}]


def test_what_servers_say_is_told_without_places() -> None:
    said = anonymous(f"{platform.node()}: no {tempfile.gettempdir()}/x, no {Path.home()}/y")

    assert said == "HOST: no TMP/x, no ~/y"


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_can_be_loaded(name: str) -> None:
    target = load_target(name)

    assert target.title
    assert BASELINE in TARGETS


# -- costs -----------------------------------------------------------------------------------------------------------


def loads() -> list[costs.Load]:
    """Loads of a gateway that takes 20 us a request and 100 us a call, and a replica of 2 us a row, 400 us a call."""
    found = []
    for callers, rows in zip(costs.CALLERS, (1, 3, 10, 40, 80, 150, 300), strict=True):
        requests = 1000 * callers
        calls = requests / rows
        gateway_s, replica_s = requests * 20e-6 + calls * 100e-6, requests * 2e-6 + calls * 400e-6
        found.append(costs.Load(callers, requests, calls, gateway_s, replica_s, 2.0))
    return found


def test_costs_are_split_into_requests_and_calls() -> None:
    cost = costs.fit(loads(), [load.gateway_s for load in loads()])
    assert cost.request_s == pytest.approx(20e-6)
    assert cost.call_s == pytest.approx(100e-6)


def test_more_processes_help_until_calls_become_small() -> None:
    gateway, replica = costs.Cost(20e-6, 100e-6), costs.Cost(2e-6, 400e-6)
    one = costs.capacity(gateway, replica, 1, 1, 64)
    assert one.requests_per_s == pytest.approx(64 / (64 * 20e-6 + 100e-6))
    assert costs.capacity(gateway, replica, 8, 8, 64).rows == 1
    best = costs.best_split(gateway, replica, 16, 1024)
    assert best.gateways + best.replicas <= 16
    assert best.requests_per_s > 4 * one.requests_per_s
    assert costs.best_split(gateway, replica, 64, 128).requests_per_s < 3 * one.requests_per_s


def test_the_report_of_costs_tells_both() -> None:
    text = costs.report("floats", loads())
    assert "| 64 | 32,000 | 40.0 | 22 | 480 |" in text
    assert "- gateway: 20.0 µs a request + 100 µs a call" in text
    assert "- replica: 2.0 µs a row + 400 µs a call" in text


# -- HTTP servers ------------------------------------------------------------------------------------------------------


def test_the_report_of_http_servers_has_medians_by_server() -> None:
    load = Load(requests=1_000, seconds=2.0, p50_ms=1, p99_ms=2, max_ms=3, status_errors=0, socket_errors=0)
    found = [
        http_servers.Cost(server, cpu_s, load)
        for server, cpu_s in [("one", 0.02), ("two", 0.04), ("one", 0.03), ("one", 0.09)]
    ]

    text = http_servers.report(found, 128)

    assert "| one | 30.0 | 500 |" in text
    assert "| two | 40.0 | 500 |" in text
