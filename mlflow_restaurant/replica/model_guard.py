"""Stands around the model of a replica: predictions in turn, threads within their limit, no exit of the process.

Only the standard library is imported at the top: replicas in other environments run this file where the package is missing.
"""

import contextlib
import contextvars
import functools
import threading

if __package__:
    from mlflow_restaurant.replica.traces import print_step_error
else:  # see `app`
    from traces import print_step_error  # type: ignore[no-redef,import-not-found,unused-ignore]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

TURN_WAIT_S = 1.0
"""How long a prediction waits for its turn: a gateway must not take a replica for one that hangs because of another's call."""


class ModelExited(RuntimeError):
    """The model tried to end the process, for instance with ``sys.exit``."""


IN_TURN: "contextvars.ContextVar[bool]" = contextvars.ContextVar("in_turn", default=False)
"""Whether the request at hand is to be predicted one after another with its like."""


class Guard:
    """Stands around the model: one prediction at a time where `IN_TURN` says so, and no exit of the process.

    ``SystemExit`` and its like become an error of this request, and are reported to `on_exit`: MLflow's server would
    answer nothing from then on, while its ``/ping`` still says 200.
    """

    def __init__(self, threads: "int | None") -> None:
        self.threads = threads
        self.limited = threading.local()
        self.turn = threading.Lock()
        self.on_exit: Callable[[BaseException], None] = lambda e: None

    def guard(self, caller: "Any") -> None:
        """Guard all that goes through ``caller.predict``."""
        predict = caller.predict

        @functools.wraps(predict)
        def guarded(*args: "Any", **kwargs: "Any") -> "Any":
            if not hasattr(self.limited, "here"):  # OpenMP keeps its limit by thread
                self.limited.here = True
                limit_threads(self.threads)
            try:
                with self._its_turn():
                    return predict(*args, **kwargs)
            except Exception as e:
                print_step_error(e.__cause__)
                raise
            except BaseException as e:
                self.on_exit(e)
                raise ModelExited(f"the model raised {type(e).__name__}") from e

        caller.predict = guarded

    @contextlib.contextmanager
    def _its_turn(self) -> "Iterator[None]":
        """Let a request predict beside no other of its like, unless that takes long; asked for once a request."""
        waited = IN_TURN.get()
        IN_TURN.set(False)
        mine = waited and self.turn.acquire(timeout=TURN_WAIT_S)
        try:
            yield
        finally:
            if mine:
                self.turn.release()


def limit_threads(threads: "int | None") -> None:
    """Limit the thread pools of BLAS and OpenMP libraries, where threadpoolctl is installed."""
    if threads is None:
        return
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return
    threadpool_limits(limits=threads)
