"""What every setting of the lesson shares: how long it trains, how fast, and how a result is written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from homeroom.data.tasks.metrics import Score
from homeroom.train.settings import Settings

ROUNDS = 20
DEMO_ROUNDS = 12  # by then, with solved heads beside theta, more gain little
LOCAL_EPOCHS = 2
RATES = (2e-3, 4e-3)  # that the benchmark tries for each setting, on validation pupils

ALONE = Settings(epochs=60, learning_rate=4e-3, weight_decay=3e-2, patience=15, modality_dropout=0.2, balance=0.5)
OWN = msgspec.structs.replace(ALONE, epochs=6, learning_rate=3e-4)
TOGETHER_RATE = 4e-3  # in the demo, as alone and all in one place: what validation chose in the benchmark


def round_settings(number: int, rounds: int = ROUNDS, rate: float = TOGETHER_RATE) -> Settings:
    """Local training of round `number` (from 0): the rate falls over the rounds as it does over epochs alone."""
    falling = rate * (1 - number / rounds)
    fields = {"epochs": LOCAL_EPOCHS, "learning_rate": falling, "constant_rate": True, "patience": LOCAL_EPOCHS}
    return changed(ALONE, **fields, draw=number)


def changed(settings: Settings, **fields: Any) -> Settings:
    return msgspec.structs.replace(settings, **fields)


class Accuracies(msgspec.Struct, frozen=True):
    """Accuracies by task: as a device answers, and of its trained and its solved heads alone."""

    answers: dict[str, float]
    trained: dict[str, float]
    solved: dict[str, float] = {}


class Round(msgspec.Struct, frozen=True):
    """What a round left a device with. validation: accuracies by task of the global theta alone."""

    version: int
    validation: dict[str, float]
    test: Accuracies


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A test sample with what the global theta of the last round says of it, for the report."""

    source: str
    word: str
    truth: str
    answer: str
    probability: float
    sure: bool
    options: list[str] = []  # names of the stamps to choose from
    right: int = -1
    chosen: int = -1


class SchoolResult(msgspec.Struct, kw_only=True):
    """What one school's process writes, of the school's test.

    released: whether sums of the other schools had reached it by the last round.
    """

    name: str
    samples: int
    tested: dict[str, int]
    before: Accuracies
    alone: Accuracies
    rounds: list[Round] = []
    released: bool = False
    own: Accuracies | None = None
    harder: dict[str, float] = {}  # as the device answers after the last round, where wrong options are alike
    elsewhere: dict[str, Accuracies] = {}  # `alone` on the tests of other schools
    sent_bytes: int = 0
    received_bytes: int = 0
    minutes: float = 0.0
    alone_minutes: float = 0.0
    together_minutes: float = 0.0
    peak_mb: float = 0.0
    examples: list[Example] = []


def accuracies(scores: Mapping[str, Score]) -> dict[str, float]:
    return {task: score.accuracy for task, score in scores.items() if score.n}


def best_round(schools: list[SchoolResult]) -> int:
    """The round whose global theta has the best mean validation score over schools; chosen without the test."""
    counts = range(min(len(school.rounds) for school in schools))
    return max(counts, key=lambda number: sum(mean(school.rounds[number].validation) for school in schools))


def mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores) if scores else 0.0
