"""What the README shows runs as it stands there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlflow.deployments import get_deploy_client

from mlflow_restaurant.home import Home

from ..support import run_python

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "examples" / "ten_lines.py"


def test_the_example_is_the_one_of_the_readme() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## Ten lines\n\n```python\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    assert EXAMPLE.read_text(encoding="utf-8").endswith(block.group(1))


def test_the_ten_lines_predict(home: Home, tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "MLFLOW_RESTAURANT_HOME": str(home.path),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db",
    }
    assert "'predictions': ['spam']" in run_python(str(EXAMPLE), folder=tmp_path, env=environ)
    (deployment,) = get_deploy_client(f"restaurant:{home.path}").list_deployments()
    assert deployment["model_version"] == "1"
