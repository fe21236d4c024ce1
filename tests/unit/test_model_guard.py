"""What stands around the model of a replica."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from typing import Any

import pytest

from mlflow_restaurant.gateway.answers import MODEL_EXITED
from mlflow_restaurant.replica import model_guard


class Model:
    """Answers with what `predict` is told to do."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def predict(self) -> Any:
        return self.act()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_model_that_tries_to_end_the_process_fails_and_is_reported(error: BaseException) -> None:
    def act() -> None:
        raise error

    model = Model(act)
    reported: list[BaseException] = []
    guard = model_guard.Guard(None)
    guard.on_exit = reported.append
    guard.guard(model)

    assert model_guard.ModelExited.__name__.encode() == MODEL_EXITED  # what gateways look for
    with pytest.raises(model_guard.ModelExited, match=type(error).__name__):
        model.predict()
    assert reported == [error]


@pytest.mark.parametrize(("in_turn", "most"), [(True, 1), (False, 2)])
def test_predictions_whose_turn_it_is_are_made_one_at_a_time(in_turn: bool, most: int) -> None:
    running, seen, both = [0], [0], threading.Barrier(2)

    def act() -> None:
        running[0] += 1
        seen[0] = max(seen[0], running[0])
        with contextlib.suppress(threading.BrokenBarrierError):  # nobody else comes where it is one at a time
            both.wait(0.2 if in_turn else 30)
        running[0] -= 1

    model = Model(act)
    guard = model_guard.Guard(None)
    guard.guard(model)
    outer = Model(model.predict)  # as a shortcut, within which the model predicts
    guard.guard(outer)

    def predict() -> None:
        model_guard.IN_TURN.set(in_turn)
        outer.predict()

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [most]


def test_one_that_takes_long_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_guard, "TURN_WAIT_S", 0.05)
    begun, go_on = threading.Event(), threading.Event()

    def act() -> str:
        if threading.current_thread().name == "long":
            begun.set()
            assert go_on.wait(30)
        return "done"

    model = Model(act)
    guard = model_guard.Guard(None)
    guard.guard(model)
    outer = Model(model.predict)
    guard.guard(outer)

    def predict() -> str:
        model_guard.IN_TURN.set(True)
        return str(outer.predict())

    long = threading.Thread(target=predict, name="long")
    long.start()
    assert begun.wait(30)
    assert contextvars.copy_context().run(predict) == "done"
    go_on.set()
    long.join()
    assert not guard.turn.locked()


def test_an_ordinary_error_passes() -> None:
    def act() -> None:
        raise ValueError("no")

    model = Model(act)
    model_guard.Guard(None).guard(model)

    with pytest.raises(ValueError, match="no"):
        model.predict()


def test_each_thread_that_predicts_limits_numerical_libraries() -> None:
    import sklearn.utils._openmp_helpers  # noqa: F401  (loads OpenMP)
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads() -> set[tuple[str, int]]:
        return {(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()}

    found = []
    with threadpool_limits(limits=None):
        model = Model(lambda: found.append(threads()))
        model_guard.Guard(1).guard(model)
        for _ in range(2):
            thread = threading.Thread(target=model.predict)
            thread.start()
            thread.join()

    assert {("blas", 1), ("openmp", 1)} <= found[0]
    assert found[0] == found[1]
