"""Draw docs/demo.svg: the demo as a terminal shows it, from a real run."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from mlflow_restaurant.demo import run_demo

WEB_FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)

if __name__ == "__main__":
    console = Console(record=True, width=96, force_terminal=True, file=io.StringIO(), highlight=False)
    run_demo(None, False, None, console)
    picture = console.export_svg(title="mlflow-restaurant demo")
    Path(__file__).with_name("demo.svg").write_text(WEB_FONTS.sub("", picture), encoding="utf-8")
