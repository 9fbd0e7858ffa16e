"""Numbers on the command line: finite, and no larger than the contracts can write."""

from __future__ import annotations

import math
from typing import Any

import click

MOST = (1 << 62) - 1  # a whole number that MessagePack, JSON and SQLite all hold


class Finite(click.FloatRange):
    """A number that is neither infinite nor nan: nan passes every comparison of `click.FloatRange`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


class Whole(click.IntRange):
    """A whole number from `least` to MOST."""

    def __init__(self, least: int) -> None:
        super().__init__(least, MOST)
