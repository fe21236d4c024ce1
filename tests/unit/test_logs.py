"""Logs that are rotated under the processes that write them, and read as one text."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_restaurant.control.log_rotation import rotate, rotate_all, too_large
from mlflow_restaurant.home import Home
from mlflow_restaurant.logs import LogReader, last_lines, rotated_files

LIMIT = 1000
WRITER = """
import os, sys
for number in range(int(sys.argv[1])):
    os.write(1, b"%08d\\n" % number)
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "a.log"
    path.touch()
    return path


def add(log: Path, *lines: str) -> None:
    with log.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def text(log: Path) -> str:
    return "".join(path.read_text() for path in (*rotated_files(log)[::-1], log))


class TestRotation:
    def test_what_was_written_moves_on_and_the_oldest_goes(self, log: Path) -> None:
        for number in range(5):
            add(log, str(number))
            rotate(log, LIMIT, keep=3)
        assert log.read_text() == ""
        assert [path.read_text() for path in rotated_files(log)] == ["4\n", "3\n", "2\n"]
        assert {path.name for path in log.parent.iterdir()} == {"a.log", "a.log.1", "a.log.2", "a.log.3"}
        assert rotated_files(log)[0].stat().st_mode & 0o777 == 0o600

    def test_fewer_files_than_before_may_be_kept(self, log: Path) -> None:
        for number in range(5):
            add(log, str(number))
            rotate(log, LIMIT, keep=5)
        rotate(log, LIMIT, keep=1)
        assert len(rotated_files(log)) == 1
        rotate(log, LIMIT, keep=0)
        assert rotated_files(log) == []

    def test_a_process_goes_on_writing_at_the_new_beginning(self, log: Path) -> None:
        with log.open("ab", 0) as held:
            held.write(b"before\n")
            rotate(log, LIMIT, keep=1)
            held.write(b"after\n")
        assert log.read_text() == "after\n"
        assert text(log) == "before\nafter\n"

    def test_only_the_end_of_what_is_far_too_long_is_kept(self, log: Path) -> None:
        add(log, *(f"{number:09}" for number in range(1000)))
        rotate(log, LIMIT, keep=2)
        (kept,) = rotated_files(log)
        first, *lines = kept.read_text().splitlines()
        assert first.endswith("] 9010 bytes before this were left out")
        assert lines == [f"{number:09}" for number in range(901, 1000)]

    def test_without_files_the_log_says_that_it_was_cut(self, log: Path) -> None:
        add(log, "x" * 99)
        rotate(log, LIMIT, keep=0)
        assert log.read_text().endswith("] 100 bytes before this were left out\n")
        assert rotated_files(log) == []

    def test_where_there_is_no_room_for_a_copy_the_log_is_cut(self, log: Path) -> None:
        add(log, *(f"{number:09}" for number in range(150)))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, hard))  # writing more fails, as on a full disk
        try:
            rotate(log, LIMIT, keep=3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in log.parent.iterdir()] == ["a.log"]
        first, *lines = log.read_text().splitlines()
        assert first.endswith("] 1010 bytes before this were left out")
        assert lines == [f"{number:09}" for number in range(101, 150)]

    def test_a_log_that_is_being_read_is_left_for_later_unless_it_grows_far_too_long(self, log: Path) -> None:
        add(log, "x" * 2 * LIMIT)
        with log.open("rb") as reading:
            fcntl.flock(reading, fcntl.LOCK_SH)
            rotate(log, LIMIT, keep=1)
            assert rotated_files(log) == []
            add(log, "x" * 3 * LIMIT)
            rotate(log, LIMIT, keep=1)
            assert log.stat().st_size == 0

    def test_all_logs_of_a_home_that_are_too_long(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "home")
        home.ensure()
        long, short = home.deployment_log("a.log"), home.deployment_log("b")
        for log in (home.server_log, long):
            add(log, "x" * LIMIT)
        add(short, "x")
        for _ in range(3):  # rotated files are not rotated again
            rotate_all(too_large(home, LIMIT), LIMIT, 2)
        assert [len(rotated_files(log)) for log in (home.server_log, long, short)] == [1, 1, 0]

    def test_a_home_that_is_gone_is_no_error(self, tmp_path: Path) -> None:
        assert too_large(Home(tmp_path / "gone"), LIMIT) == {}
        rotate_all([tmp_path / "gone"], LIMIT, 2)


