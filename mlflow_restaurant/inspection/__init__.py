"""Showing what a saved bundle holds, without running any of its code."""
