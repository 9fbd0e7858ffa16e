"""What each subject's samples alone change: the parts of an update whose promise is by subject; imports training.

As in DP-FedAvg (McMahan et al. 2018) with the subjects of a device in place of its users: each starts from the same
theta, trains on its own samples, and is clipped as a whole before anything is added (`contract.update.make_private`).
So a part depends on nobody else's samples: no weights by class over all of them, no choice of an epoch by validation,
no batch with two subjects in it, no optimizer that remembers another's gradient.
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

EPOCHS_PER_SUBJECT = 2  # over one subject's few samples; clipping would cut more of what more epochs do


def subject_updates(
    graphs: Graphs,
    train: Dataset,
    theta: np.ndarray,
    settings: Settings,
    most: int,
    stop: Callable[[], bool] = bool,
) -> Iterator[tuple[str, np.ndarray]]:
    """(subject, float32 [P]: what training from `theta` [P] on that subject's samples alone changes), `most` at most.

    Subjects come in an order drawn from the system's secure generator, so that a short time or a small `most` leaves
    nobody out for good. One that teaches nothing is left out, which is a part of zero.
    """
    own = msgspec.structs.replace(
        settings, epochs=EPOCHS_PER_SUBJECT, constant_rate=True, weight_decay=0.0, balance=0.0
    )
    by_subject: dict[str, list[int]] = {}
    for row, example in enumerate(train.examples):
        by_subject.setdefault(example.subject, []).append(row)
    for subject in _shuffled(sorted(by_subject))[:most]:
        if stop():
            return
        try:
            moved = fit(graphs, train.subset(by_subject[subject]), None, theta, own).theta
        except TrainError:
            continue
        yield subject, moved - theta


def _shuffled(subjects: Sequence[str]) -> list[str]:
    drawn = list(subjects)
    secrets.SystemRandom().shuffle(drawn)
    return drawn
