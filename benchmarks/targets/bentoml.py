"""BentoML, with adaptive batching."""

from __future__ import annotations

from benchmarks.targets.scripted import APPS, Scripted


class BentoML(Scripted):
    title = "BentoML"
    distribution = "bentoml"
    body_format = "rows"
    command = (
        "bentoml",
        "serve",
        "bentoml_service:Service",
        "--working-dir",
        str(APPS),
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
    )
