"""Which commands change something now: one at a time for each deployment, and what becomes of one that is given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from mlflow_restaurant.control.controller import Controller
from mlflow_restaurant.control.jobs import Progress
from mlflow_restaurant.errors import Cancelled, Conflict


class Operations:
    """The changes under way.

    Attributes:
        running: by deployment, the task that changes it.
        fetching: the deployments among them whose next model is being fetched, so that it has no revision yet.
        deleting: those that are being deleted.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.running: dict[str, asyncio.Task[Any]] = {}
        self.fetching: set[str] = set()
        self.deleting: set[str] = set()
        self._told: dict[asyncio.Task[Any], str] = {}
        """By task that was given up: what its caller hears."""

    def refuse_while_deleted(self, name: str) -> None:
        """Refuse what can't be done to a deployment that is being deleted.

        Raises:
            Conflict: it is.
        """
        if name in self.deleting:
            raise Conflict(f"Deployment '{name}' is being deleted; wait until that is done.")

    async def turn(self, name: str, progress: Progress, *, wait: bool) -> None:
        """Wait, if asked to, until nothing else changes a deployment.

        Raises:
            Conflict: something does, and it is not waited for.
        """
        while name in self.running or name in self.controller.rollouts:
            if not wait:
                raise Conflict(
                    f"Deployment '{name}' is being updated; wait until that is done (-C wait=true, or --wait), or give"
                    f" that up with 'mlflow-restaurant abort {name}'."
                )
            progress("waiting for the change that is under way")
            rollout = self.controller.rollouts.get(name)
            if name in self.running:
                await self.ended(name)
            elif rollout is not None:
                await rollout.ended.wait()
            await asyncio.sleep(0)

    async def ended(self, name: str) -> None:
        """Wait for the end of what changes a deployment, if something does."""
        if name in self.running:
            await asyncio.wait([self.running[name]])

    def give_up(self, name: str, told: str) -> None:
        """End what changes a deployment; its caller is told why."""
        task = self.running[name]
        if task not in self._told:
            self._told[task] = told
            task.cancel()

    @contextlib.contextmanager
    def begun(self, name: str) -> Iterator[None]:
        """Be what changes a deployment, until the end of the block.

        Raises:
            Cancelled: it was given up.
        """
        task = asyncio.current_task()
        assert task is not None
        assert name not in self.running, name
        self.running[name] = task
        try:
            with self.controller.models.changing():
                yield
        except asyncio.CancelledError:
            if task in self._told:
                raise Cancelled(self._told[task]) from None
            raise
        finally:
            self._told.pop(task, None)
            del self.running[name]
