"""Measures this package, `mlflow models serve` and other model servers on one machine: `python -m benchmarks`."""
