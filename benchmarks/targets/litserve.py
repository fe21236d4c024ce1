"""LitServe, with batching."""

from __future__ import annotations

from benchmarks.targets.scripted import APPS, Scripted


class LitServe(Scripted):
    title = "LitServe"
    distribution = "litserve"
    command = ("python", str(APPS / "litserve_app.py"))
