"""Samples from files: JSON Lines, CSV, or a folder; one module a form."""
