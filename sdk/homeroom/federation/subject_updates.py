"""One update a subject, for rounds whose privacy promise is by subject.

As in DP-FedAvg (McMahan et al. 2018) with a device's subjects in place of users: each subject's training starts from
the same theta, uses that subject's samples alone, and is clipped as a whole before anything is added
(`contract.update.make_private`). It must depend on nobody else's samples: no class weights over all of them, no epoch
chosen by validation, no batch of two subjects, no optimizer state from another's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from homeroom.errors import TrainError, UpdateError
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings

EPOCHS_PER_SUBJECT = 2  # more would move further, and the clip would cut that off


def subject_updates(
    graphs: Graphs, train: Dataset, theta: np.ndarray, settings: Settings, stop: Callable[[], bool] = bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (subject, difference float32 [P]) for training on one subject's samples alone, each subject's once.

    A subject whose samples teach nothing is left out, as its difference is zero. Raises UpdateError where the time ends
    before the last subject: whose turn came would depend on the others.

    graphs: of the bundle in use.
    train: the examples of all subjects.
    theta: float32 [P], where each training starts.
    settings: of training; epochs, rate, weight decay, balance and distillation are replaced.
    stop: true when the budget is spent; asked before each subject.
    """
    subject_settings = msgspec.structs.replace(
        settings, epochs=EPOCHS_PER_SUBJECT, constant_rate=True, weight_decay=0.0, balance=0.0, distillation=0.0
    )
    by_subject: dict[str, list[int]] = {}
    for row, example in enumerate(train.examples):
        by_subject.setdefault(example.subject, []).append(row)
    for subject in sorted(by_subject):
        if stop():
            raise UpdateError("no time was left to train for each subject", code="empty", remedy="give it more time")
        try:
            trained = fit(graphs, train.subset(by_subject[subject]), None, theta, subject_settings).theta
        except TrainError:
            continue
        yield subject, trained - theta