class TestLastLines:
    @pytest.fixture
    def files(self, tmp_path: Path) -> list[Path]:
        parts = ["7\n8\n9\nrest", "", "x" * 200_000 + "\n5\n6\n", "1\r2\r3\n4"]
        paths = [tmp_path / str(number) for number in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            path.write_bytes(part.encode())
        return paths

    @pytest.mark.parametrize(
        ("count", "found"),
        [(0, b""), (1, b"rest"), (2, b"9\nrest"), (4, b"7\n8\n9\nrest"), (6, b"5\n6\n7\n8\n9\nrest")],
    )
    def test_over_several_files(self, files: list[Path], count: int, found: bytes) -> None:
        assert last_lines(files, count) == found

    @pytest.mark.parametrize("count", [8, 9, 1_000_000])
    def test_all_of_them(self, files: list[Path], count: int) -> None:
        whole = b"".join(path.read_bytes() for path in files[::-1])
        assert last_lines(files, count) == whole if count > 8 else whole.partition(b"\n")[2]

    def test_of_nothing(self, log: Path) -> None:
        assert last_lines([log], 5) == b""
        assert last_lines([], 5) == b""


class TestReader:
    def test_it_begins_with_the_last_lines_and_goes_on(self, log: Path) -> None:
        add(log, "1", "2")
        rotate(log, LIMIT, keep=2)
        add(log, "3")
        reader = LogReader(log)
        assert reader.last(2) == b"2\n3\n"
        assert reader.more() == b""
        add(log, "4")
        assert reader.more() == b"4\n"

    @pytest.mark.parametrize("rotations", [1, 2, 3])
    def test_it_misses_nothing_when_the_log_is_rotated(self, log: Path, rotations: int) -> None:
        add(log, "0")
        reader = LogReader(log)
        reader.last(1)
        for number in range(1, 1 + rotations):
            add(log, str(number))
            rotate(log, LIMIT, keep=3)
        add(log, "end")
        expected = [*map(str, range(1, 1 + rotations)), "end"]
        assert reader.more().decode().split() == expected
        assert reader.more() == b""

    def test_one_rotated_file_that_takes_the_place_of_another(self, log: Path) -> None:
        reader = LogReader(log)
        assert reader.last(1) == b""
        for number in range(20):
            add(log, str(number))
            rotate(log, LIMIT, keep=1)
            assert reader.more() == f"{number}\n".encode()

    def test_where_the_beginning_was_left_out_it_goes_on_at_the_right_place(self, log: Path) -> None:
        lines = [f"{number:09}" for number in range(1000)]
        add(log, *lines[:950])
        reader = LogReader(log)
        assert reader.last(1) == b"000000949\n"
        add(log, *lines[950:])
        rotate(log, LIMIT, keep=1)
        assert reader.more().decode().split() == lines[950:]
        add(log, *lines[:100])
        add(log, *lines)
        rotate(log, LIMIT, keep=1)
        told = reader.more().decode().splitlines()
        assert "were left out" in told[0]
        assert told[1:] == lines[-99:]

    def test_a_log_that_was_cut_is_read_from_its_beginning(self, log: Path) -> None:
        add(log, "x" * 500)
        reader = LogReader(log)
        reader.last(1)
        rotate(log, LIMIT, keep=0)
        add(log, "after")
        assert reader.more().endswith(b"were left out\nafter\n")

    def test_a_log_that_is_gone_says_nothing(self, log: Path) -> None:
        reader = LogReader(log)
        reader.last(1)
        log.unlink()
        assert reader.more() == b""


@pytest.fixture
def writing(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes numbered lines to the log, as fast as it can."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    with subprocess.Popen([sys.executable, "-c", WRITER, "100000"], stdout=fd) as process:
        os.close(fd)
        yield process


def test_a_log_that_is_written_meanwhile(log: Path, writing: subprocess.Popen[bytes]) -> None:
    reader = LogReader(log)
    said = reader.last(1_000_000)
    rotations = 0
    while writing.poll() is None:
        if log.stat().st_size > 50_000:
            rotate(log, 10_000_000, keep=3)
            rotations += 1
            said += reader.more()
    add(log, "99999999")  # what the process wrote last may be among the lines that a rotation loses
    said += reader.more()
    assert rotations > 2
    numbers = [int(line) for line in said.splitlines() if re.fullmatch(rb"\d{8}", line)]
    assert numbers == sorted(set(numbers))  # nothing is there twice, or out of order
    assert numbers[-1] == 99_999_999
    print(f"{rotations} rotations, {100_001 - len(numbers)} of 100,000 lines lost")
