"""The input example of a revision's model, as a replica scores it: before the revision serves, and ever after."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from mlflow_restaurant.control.artifacts import EXAMPLE_FILE
from mlflow_restaurant.control.batching import (
    EQUAL_ROWS,
    ONE_ROW,
    ROWS_COMPARED,
    disagreement,
    needs_comparison,
)
from mlflow_restaurant.control.golden import strays
from mlflow_restaurant.control.replica_client import call_replica, error_message
from mlflow_restaurant.entities import Revision
from mlflow_restaurant.errors import RestaurantError
from mlflow_restaurant.gateway.scoring import predictions_of, rows_of
from mlflow_restaurant.home import Home


class Example:
    """What one replica makes of the example; where there is none, nothing.

    Args:
        home: has the model's files.
        on_stray: told why, when the replica's answer is not the golden one.

    Attributes:
        answers: those before the revision served.
        disagreement: how rows score otherwise alone than together; empty if they don't, None if that was not looked at.
        stray: why the replica's answer is not the golden one; empty if it is.
    """

    def __init__(self, home: Home, on_stray: Callable[[str], None]) -> None:
        self.home, self.on_stray = home, on_stray
        self.answers: list[bytes] = []
        self.disagreement: str | None = None
        self.stray = ""

    async def must_score(self, revision: Revision, socket: Path) -> None:
        """Score it for a revision that does not serve yet: twice, and its rows alone where that decides on merging.

        Raises:
            RestaurantError: it does not score.
        """
        self.stray = ""
        if not revision.artifact.has_example:
            return
        body = self._body(revision)
        answer = await self._score(revision, socket, body)
        self._compare_with_golden(revision, answer)
        self.answers = [answer, await self._score(revision, socket, body)]
        if needs_comparison(revision.config.batching, revision.artifact.batch_facts):
            self.disagreement = await self._compare_rows(revision, socket, body, answer)

    async def scored_again(self, revision: Revision, socket: Path) -> None:
        """Score it with a process that takes another's place: it must still give the golden answer, or else `stray` says so."""
        self.stray = ""
        if _has_golden(revision):
            try:
                self._compare_with_golden(revision, await self._score(revision, socket, self._body(revision)))
            except RestaurantError as e:
                self._strays(str(e))

    async def looked_at(self, revision: Revision, socket: Path) -> None:
        """See whether a process that was taken over still gives the golden answer; one that is too busy is left alone."""
        if _has_golden(revision):
            with contextlib.suppress(RestaurantError, OSError):
                self._compare_with_golden(revision, await self._score(revision, socket, self._body(revision)))

    def _body(self, revision: Revision) -> bytes:
        return (self.home.models / revision.artifact.digest / EXAMPLE_FILE).read_bytes()

    async def _score(self, revision: Revision, socket: Path, body: bytes) -> bytes:
        status, answer = await call_replica(socket, "/invocations", body, revision.config.timeout_s)
        if status != 200:
            raise RestaurantError(f"the model does not score its own input example: {error_message(answer)}")
        return answer

    def _compare_with_golden(self, revision: Revision, answer: bytes) -> None:
        if revision.golden is not None and (where := strays(revision.golden, answer)):
            self._strays(f"its answer to the model's input example is not the golden one any more: {where}")

    def _strays(self, reason: str) -> None:
        self.stray = reason
        self.on_stray(reason)

    async def _compare_rows(self, revision: Revision, socket: Path, example: bytes, answer: bytes) -> str:
        """Say how the first rows of the input example score otherwise alone than together; empty if they don't."""
        rows = rows_of(example)
        if not rows:
            return "the rows of its input example can't be told apart"
        if len(rows) == 1:
            return ONE_ROW
        compared = rows[:ROWS_COMPARED]
        if len(set(compared)) == 1:
            return EQUAL_ROWS
        try:
            alone = [predictions_of(await self._score(revision, socket, row)) for row in compared]
        except RestaurantError as e:
            return f"a row of its input example alone fails: {e}"
        return disagreement(predictions_of(answer), alone)


def _has_golden(revision: Revision) -> bool:
    return revision.golden is not None and revision.artifact.has_example
