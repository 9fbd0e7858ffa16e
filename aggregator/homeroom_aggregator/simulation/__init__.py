"""Federations of simulated schools in one process."""
