"""The stack traces that a replica prints into its log: so many in each window of time.

Only the standard library is imported: replicas in other environments run this file where the package is missing.
"""

import contextlib
import sys
import threading
import time
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Traces:
    """Prints the stack traces of requests, so many in each window of time: whoever causes errors must not fill the log.

    Args:
        most: in one window.
        window_s: length of a window, in seconds.
    """

    def __init__(self, most: int, window_s: float) -> None:
        self.most, self.window_s = most, window_s
        self.ends, self.printed, self.left_out = 0.0, 0, 0
        self.lock = threading.Lock()
        self.muted = False

    def admit(self, now: "float | None" = None) -> bool:
        """Tell whether one more may be printed; says first how many were left out, once they may be again."""
        now = time.monotonic() if now is None else now
        with self.lock:
            if now >= self.ends:
                left_out, self.ends, self.printed, self.left_out = self.left_out, now + self.window_s, 0, 0
                if left_out:
                    self._say(f"{left_out} stack traces were left out here: they came too fast")
            self.printed += 1
            self.left_out += self.printed > self.most
            return self.printed <= self.most

    @contextlib.contextmanager
    def mute(self) -> "Iterator[None]":
        """Print none within, of errors that are expected."""
        self.muted = True
        try:
            yield
        finally:
            self.muted = False

    def print(self, error: BaseException) -> None:
        """Print the stack trace of an error, unless there were too many."""
        if not self.muted and self.admit():
            self._say("".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip())

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the disk may be full
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


TRACES = Traces(100, 60)


def print_step_error(error: "BaseException | None") -> None:
    """Print the stack trace of a failed step of a bundle: MLflow's server drops it, for it is told in a sentence."""
    if error is not None and type(error).__name__ == "StepError":
        TRACES.print(error)
