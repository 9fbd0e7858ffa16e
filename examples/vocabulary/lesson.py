"""What every setting of the lesson shares: how long it trains, how fast, and how a result is written down."""

from __future__ import annotations

import msgspec

from homeroom.training import Settings

ROUNDS = 30
LOCAL_EPOCHS = 2
EPOCHS = ROUNDS * LOCAL_EPOCHS  # alone and all together in one place: the same passes over the data
OWN_EPOCHS = 4

ALONE = Settings(epochs=EPOCHS, learning_rate=1e-3, weight_decay=3e-2, patience=15, modality_dropout=0.2, balance=0.5)
OWN = msgspec.structs.replace(ALONE, epochs=OWN_EPOCHS, learning_rate=3e-4)


def round_settings(number: int, rounds: int = ROUNDS) -> Settings:
    """Local training of round `number` (from 0): the rate falls over the rounds as it does over epochs alone."""
    rate = ALONE.learning_rate * (1 - number / rounds)
    return msgspec.structs.replace(
        ALONE, epochs=LOCAL_EPOCHS, learning_rate=rate, constant_rate=True, patience=LOCAL_EPOCHS
    )


class Round(msgspec.Struct, frozen=True):
    """Accuracies by task after a round, of the global theta."""

    version: int
    validation: dict[str, float]
    test: dict[str, float]


class SchoolResult(msgspec.Struct, kw_only=True):
    """What one school's process writes. Scores are accuracies by task on the school's test."""

    name: str
    samples: int
    tested: int
    before: dict[str, float]
    alone: dict[str, float]
    rounds: list[Round] = []
    own: dict[str, float] = {}
    elsewhere: dict[str, dict[str, float]] = {}  # `alone` on the tests of other schools
    sent_bytes: int = 0
    received_bytes: int = 0
    minutes: float = 0.0
    peak_mb: float = 0.0
    examples: list[dict[str, str | float | bool]] = []


def best_round(schools: list[SchoolResult]) -> int:
    """The round whose global theta has the best mean validation score over schools; chosen without the test."""
    counts = range(min(len(school.rounds) for school in schools))
    return max(counts, key=lambda number: sum(mean(school.rounds[number].validation) for school in schools))


def mean(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores) if scores else 0.0
