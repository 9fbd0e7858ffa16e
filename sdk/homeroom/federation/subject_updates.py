"""One update a subject, for rounds whose privacy promise is by subject.

As in DP-FedAvg (McMahan et al. 2018) with a device's subjects in place of users: each subject's training starts from
the same theta, uses that subject's samples alone, and is clipped as a whole before anything is added
(`contract.update.make_private`). It must depend on nobody else's samples: no class weights over all of them, no epoch
chosen by validation, no batch of two subjects, no optimizer state from another's gradient.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from homeroom.errors import TrainError
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings

EPOCHS_PER_SUBJECT = 2  # more would move further, and the clip would cut that off


def subject_updates(
    graphs: Graphs, train: Dataset, theta: np.ndarray, settings: Settings, most: int, stop: Callable[[], bool] = bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (subject, difference float32 [P]) for training on one subject's samples alone.

    Subjects come in an order drawn from the system's secure generator, so that a short time or a small `most` leaves
    nobody out for good. A subject whose samples teach nothing is left out, as its difference is zero.

    graphs: of the bundle in use.
    train: the examples of all subjects.
    theta: float32 [P], where each training starts.
    settings: of training; epochs, rate, weight decay and balance are replaced.
    most: subjects.
    stop: true when the budget is spent; asked before each subject.
    """
    subject_settings = msgspec.structs.replace(
        settings, epochs=EPOCHS_PER_SUBJECT, constant_rate=True, weight_decay=0.0, balance=0.0
    )
    by_subject: dict[str, list[int]] = {}
    for row, example in enumerate(train.examples):
        by_subject.setdefault(example.subject, []).append(row)
    for subject in _shuffled(sorted(by_subject))[:most]:
        if stop():
            return
        try:
            trained = fit(graphs, train.subset(by_subject[subject]), None, theta, subject_settings).theta
        except TrainError:
            continue
        yield subject, trained - theta


def _shuffled(subjects: Sequence[str]) -> list[str]:
    shuffled = list(subjects)
    secrets.SystemRandom().shuffle(shuffled)
    return shuffled
