"""Rounds: admission, exact sums, releases, replay."""
