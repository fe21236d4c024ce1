"""The home: which one a target names, who may use it, and that its sockets fit into a socket address."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_restaurant.config import HOME_VARIABLE
from mlflow_restaurant.errors import HomeError, InvalidRequest
from mlflow_restaurant.home import LONGEST_SOCKET_NAME, Home, default_home, home_of_target

SOCKET_ADDRESS_BYTES = 104


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def short() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="h"))
    yield directory
    shutil.rmtree(directory)


class TestTarget:
    def test_without_a_path_it_is_the_default_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(HOME_VARIABLE, "/some/where")

        assert home_of_target("restaurant") == default_home() == Home(Path("/some/where"))

    def test_the_default_is_below_the_users_directory(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv(HOME_VARIABLE, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))

        assert default_home().path == tmp_path / ".mlflow-restaurant"

    @pytest.mark.parametrize("named", ["here", "./here"])
    def test_a_relative_variable_becomes_absolute(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(HOME_VARIABLE, named)

        assert default_home().path == tmp_path / "here"

    def test_a_tilde_is_the_users_directory(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv(HOME_VARIABLE, "~/x")

        assert default_home().path == tmp_path / "x"

    def test_with_a_path(self) -> None:
        assert home_of_target("restaurant:/a/b c").path == Path("/a/b c")

    @pytest.mark.parametrize(
        "target",
        [
            "restaurant:",
            "restaurant:rel/path",
            "restaurants",
            "",
            "restaurant:~",
            "sagemaker:/x",
            "Restaurant",
        ],
    )
    def test_other_forms_are_refused_with_the_right_one(self, target: str) -> None:
        with pytest.raises(InvalidRequest, match="restaurant:/absolute/path"):
            home_of_target(target)

    def test_other_machines_are_not_supported_yet(self) -> None:
        with pytest.raises(InvalidRequest, match="another machine"):
            home_of_target("restaurant://host:5001")


class TestEnsure:
    def test_it_makes_directories_that_only_the_user_may_enter(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "a" / "home")

        home.ensure()
        home.ensure()

        for directory in (home.path, home.models, home.run):
            assert mode(directory) == 0o700
        assert home.deployment_log("d").parent.is_dir()
        assert not list(home.models.iterdir())
        shutil.rmtree(home.run)

    def test_a_home_that_others_could_enter_is_closed(self, short: Path) -> None:
        short.chmod(0o777)

        Home(short).ensure()

        assert mode(short) == 0o700

    def test_a_file_in_its_place(self, short: Path) -> None:
        (short / "home").write_text("")

        with pytest.raises(HomeError, match=f"home can't be used: .*{HOME_VARIABLE}"):
            Home(short / "home").ensure()

    def test_a_file_among_its_parents(self, short: Path) -> None:
        (short / "file").write_text("")

        with pytest.raises(HomeError, match="can't be used"):
            Home(short / "file" / "home").ensure()

    def test_a_file_in_the_place_of_a_directory_of_it(self, short: Path) -> None:
        (short / "models").write_text("")

        with pytest.raises(HomeError, match="can't be used"):
            Home(short).ensure()

    def test_a_home_of_another_user(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        owner = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)

        with pytest.raises(HomeError, match=f"belongs to another user \\(id {owner}\\)"):
            Home(short).ensure()

    def test_a_disk_that_takes_nothing(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(**_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tempfile, "TemporaryFile", full)

        with pytest.raises(HomeError, match="No space left on device"):
            Home(short).ensure()


class TestRun:
    def test_it_is_inside_when_the_path_is_short(self, short: Path) -> None:
        home = Home(short)

        assert home.run == short / "run"
        assert home.admin_socket.parent == home.forkserver_socket.parent == home.run

    @pytest.mark.parametrize("length", [40, 70, 75, 80, 100, 200])
    @pytest.mark.parametrize("letter", ["a", "ä"])
    def test_a_socket_in_it_always_fits(
        self, monkeypatch: pytest.MonkeyPatch, length: int, letter: str
    ) -> None:
        monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp")
        home = Home(Path("/" + letter * length))

        assert len(os.fsencode(home.run / ("x" * LONGEST_SOCKET_NAME))) < SOCKET_ADDRESS_BYTES

    def test_homes_with_long_paths_have_run_directories_of_their_own(self) -> None:
        a, b = Home(Path("/" + "a" * 100)), Home(Path("/" + "b" * 100))

        assert a.run != b.run
        assert a.run == Home(a.path).run

    def test_the_fixed_sockets_are_no_longer_than_reckoned_with(self, short: Path) -> None:
        home = Home(short)

        assert max(len(p.name) for p in (home.admin_socket, home.forkserver_socket)) <= LONGEST_SOCKET_NAME

    def test_a_run_directory_elsewhere_of_another_user_is_refused(
        self, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = Home(short / ("x" * 90))
        monkeypatch.setattr("mlflow_restaurant.home.SHORT_DIRECTORY", short)
        home.ensure()
        assert home.run.parent == short
        assert mode(home.run) == 0o700
        real_stat = Path.stat

        def stat_of(path: Path, **kwargs: bool) -> os.stat_result:
            found = real_stat(path, **kwargs)
            return os.stat_result([*found[:4], found.st_uid + 1, *found[5:10]]) if path == home.run else found

        monkeypatch.setattr(Path, "stat", stat_of)

        with pytest.raises(HomeError, match="belongs to another user"):
            home.ensure()
