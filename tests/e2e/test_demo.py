"""``mlflow-restaurant demo``, as a user runs it."""

from __future__ import annotations

import csv
import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from mlflow_restaurant.home import Home

from ..support import eventually, processes_of
from .conftest import BIN, own_client, processes_in, restaurant, run, running, temporary_files

COMMAND = BIN / "mlflow-restaurant"


def test_the_demo_shows_everything_and_cleans_up() -> None:
    with temporary_files() as (directory, environment):
        done = run(COMMAND, "demo", env=environment)
        assert (done.status, done.err) == (0, "")
        for text in ("version 1", "version 2", "models:/spam@champion", "Moving champion", "HEALTHY", "ham"):
            assert text in done.out
        assert [str(p) for p in directory.rglob("*")] == []


def write_emails(path: Path, rows: int = 40, columns: tuple[str, ...] = ("label", "subject", "body")) -> Path:
    texts = {"spam": ("Win a prize", "claim free money now"), "ham": ("Lunch", "shall we eat at noon")}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number in range(rows):
            label = ("spam", "ham")[number % 2]
            subject, body = texts[label]
            writer.writerow([label, f"{subject} {number}", f'{body}, "quoted"\nsecond line {number}'])
    return path


def test_the_demo_as_json_with_data_of_ones_own(tmp_path: Path) -> None:
    data = write_emails(tmp_path / "emails.csv")
    with temporary_files() as (directory, environment):
        done = run(COMMAND, "demo", "--json", "--data", data, env=environment)
        assert done.status == 0, done.err
        result = json.loads(done.out)
        assert result["emails"] == 40
        assert result["accuracy"] == {"1": 1.0, "2": 1.0}
        assert {a["model_version"] for a in result["answers"]} == {"1", "2"}
        assert all(a["label"] == a["prediction"] for a in result["answers"])
        (deployment,) = result["deployments"]
        assert deployment["name"] == "spam"
        assert (deployment["state"], deployment["revision"], deployment["version"]) == ("HEALTHY", 2, "2")
        assert result["curl"] is None
        assert [str(p) for p in directory.rglob("*")] == []


def test_data_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 100)
    write_emails(tmp_path / "columns.csv", columns=("label", "title", "body"))
    write_emails(tmp_path / "few.csv", rows=6)
    (tmp_path / "labels.csv").write_text("label,subject,body\nmaybe,a,b\n")
    reasons = {
        "nothing.csv": "cannot be read: No such file",
        "empty.csv": "is empty",
        "binary.csv": "cannot be read as a CSV file",
        "columns.csv": "has no column subject",
        "few.csv": "at least 10 of each label",
        "labels.csv": "labels other than spam and ham: 'maybe'",
    }
    with temporary_files() as (directory, environment):
        for name, reason in reasons.items():
            error = run(COMMAND, "demo", "--data", tmp_path / name, env=environment).error
            assert reason in error
            assert str(tmp_path / name) in error
        assert [str(p) for p in directory.rglob("*")] == []


def test_what_is_kept_answers_the_printed_command(home: Home) -> None:
    done = restaurant(home, "demo", "--keep")
    assert (done.status, done.err) == (0, "")
    commands = [line for line in done.out.splitlines() if line.startswith(("curl ", "mlflow "))]
    ask, remove = commands
    assert own_client(home).get_deployment("spam")["model_version"] == "2"
    answer = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(answer.stdout) == {"predictions": ["spam"]}
    again = restaurant(home, "demo")
    assert "has a deployment 'spam' already" in again.error
    assert json.loads(restaurant(home, "status", "--json").out)["deployments"][0]["state"] == "HEALTHY"
    removed = run(BIN / shlex.split(remove)[0], *shlex.split(remove)[1:])
    assert (removed.status, removed.err) == (0, "")
    assert own_client(home).list_deployments() == []


@pytest.mark.parametrize("when", ["Training", "Deploying"])
def test_ctrl_c_leaves_nothing_behind(when: str) -> None:
    with temporary_files() as (directory, environment), running(COMMAND, "demo", env=environment) as demo:
        demo.line(when)
        started = processes_in(directory)
        assert demo.end(signal.SIGINT) == 130
        assert "Traceback" not in demo.said
        assert demo.said.endswith("Interrupted.\n")
        eventually(lambda: not any(p.is_running() for p in started), "its processes have ended")
        assert [str(p) for p in directory.rglob("*")] == []


def test_ctrl_c_in_a_home_of_ones_own_takes_the_deployment_away(home: Home) -> None:
    restaurant(home, "up")
    with running(COMMAND, "-t", f"restaurant:{home.path}", "demo") as demo:
        demo.line("Moving")
        assert demo.end(signal.SIGINT) == 130
    assert own_client(home).list_deployments() == []
    assert restaurant(home, "down").out == "The server is down.\n"
    assert processes_of(home) == []
