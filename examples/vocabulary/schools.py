"""The five schools of the lesson, which differ in senses, language, size and what they teach.

Each school's samples are written to a folder of its own: JSON Lines, and beside them the pictures and sounds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.vocabulary.media import bring, draw
from examples.vocabulary.splits import Row, share
from examples.vocabulary.stamps import Stamp

PUPILS = 12  # a school; whole groups of stamps go to one pupil
CHOICES = 4
REPEATS = 2  # exercises made of one stamp, with other wrong options each

Pair = tuple[Stamp, Row]


@dataclass(frozen=True)
class School:
    """`senses`: what its samples carry; `stamps`: how many it teaches; `mix`: Dirichlet parameter of its categories."""

    name: str
    language: str
    senses: tuple[str, ...]
    stamps: int
    mix: float


SCHOOLS = (
    School("Hillside", "en", ("word", "picture"), 170, 2.0),  # no sound
    School("Puerto", "es", ("word", "speech"), 160, 2.0),  # no pictures
    School("Lavande", "fr", ("word", "picture", "speech"), 170, 2.0),
    School("Mirador", "es", ("word", "picture", "speech"), 60, 1.0),  # few
    School("Brook", "en", ("word", "picture"), 30, 1.0),  # very few
)


def deal(pairs: Sequence[Pair], seed: int, schools: Sequence[School] = SCHOOLS) -> dict[str, list[Pair]]:
    """The training stamps of each school: no group in two schools, categories mixed by a Dirichlet draw."""
    rng = np.random.default_rng([seed, 1])
    left: dict[str, list[list[Pair]]] = {}
    by_group: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair[1].part == "train":
            by_group.setdefault(pair[1].group, []).append(pair)
    for members in by_group.values():
        left.setdefault(members[0][0].category, []).append(members)
    for groups in left.values():
        rng.shuffle(groups)
    categories = sorted(left)
    dealt: dict[str, list[Pair]] = {school.name: [] for school in schools}
    for school in sorted(schools, key=lambda s: s.stamps):  # the small ones choose first
        chances = rng.dirichlet([school.mix] * len(categories))
        while len(dealt[school.name]) < school.stamps and any(left.values()):
            open_ = np.array([bool(left[c]) for c in categories])
            weights = np.where(open_, chances + 1e-3, 0)
            category = categories[rng.choice(len(categories), p=weights / weights.sum())]
            dealt[school.name] += [p for p in left[category].pop() if has(p[0], school)]
    return dealt


def has(stamp: Stamp, school: School) -> bool:
    return school.language in stamp.captions and ("speech" not in school.senses or school.language in stamp.sounds)


def exercises(school: School, pairs: Sequence[Pair], seed: int, *, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """Samples as they are written, media as paths; wrong options are other words of the same pairs, of other groups."""
    rng = np.random.default_rng([seed, 2, *school.name.encode()])
    rows = []
    for stamp, row in pairs:
        said = stamp.captions[school.language]
        others = [p for p in pairs if p[1].group != row.group and p[0].captions[school.language] != said]
        if len(others) < CHOICES:
            continue
        for repeat in range(repeats):
            wrong = [others[i][0] for i in rng.choice(len(others), CHOICES - 1, replace=False)]
            place = int(rng.integers(CHOICES))
            options = [*wrong[:place], stamp, *wrong[place:]]
            rows.append(exercise(school, stamp, row, options, place, repeat))
    return rows


def exercise(
    school: School, stamp: Stamp, row: Row, options: Sequence[Stamp], place: int, repeat: int
) -> dict[str, Any]:
    """One sample, media as paths. place: of the stamp among the options; repeat: 0 of its first exercise."""
    language, senses = school.language, school.senses
    sample: dict[str, Any] = {
        "labels": {"category": stamp.category},
        "subject": f"pupil-{int(share('pupil', row.group) * PUPILS) + 1:02d}",
        "language": language,
        "source": stamp.name,
    }
    if "word" in senses:
        sample["word"] = stamp.captions[language]
    if "picture" in senses:
        sample["picture"] = stamp
    if "speech" in senses:
        sample["speech"] = stamp
    if {"word", "picture"} <= set(senses):
        sample["pictures"] = list(options)
        sample["labels"]["picture_of_word"] = place
    if {"word", "speech"} <= set(senses):
        sample["words"] = [option.captions[language] for option in options]
        sample["labels"]["word_of_speech"] = place
    if repeat:
        # The category was asked in the first exercise with this stamp.
        del sample["labels"]["category"]
    return sample


def write(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write samples as JSON Lines to `path` and what they show or play beside it."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in rows:
        line = dict(row)
        if "picture" in row:
            line["picture"] = _picture(row["picture"], folder)
        if "pictures" in row:
            line["pictures"] = [_picture(stamp, folder) for stamp in row["pictures"]]
        if "speech" in row:
            stamp, language = row["speech"], row["language"]
            line["speech"] = bring(stamp.sounds[language], folder, f"{stamp.name}.{language}")
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), "utf-8")
    return path


def _picture(stamp: Stamp, folder: Path) -> str:
    return bring(stamp.picture, folder, stamp.name)


def write_all(
    pairs: Sequence[Pair], folder: Path, seed: int, schools: Sequence[School] = SCHOOLS
) -> dict[str, dict[str, Path]]:
    """Write {school: {"train", "test"}} and return the paths; a school is tested on all test stamps it can use.

    "everything" holds the training samples of all schools, for the comparison with all data in one place.
    """
    draw({stamp.picture for stamp, _ in pairs})
    dealt = deal(pairs, seed, schools)
    written: dict[str, dict[str, Path]] = {}
    everything = []
    for school in schools:
        test = [pair for pair in pairs if pair[1].part == "test" and has(pair[0], school)]
        train = exercises(school, dealt[school.name], seed)
        everything += [{**row, "subject": f"{school.name} {row['subject']}"} for row in train]
        written[school.name] = {
            "train": write(train, folder / school.name / "train.jsonl"),
            # The test does not depend on the seed, so that seeds differ by their schools alone.
            "test": write(exercises(school, test, 0, repeats=1), folder / school.name / "test.jsonl"),
        }
    written["everything"] = {"train": write(everything, folder / "everything" / "train.jsonl")}
    return written
