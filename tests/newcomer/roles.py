"""The roles: which blocks of which page a newcomer types, what they have before, and what must be there afterwards."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from doc_blocks import DOCS, blocks, commands

from homeroom.quickstart.drawings import THINGS, draw
from homeroom_aggregator.admin.folder import open_rounds

Check = Callable[[Path, str], bool]


@dataclass(frozen=True)
class Role:
    """What one newcomer does.

    extras: with which Homeroom is in the environment; None: not at all, so that installing it is one of the commands.
    lines: what is typed: shell commands, or "python: CODE", or "notebook: PATH", each from a page.
    limit: the largest number of commands (lines, of an app), by the issue that asked for this.
    limit_s: the longest time, where one was asked for.
    prepare: what they have in their folder, beside the starter bundle and the wheel.
    reached: whether what they wanted is there, from the folder and what was printed.
    """

    name: str
    wants: str
    page: str
    extras: str | None
    lines: tuple[str, ...]
    limit: int
    reached: Check
    limit_s: float | None = None
    counts: str = "commands"
    prepare: Callable[[Path], None] = lambda folder: None


def typed(page: str, holds: str, last: str = "") -> tuple[str, ...]:
    """Commands of a page from the first one that begins with `holds` to the next that begins with `last`."""
    lines = [line.strip() for block in blocks(DOCS / page) for line in commands(block)]
    start = next(number for number, line in enumerate(lines) if line.startswith(holds))
    end = next(number for number, line in enumerate(lines) if number >= start and line.startswith(last or holds))
    return tuple(lines[start : end + 1])


def first_python(page: str) -> str:
    """The first Python block of a page."""
    return next(block.text for block in blocks(DOCS / page) if block.language == "python")


INSTALLED = typed("quickstart.md", "pip install", "homeroom quickstart")
WHEEL = INSTALLED[0].split()[-1]  # as the page names it


def pictures(folder: Path) -> None:
    """Ten pictures of each of four kinds in folders named by them, and one that is in none."""
    for thing in THINGS:
        for variant in (0, 1):
            path = folder / "pictures" / thing.kind / f"{thing.name}-{variant}.svg".replace(" ", "-")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw(thing.shape, variant))
    (folder / "question.svg").write_bytes(draw(THINGS[0].shape, 2))


def sheets(folder: Path) -> None:
    """The files that the tutorial of three schools shows."""
    for block in blocks(DOCS / "tutorials" / "three-schools.md"):
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")


def merged(folder: Path, _: str) -> bool:
    """Whether a version of three schools is there and can be recomputed."""
    with contextlib.closing(open_rounds(folder / "district")) as rounds:
        return rounds.state.version == 1 and rounds.verify() == []


def explained(_: Path, said: str) -> bool:
    """Whether an answer was printed with its reason."""
    return "\n  For it: " in said.partition("why, for a drawing with its word:")[2]


def names_a_kind(_: Path, said: str) -> bool:
    """Whether an answer was printed that is one of the lesson's labels."""
    kinds = {thing.kind for thing in THINGS}
    return any(line.split(" (")[0].removeprefix("kind: ").strip() in kinds for line in said.splitlines())


def notebook(folder: Path) -> None:
    shutil.copy(DOCS / "notebooks" / "twenty_schools.ipynb", folder)


ROLES = (
    Role(
        "technician",
        "a first explained answer",
        "quickstart.md",
        None,
        INSTALLED,
        limit=2,
        limit_s=180,
        reached=explained,
    ),
    Role(
        "app-maker",
        "an answer in a program",
        "tutorials/app.md",
        "",
        (f"python: {first_python('tutorials/app.md')}",),
        limit=10,
        counts="lines",
        reached=names_a_kind,
    ),
    Role(
        "lesson-maker",
        "a bundle that answers, from a folder of pictures",
        "tutorials/own-model.md",
        "[exporter]",
        typed("tutorials/own-model.md", "homeroom bundle recipe new", "homeroom device predict"),
        limit=3,
        prepare=pictures,
        reached=names_a_kind,
    ),
    Role(
        "officer",
        "a merged version of three schools",
        "tutorials/three-schools.md",
        "[aggregator]",
        typed("tutorials/three-schools.md", "homeroom district init", "homeroom device run mill/"),
        limit=8,
        prepare=sheets,
        reached=merged,
    ),
    Role(
        "researcher",
        "a plot of twenty schools",
        "notebooks/twenty_schools.ipynb",
        "[aggregator]",
        ("notebook: twenty_schools.ipynb",),
        limit=1,
        counts="notebooks",
        prepare=notebook,
        reached=lambda _, said: said.count("a picture of ") == 2,
    ),
    Role(
        "offline-installer",
        "Homeroom on a machine without a network",
        "howto/offline-wheels.md",
        None,
        typed("howto/offline-wheels.md", "python -m pip download", "homeroom --version"),
        limit=3,
        reached=lambda folder, said: any((folder / "wheels").glob("homeroom-*")) and "homeroom, version 0." in said,
    ),
)
