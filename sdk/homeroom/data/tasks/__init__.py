"""Kinds of task: targets and metrics."""
