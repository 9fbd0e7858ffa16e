"""The five schools of the lesson, which differ in senses, language, size and what they teach; written as JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    School("Mirador", "es", ("picture", "speech"), 60, 1.0),  # nothing written
    School("Brook", "en", ("word", "picture"), 30, 1.0),  # very few
)


def deal(pairs: Sequence[Pair], seed: int) -> dict[str, list[Pair]]:
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
        rng.shuffle(groups)  # type: ignore[arg-type]
    categories = sorted(left)
    dealt: dict[str, list[Pair]] = {school.name: [] for school in SCHOOLS}
    for school in sorted(SCHOOLS, key=lambda s: s.stamps):  # the small ones choose first
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
    """Samples in the JSONL form; wrong options come from the same pairs and never from the right one's group."""
    rng = np.random.default_rng([seed, 2, SCHOOLS.index(school)])
    rows = []
    for stamp, row in pairs:
        others = [pair for pair in pairs if pair[1].group != row.group]
        if len(others) < CHOICES:
            continue
        for repeat in range(repeats):
            wrong = [others[i][0] for i in rng.choice(len(others), CHOICES - 1, replace=False)]
            place = int(rng.integers(CHOICES))
            options = [*wrong[:place], stamp, *wrong[place:]]
            rows.append(_exercise(school, stamp, row, options, place, repeat))
    return rows


def _exercise(
    school: School, stamp: Stamp, row: Row, options: Sequence[Stamp], place: int, repeat: int
) -> dict[str, Any]:
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
        sample["picture"] = str(stamp.picture)
    if "speech" in senses:
        sample["speech"] = str(stamp.sounds[language])
    if {"word", "picture"} <= set(senses):
        sample["pictures"] = [str(option.picture) for option in options]
        sample["labels"]["picture_of_word"] = place
    if {"word", "speech"} <= set(senses):
        sample["words"] = [option.captions[language] for option in options]
        sample["labels"]["word_of_speech"] = place
    if repeat:
        # The category was asked in the first exercise with this stamp.
        del sample["labels"]["category"]
    return sample


def write(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def write_all(pairs: Sequence[Pair], folder: Path, seed: int) -> dict[str, dict[str, Path]]:
    """Write {school: {"train", "test"}} and return the paths; a school is tested on all test stamps it can use."""
    dealt = deal(pairs, seed)
    written = {}
    for school in SCHOOLS:
        test = [pair for pair in pairs if pair[1].part == "test" and has(pair[0], school)]
        written[school.name] = {
            "train": write(exercises(school, dealt[school.name], seed), folder / school.name / "train.jsonl"),
            # The test does not depend on the seed, so that seeds differ by their schools alone.
            "test": write(exercises(school, test, 0, repeats=1), folder / school.name / "test.jsonl"),
        }
    return written
