"""Run one job in a fresh interpreter: ``python -m mlflow_restaurant.process.spawn JOB ARGUMENTS STATUS_FD``."""

from __future__ import annotations

import json
import os
import sys

from mlflow_restaurant.process.forkserver import load_job, quiet_environment, reporter
from mlflow_restaurant.process.lease import end_with


def main(argv: list[str]) -> int:
    """Run the job and return its exit status."""
    job, arguments, status_fd = argv
    for name, value in quiet_environment().items():
        os.environ.setdefault(name, value)
    args = json.loads(arguments)
    if "record" in args:
        end_with(args["record"])
    return load_job(job)(args, reporter(int(status_fd)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
