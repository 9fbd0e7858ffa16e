"""The starter lesson: forty samples to learn from, others to be asked about, and calibration samples for the bundle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from homeroom.quickstart.drawings import SCRIBBLE, THINGS, Thing, draw
from homeroom.quickstart.sounds import recording
from homeroom.system.files import make_directory, open_private

TASK = "kind"
TAUGHT, ASKED, ASKED_SOUNDS, CALIBRATION = (0, 1), (2,), (9,), tuple(range(3, 9))  # variants; no two parts share one
LANGUAGES = ("en", "es", "fr")
SENTENCES = {"en": ("the {}", "a {}"), "es": ("{}", "un dibujo: {}"), "fr": ("{}", "un dessin : {}")}


def write_samples(
    folder: Path,
    variants: Iterable[int],
    languages: Iterable[str] = ("en",),
    things: Iterable[int] = range(len(THINGS)),
) -> Path:
    """Writes samples as JSON Lines with their media beside it; the path of that file.

    folder: is made, and may hold other files.
    variants: of each of the twenty things.
    languages: of the words, in turn.
    things: indices in THINGS.
    """
    media, spoken = folder / "media", tuple(languages)
    make_directory(media)
    shown = [THINGS[number] for number in things]
    rows = [_row(media, thing, variant, spoken[variant % len(spoken)]) for variant in variants for thing in shown]
    path = folder / "samples.jsonl"
    return write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes JSON Lines; the path."""
    write_private(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())
    return path


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that is not there yet."""
    with open_private(path, exclusive=True) as file:
        file.write(content)


def _row(media: Path, thing: Thing, variant: int, language: str) -> dict[str, Any]:
    """One sample. Every second variant has a sound; subjects are four made-up pupils."""
    name = f"{thing.name.replace(' ', '-')}-{variant}"
    write_private(media / f"{name}.svg", draw(thing.shape, variant))
    word = SENTENCES[language][variant % 2].format(thing.words[language])
    row = {"word": word, "picture": f"media/{name}.svg", "labels": {TASK: thing.kind}}
    if variant % 2:
        write_private(media / f"{name}.wav", recording(thing.kind, variant + len(thing.name)))
        row["sound"] = f"media/{name}.wav"
    return {**row, "subject": f"pupil-{(THINGS.index(thing) + variant) % 4 + 1}"}


def write_nothing(folder: Path) -> Path:
    """Writes a drawing of nothing in particular, which no answer should be sure of; its path."""
    make_directory(folder)
    path = folder / "nothing.svg"
    write_private(path, draw(SCRIBBLE, 1))
    return path
