"""Budgets and measured costs of this machine."""
