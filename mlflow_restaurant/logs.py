"""A log as one text over several files: ``a.log``, which is written, and ``a.log.1`` and so on, rotated, newest first.

Processes keep ``a.log`` open for appending, so it is never renamed: what it holds is copied to ``a.log.1``, and it is cut
to nothing. Whoever reads holds a shared lock on it meanwhile, so that he sees it before or after, never in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

LEFT_OUT = re.compile(rb"\[[^\]\n]*\] (\d+) bytes before this were left out\n")
"""First line of a rotated file that lacks the beginning."""
BLOCK = 1 << 16


def rotated_files(log: Path) -> list[Path]:
    """Return the rotated files of a log, the newest first."""
    found: list[Path] = []
    while (path := log.with_name(f"{log.name}.{len(found) + 1}")).is_file():
        found.append(path)
    return found


def last_lines(files: Iterable[Path], count: int) -> bytes:
    """Return the last lines of a text over several files, the newest first; one that is not ended counts as one."""
    blocks: list[bytes] = []
    newlines = 0
    if count:
        for block in _backwards(files):
            blocks.append(block)
            newlines += block.count(b"\n")
            if newlines > count:
                break
    lines = _lines(b"".join(reversed(blocks)))
    return b"".join(lines[len(lines) - min(count, len(lines)) :])


def _lines(text: bytes) -> list[bytes]:
    """Split at newlines only: a progress bar that goes back to the beginning is one line."""
    *whole, rest = text.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def _backwards(files: Iterable[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                begin = max(0, end - BLOCK)
                file.seek(begin)
                yield file.read(end - begin)
                end = begin


class LogReader:
    """Reads a log from its last lines on, and goes on when it is rotated.

    Args:
        log: the file that is written; it must be there.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.position = 0
        self.newest: tuple[int, int] | None = None

    def last(self, count: int) -> bytes:
        """Return the last lines; `more` goes on after them."""
        with self._locked():
            rotated = rotated_files(self.log)
            self.position = self.log.stat().st_size
            self.newest = _identity(rotated[0]) if rotated else None
            return last_lines([self.log, *rotated], count)

    def more(self) -> bytes:
        """Return what came since; nothing while the log is gone."""
        with contextlib.suppress(FileNotFoundError), self._locked():
            return self._more()
        return b""

    def _more(self) -> bytes:
        parts = []
        for number, path in enumerate(self._rotated_since()):
            content = path.read_bytes()
            parts.append(content[_place(content, self.position) :] if number == 0 else content)
            self.position, self.newest = 0, _identity(path)
        with self.log.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self.position:  # cut, without a copy
                self.position = 0
            file.seek(self.position)
            parts.append(file.read())
            self.position = file.tell()
        return b"".join(parts)

    def _rotated_since(self) -> list[Path]:
        """Return the files that were rotated since the last time, the oldest first."""
        newer = []
        for path in rotated_files(self.log):
            if _identity(path) == self.newest:
                break
            newer.append(path)
        return newer[::-1]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self.log.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns  # numbers of files are used again


def _place(content: bytes, position: int) -> int:
    """Return where in a rotated file that is which was at `position` of the log."""
    found = LEFT_OUT.match(content)
    if found is None:
        return position
    left_out = int(found[1])
    return 0 if position <= left_out else found.end() + position - left_out
