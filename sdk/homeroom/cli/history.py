"""`homeroom device history`: past installs and trainings, with the scores by task beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from homeroom.cli.options import as_json, hint, plain, print_record, readable, say
from homeroom.cli.parameters import FOLDER
from homeroom.system.installation import quoted
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.data.tasks.metrics import Score
    from homeroom.device.history import HistoryEntry


@click.command()
@click.argument("directory", type=FOLDER)
@as_json
def history(directory: Path) -> None:
    """List past installs and trainings with the scores by task of each, the newest last."""
    with readable(directory) as device:
        found = device.history()
    print_record(plain(found))
    tasks = list(dict.fromkeys(task for entry in found.entries for task, score in entry.scores.items() if score.n))
    rows = [["", "", *tasks], *([*_what(entry), *_scores(entry, tasks)] for entry in found.entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows[not tasks :]:
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    if not found.entries:
        say("nothing was trained or installed yet")
    elif found.since:
        say("shares that are right, and errors of numbers, each of the samples that its training kept to judge by")
        say(f"scores are kept since {found.since[:10]}")
        if any(entry.held and not entry.in_use for entry in found.entries):
            hint(f"homeroom device undo {quoted(directory)}: go back to the one before")
    else:
        say("scores are kept from the next training on")


def _what(entry: HistoryEntry) -> tuple[str, str]:
    when = entry.at[:16].replace("T", " ")
    if entry.samples is None:
        return when, f"installed {entry.bundle}".strip()
    start = f" from global version {entry.base}" if entry.base else ""
    return when, f"trained on {counted(entry.samples, 'sample')}{start}{', in use' if entry.in_use else ''}"


def _scores(entry: HistoryEntry, tasks: list[str]) -> list[str]:
    scored = {task: score for task, score in entry.scores.items() if score.n}
    return [f"{_figure(scored[task])} of {scored[task].n:,}" if task in scored else "-" for task in tasks]


def _figure(score: Score) -> str:
    """The share that is right, or the mean absolute error of numbers."""
    if score.accuracy is not None:
        return f"{score.accuracy:.0%}"
    return f"skill {score.value:.2f}" if score.mae is None else f"MAE {score.mae:.3g}"
