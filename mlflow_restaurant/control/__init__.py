"""Decides what should run and makes it so."""
