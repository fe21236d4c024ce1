"""Saving bundles: their directory, the trial in a fresh process, requirements, and the profile of reference data."""
