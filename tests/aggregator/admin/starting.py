"""Starts of the true command `homeroom district serve` on a folder, and what a folder holds."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click
import msgspec
from click.testing import CliRunner

from homeroom.cli.main import homeroom
from homeroom_aggregator.admin.folder import open_rounds


def start(folder: Path, *words: object) -> click.testing.Result:
    port = [] if "--port" in words else ["--port", "0"]
    return CliRunner().invoke(homeroom, ["district", "serve", str(folder), *port, *map(str, words)])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the database's own, and what the log has come to."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and "log." not in path.name}
    with closing(open_rounds(folder)) as rounds:
        return found | {"log": msgspec.json.encode([rounds.log.last(), rounds.configuration])}
