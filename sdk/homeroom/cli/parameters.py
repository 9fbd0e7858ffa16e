"""Types of values on the command line: finite numbers no larger than the contracts can write, folders, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

LARGEST_WHOLE = (1 << 62) - 1  # a whole number that MessagePack, JSON and SQLite all hold


class Finite(click.FloatRange):
    """A number that is neither infinite nor nan: nan passes every comparison of `click.FloatRange`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A finite number in the range, or a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Folder(click.Path):
    """A folder's path; an empty one, such as that of a variable that is not set, does not stand for the one at hand."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A path with a name, or a usage error."""
        if not str(value):
            self.fail("an empty name is no folder; `.` is the one you are in.", param, ctx)
        return super().convert(value, param, ctx)


class Whole(click.IntRange):
    """A whole number from `least` to LARGEST_WHOLE."""

    def __init__(self, least: int) -> None:
        super().__init__(least, LARGEST_WHOLE)


FOLDER = Folder()
FILE = click.Path(dir_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
