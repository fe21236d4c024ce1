"""How replicas share out the cores of the machine."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_restaurant.config import DeploymentConfig
from mlflow_restaurant.control import cores as sharing


@pytest.mark.parametrize(
    ("options", "cores", "threads"),
    [
        ({}, 8, 7),
        ({}, 1, 1),
        ({"replicas": 3}, 8, 2),
        ({"replicas": 16}, 8, 1),
        ({"replicas": 4, "threads": "3"}, 8, 3),
        ({"env.OMP_NUM_THREADS": "2"}, 8, None),
        ({"env.OMP_NUM_THREADS": "2", "threads": 5}, 8, 5),
    ],
)
def test_replicas_share_out_the_cores(
    options: dict[str, Any], cores: int, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_cores", lambda: cores)
    assert sharing.threads_of(DeploymentConfig.from_options(options)) == threads
