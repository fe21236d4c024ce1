"""Build sdist and wheel, install the wheel into a fresh environment outside the checkout, and run the demo from it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
NEEDED = (
    "mlflow_restaurant/py.typed",
    "mlflow_restaurant/data/emails.csv",
    "mlflow_restaurant/control/migrations/versions/0001_initial.py",
)


def run(*command: str | Path, cwd: Path) -> None:
    print("$", *command, flush=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([str(part) for part in command], cwd=cwd, env=clean, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="package-") as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", folder, CHECKOUT, cwd=folder)
        (wheel,) = folder.glob("*.whl")
        (_,) = folder.glob("*.tar.gz")
        missing = set(NEEDED) - set(zipfile.ZipFile(wheel).namelist())
        if missing:
            sys.exit(f"{wheel.name} lacks {', '.join(sorted(missing))}")
        run("uv", "venv", "--python", sys.executable, folder / "fresh", cwd=folder)
        python = folder / "fresh" / "bin" / "python"
        run("uv", "pip", "install", "--quiet", "--python", python, wheel, cwd=folder)
        run(folder / "fresh" / "bin" / "mlflow-restaurant", "demo", cwd=folder)


if __name__ == "__main__":
    main()
