"""Ray Serve, with `serve.batch`."""

from __future__ import annotations

from benchmarks.targets.scripted import APPS, Scripted


class RayServe(Scripted):
    title = "Ray Serve"
    distribution = "ray"
    extra = "[serve]"
    command = ("python", str(APPS / "ray_app.py"))
