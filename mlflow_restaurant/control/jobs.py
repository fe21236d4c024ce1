"""Short jobs of the controller: fetching a model, building an environment. Each is a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow_restaurant import errors
from mlflow_restaurant.entities import ModelArtifact, Revision
from mlflow_restaurant.errors import DeployFailed, RestaurantError
from mlflow_restaurant.home import Home
from mlflow_restaurant.process.child import Child
from mlflow_restaurant.process.faults import fault_point
from mlflow_restaurant.process.fork_launcher import ForkLauncher
from mlflow_restaurant.process.launcher import Launcher, needs_fresh_process
from mlflow_restaurant.process.records import record_path, remove_record, write_record
from mlflow_restaurant.process.spawn_launcher import SpawnLauncher

Progress = Callable[[str], None]


class Jobs:
    """Runs jobs, and picks how a revision's replicas are started."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.fork = ForkLauncher(home)
        self.activations: dict[tuple[str, str], list[str]] = {}

    async def fetch(
        self,
        deployment: str,
        *,
        model_uri: str,
        tracking_uri: str | None,
        registry_uri: str | None,
        flavor: str | None,
        env_manager: str,
        environ: Mapping[str, str],
        progress: Progress,
    ) -> ModelArtifact:
        """Bring a model into the cache.

        Args:
            deployment: whose log gets the output.
            environ: variables of the caller (stores, credentials) that hold for this job only.

        Raises:
            RestaurantError: the model can't be found, fetched or served.
        """
        args = {
            "model_uri": model_uri,
            "tracking_uri": tracking_uri,
            "registry_uri": registry_uri,
            "models": str(self.home.models),
            "flavor": flavor,
            "env_manager": env_manager,
        }
        message = await self._run("fetch", args, deployment, environ, progress)
        if "failed" in message:
            raise _fetch_error(message)
        return ModelArtifact.model_validate(message["result"])

    async def log_trial(
        self, deployment: str, args: Mapping[str, Any], environ: Mapping[str, str]
    ) -> dict[str, str]:
        """Log the report of a trial; returns ``run_id`` and ``experiment_id``.

        Args:
            args: see `trial_run.main`.
            environ: as for `fetch`.

        Raises:
            RestaurantError: the tracking server does not take it.
        """
        message = await self._run("trial_run", args, deployment, environ, lambda _: None)
        if "failed" in message:
            raise RestaurantError(message["failed"])
        result: dict[str, str] = message["result"]
        return result

    async def launcher_for(self, revision: Revision, progress: Progress = lambda _: None) -> Launcher:
        """Return the launcher for the replicas of a revision, once its environment is there."""
        manager = revision.artifact.env_manager
        if manager != "local":
            return SpawnLauncher(await self._activation(revision, progress))
        return SpawnLauncher() if needs_fresh_process(revision.config.env) else self.fork

    async def _activation(self, revision: Revision, progress: Progress) -> list[str]:
        key = (revision.artifact.digest, revision.artifact.env_manager)
        if not _is_there(self.activations.get(key)):
            progress(f"preparing the {key[1]} environment")
            args = {
                "model": str(self.home.models / revision.artifact.digest),
                "env_manager": key[1],
                "locks": str(self.home.run),
                "log": str(self.home.deployment_log(revision.deployment)),
            }
            message = await self._run("environment", args, revision.deployment, {}, progress)
            if "failed" in message:
                raise DeployFailed(f"the {key[1]} environment could not be built: {message['failed']}")
            self.activations[key] = message["activate"]
        return self.activations[key]

    async def _run(
        self,
        job: str,
        args: Mapping[str, Any],
        deployment: str,
        environ: Mapping[str, str],
        progress: Progress,
    ) -> dict[str, Any]:
        launcher: Launcher = SpawnLauncher() if needs_fresh_process(environ) else self.fork
        key = f"j-{secrets.token_hex(3)}"
        child = await launcher.launch(
            job,
            {**args, "record": str(record_path(self.home.records, key))},
            log=self.home.deployment_log(deployment),
            env=environ,
            title=f"mlflow_restaurant {job} {deployment}",
        )
        try:
            with contextlib.suppress(ProcessLookupError):  # it may be done already
                write_record(self.home.run, "job", key, child.pid)
            message = await _last_message(child, progress)
            fault_point(f"{job}: done")
            return message
        finally:
            await asyncio.shield(self._put_away(child, key))

    async def _put_away(self, child: Child, key: str) -> None:
        await child.end()
        remove_record(self.home.run, key)


def _is_there(activation: list[str] | None) -> bool:
    """Tell whether an environment that was built is still where it was."""
    if activation is None:
        return False
    scripts = [words[1] for words in map(shlex.split, activation) if words[0] == "source" and len(words) > 1]
    return all(Path(script).exists() for script in scripts)


async def _last_message(child: Child, progress: Progress) -> dict[str, Any]:
    while True:
        message = await child.next_message()
        if message is None:
            raise RestaurantError(
                f"A helper process ended unexpectedly (status {await child.wait()}); see the log."
            )
        if "progress" not in message:
            return message
        progress(message["progress"])


def _fetch_error(message: Mapping[str, str]) -> RestaurantError:
    kinds: dict[str, type[RestaurantError]] = {
        cls.error_code: cls for cls in (errors.InvalidRequest, errors.DoesNotExist)
    }
    text = message["failed"]
    return kinds.get(message["code"], DeployFailed)(text if text.endswith(".") else f"{text}.")
