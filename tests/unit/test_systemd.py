"""The unit file for systemd."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from mlflow_restaurant.systemd import UNIT, quoted, unit_file

ANALYZE = shutil.which("systemd-analyze")


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


def complaints(folder: Path, text: str) -> list[str]:
    """Return what systemd says of a unit file; what it may say of others that are there is left out."""
    unit = folder / UNIT
    unit.write_text(text)
    command = [str(ANALYZE), "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if UNIT in line]


@pytest.fixture
def command(tmp_path: Path) -> Path:
    found = tmp_path / "with space" / "mlflow-restaurant"
    found.parent.mkdir()
    found.write_text("#!/bin/sh\n")
    found.chmod(0o755)
    return found


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
class TestVerified:
    @pytest.mark.parametrize("system", [True, False])
    @pytest.mark.parametrize(
        ("home", "environ"),
        [
            ("/srv/home", {}),
            ("/srv/a b/100%/$x", {"MLFLOW_RESTAURANT_HOST": "$y", "MLFLOW_RESTAURANT_PORT": "80"}),
            ('/srv/say "x"\\', {"MLFLOW_RESTAURANT_HOST": 'a "b" %h \\'}),
        ],
    )
    def test_systemd_finds_nothing_wrong_with_it(
        self, tmp_path: Path, command: Path, home: str, environ: dict[str, str], system: bool
    ) -> None:
        assert complaints(tmp_path, unit_file(command, Path(home), environ, system=system)) == []

    def test_it_would_say_so(self, tmp_path: Path, command: Path) -> None:
        text = unit_file(command, Path("/srv/home"), {}, system=True)
        for wrong in (
            text.replace("KillMode=process", "KillMode=no"),
            text.replace(str(command), "/no/such"),
        ):
            assert complaints(tmp_path, wrong)
