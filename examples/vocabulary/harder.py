"""Harder draws of the lesson's tests: wrong words as long as the right one, wrong pictures of the right one's category.

The lesson's usual wrong options are any others of a school: a word is then often told by its length alone, and a
picture by its category. `length_alone` is what the first of these cues reaches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.vocabulary.schools import CHOICES, SCHOOLS, Pair, School, exercise, has, write

LIKE_LENGTH = 3  # characters by which a word of like length may be longer or shorter


def harder_exercises(school: School, pairs: Sequence[Pair], seed: int) -> list[dict[str, Any]]:
    """A sample a stamp and harder task, written as `schools.exercises`; none where too few wrong options are alike."""
    rng = np.random.default_rng([seed, 3, *school.name.encode()])
    rows = []
    for stamp, row in pairs:
        said = stamp.captions[school.language]
        others = [p for p in pairs if p[1].group != row.group and p[0].captions[school.language] != said]
        alike: dict[str, list[Pair]] = {
            "picture_of_word": [p for p in others if p[0].category == stamp.category],
            "word_of_speech": [
                p for p in others if abs(len(p[0].captions[school.language]) - len(said)) <= LIKE_LENGTH
            ],
        }
        for task, some in alike.items():
            place, chosen = int(rng.integers(CHOICES)), rng.permutation(len(some))[: CHOICES - 1]
            if len(chosen) == CHOICES - 1:
                wrong = [some[i][0] for i in chosen]
                sample = exercise(school, stamp, row, [*wrong[:place], stamp, *wrong[place:]], place, 1)
                if task in sample["labels"]:
                    rows.append(_of_task(sample, task))
    return rows


def write_harder(pairs: Sequence[Pair], folder: Path, schools: Sequence[School] = SCHOOLS) -> dict[str, Path]:
    """Writes {school}/harder.jsonl of the test stamps, beside what `schools.write_all` writes, which stays as it is."""
    paths = {}
    for school in schools:
        test = [pair for pair in pairs if pair[1].part == "test" and has(pair[0], school)]
        paths[school.name] = write(harder_exercises(school, test, 0), folder / school.name / "harder.jsonl")
    return paths


def _of_task(sample: dict[str, Any], task: str) -> dict[str, Any]:
    """The sample with the inputs and the label of one task."""
    left_out = ("picture", "words", "speech") if task == "picture_of_word" else ("picture", "pictures", "word")
    return {name: value for name, value in sample.items() if name not in left_out} | {
        "labels": {task: sample["labels"][task]}
    }


def length_alone(train: Path, test: Path, seconds: Callable[[Path], float]) -> float | None:
    """The share of right words by the length of the sound alone; None where no sample of a test has both.

    A line through the training samples says how many characters so long a sound has; the nearest option is chosen.
    train, test: samples as JSON Lines. seconds: of a sound file.
    """
    taught, asked = (
        [row for row in map(json.loads, path.read_text("utf-8").splitlines()) if "words" in row]
        for path in (train, test)
    )
    if not taught or not asked:
        return None
    lasting = [seconds(train.parent / row["speech"]) for row in taught]
    slope, start = np.polyfit(lasting, [len(row["words"][row["labels"]["word_of_speech"]]) for row in taught], 1)
    right = 0
    for row in asked:
        wanted = start + slope * seconds(test.parent / row["speech"])
        nearest = int(np.argmin([abs(len(word) - wanted) for word in row["words"]]))
        right += nearest == row["labels"]["word_of_speech"]
    return right / len(asked)


def sounding_seconds(path: Path) -> float:
    """The seconds of a sound from its first loud frame to its last."""
    from homeroom.data.preprocess.audio import decode

    wave, rate = decode(path.read_bytes(), str(path))
    size = rate // 100
    levels = np.abs(wave[: len(wave) // size * size]).reshape(-1, size).max(1)
    loud = np.flatnonzero(levels > 0.05 * levels.max(initial=0))
    return (int(loud[-1] - loud[0]) + 1) / 100 if len(loud) else 0.0
