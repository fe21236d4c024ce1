"""The unit file for systemd."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from mlflow_restaurant.systemd import quoted, unit_file


def parsed(**changes: object) -> configparser.ConfigParser:
    options = {
        "command": Path("/opt/bin/mlflow-restaurant"),
        "home": Path("/srv/home"),
        "environ": {},
        "system": True,
    }
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(unit_file(**{**options, **changes}))  # type: ignore[arg-type]
    return unit


def test_what_it_runs_and_how_it_ends() -> None:
    service = parsed()["Service"]
    assert (
        service["ExecStart"] == '"/opt/bin/mlflow-restaurant" --target "restaurant:/srv/home" up --foreground'
    )
    assert (service["KillMode"], service["Restart"]) == ("process", "on-failure")
    assert "Environment" not in service


@pytest.mark.parametrize(("system", "target"), [(True, "multi-user.target"), (False, "default.target")])
def test_when_it_starts(system: bool, target: str) -> None:
    assert parsed(system=system)["Install"]["WantedBy"] == target


def test_settings_come_along() -> None:
    assert (
        parsed(environ={"MLFLOW_RESTAURANT_PORT": "80"})["Service"]["Environment"]
        == '"MLFLOW_RESTAURANT_PORT=80"'
    )


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/a b", '"/a b"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$HOME"'),
        ('say "x"', r'"say \"x\""'),
        ("back\\slash", r'"back\\slash"'),
    ],
)
def test_words_are_quoted_as_systemd_reads_them(word: str, written: str) -> None:
    assert quoted(word) == written


def test_variables_are_not_replaced_in_the_command() -> None:
    service = parsed(home=Path("/srv/$x"), environ={"MLFLOW_RESTAURANT_HOST": "$y"})["Service"]
    assert '"restaurant:/srv/$$x"' in service["ExecStart"]
    assert service["Environment"] == '"MLFLOW_RESTAURANT_HOST=$y"'
