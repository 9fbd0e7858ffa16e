"""Tables for people and lines of JSON for programs, of what a command lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from homeroom.cli.options import MACHINE, asked, escaped, json_option, one_line

as_json_lines = json_option("Print one JSON object a line.")
Column = tuple[str, Callable[[Mapping[str, Any]], object]]


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], nothing: str) -> None:
    """Print rows as aligned columns, a title and a cell's text each; with `--json` as objects. nothing: if no row."""
    if asked(MACHINE):
        for row in rows:
            click.echo(escaped(json.dumps(row, ensure_ascii=False)))
        return
    from rich.cells import cell_len  # of the extra `aggregator`: help is there without it

    cells = [[one_line(str(text(row) or "-")) for _, text in columns] for row in rows]
    lines = [[title for title, _ in columns], *cells] if cells else [[nothing]]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def day(moment: str | None) -> str:
    """The day of an ISO 8601 time; empty where there is none."""
    return (moment or "")[:10]
