"""How much is done in each scenario."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How much is done.

    Attributes:
        seconds: of load under each fault, at least.
        updates: in a row.
        megabytes: that a model prints.
        repetitions: of what is measured without load.
        deployments, minutes: that are called at random.
    """

    seconds: float
    updates: int
    megabytes: int
    repetitions: int
    deployments: int
    minutes: float


FULL = Form(60.0, updates=50, megabytes=1000, repetitions=10, deployments=200, minutes=10.0)
SHORT = Form(1.0, updates=2, megabytes=100, repetitions=1, deployments=20, minutes=0.1)
