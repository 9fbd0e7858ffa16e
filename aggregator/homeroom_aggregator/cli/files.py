"""Files and folders as arguments of the aggregator's commands."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.numbers import Folder
from homeroom.errors import InputError

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = Folder()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None
