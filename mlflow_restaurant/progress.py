"""A line on a terminal that says what a long command is doing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape


@contextlib.contextmanager
def progress_line(title: str) -> Iterator[Callable[[str], None]]:
    """Give a function that shows a text beside a spinner on stderr, when that is a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(escape(title)) as status:
        yield lambda text: status.update(f"{escape(title)}: {escape(text)}")
