"""How much may be written about each deployment: who causes errors must not fill the disk. Pure: sizes and a clock in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Window:
    ends: float
    spent: int = 0
    left_out: int = 0


class Budget:
    """So many bytes for each name in so much time.

    Args:
        size: in bytes.
        window_s: in seconds.
    """

    def __init__(self, size: int, window_s: float) -> None:
        self.size, self.window_s = size, window_s
        self.windows: dict[str, _Window] = {}

    def spend(self, name: str, size: int, now: float) -> int | None:
        """Take `size` bytes; returns how many others were left out since the last that were taken, None for one more."""
        window = self.windows.get(name)
        if window is None:
            window = self.windows[name] = _Window(now + self.window_s)
        elif window.ends <= now:
            window.ends, window.spent = now + self.window_s, 0
        if window.spent >= self.size:
            window.left_out += 1
            return None
        window.spent += size
        left_out, window.left_out = window.left_out, 0
        return left_out

    def forget(self, name: str) -> None:
        self.windows.pop(name, None)
