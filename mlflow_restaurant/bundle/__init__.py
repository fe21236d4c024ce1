"""Bundles: what one is, how it predicts, and how a saved one is read.

This folder travels as a whole inside every saved bundle, so it imports nothing of the rest of the package, and stays
below 100 kB. Without MLflow it needs the standard library, NumPy and pandas.
"""

from .bundle import Bundle, BundleError, Step, StepError

__all__ = ["Bundle", "BundleError", "Step", "StepError"]
