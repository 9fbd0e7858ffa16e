"""From which probability on an answer is called sure: so that few such answers are wrong on validation samples.

Selective classification (Geifman and El-Yaniv 2017, "Selective classification for deep neural networks", section 3),
the share of wrong ones by Platt's logistic curve (Platt 1999) in place of a count: a dozen questions are too few to
count by. It does not hold for answers of another kind than the validation samples are of.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homeroom.data.tasks import kind_of, probabilities
from homeroom.data.tasks.answers import LEAST_PROBABILITY
from homeroom.data.tasks.metrics import sigmoid
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import labelled_outputs
from homeroom.train.features.dataset import Dataset
from homeroom.train.solve.combine import SolvedPart

MOST_WRONG = 0.15  # of the answers that are called sure
PRIOR = 5.0  # how strongly the curve is held at the calibrated probabilities themselves
STEPS, LEAST_STRIDE = 30, 1e-9  # of Newton's method
NONE_SURE = 2.0  # no probability reaches it
LEAST_COMPARED = 50  # validation examples, for one good answer in 50 called unlike them
UNLIKE = "its features are unlike all that was learned from"
TOO_OFTEN_WRONG = "of answers this unsure, too many were wrong when it was judged here"


def choose_least(
    graphs: Graphs, dataset: Dataset | None, theta: np.ndarray, part: SolvedPart, temperatures: Mapping[str, float]
) -> dict[str, float]:
    """The least probability of a sure answer, by task of one class a sample; none where that changes nothing.

    dataset: validation examples; part: of these, and how it counts; temperatures: of theta alone, by task
    """
    pairs, found = labelled_outputs(graphs, dataset, theta) if dataset else {}, {}
    for column, task in enumerate(dataset.manifest.tasks if dataset else ()):
        outputs, targets = pairs[task.name]
        classes = kind_of(task).classes
        if classes is None or not len(outputs):
            continue
        alike = np.ones(len(outputs), bool)
        if task.name in part.outputs:
            rows = np.flatnonzero(dataset.labelled[:, column] > 0) if dataset else np.zeros(0, int)
            own = part.subset(rows)
            chances, alike = probabilities(task, own.answered(task.name, outputs)), ~own.divided(task.name, outputs)
        else:
            chances = probabilities(task, outputs, temperatures.get(task.name, 1.0))
        right = chances.argmax(1) == classes(targets)
        least = least_probability(chances.max(1)[alike], right[alike])
        if least > LEAST_PROBABILITY:
            found[task.name] = least
    return found


def choose_far(part: SolvedPart) -> dict[str, float]:
    """The distance beyond which features are unlike all that was learned, by task: the greatest of validation examples.

    One more sample of the same kind lies beyond with a chance of one in as many as these are, and one (conformal
    anomaly detection, Laxhammar and Falkman 2011); none of fewer than LEAST_COMPARED. part: of validation examples
    """
    distances = {
        name: one.distance[~np.isnan(one.distance)] for name, one in part.outputs.items() if one.distance is not None
    }
    return {name: float(some.max()) for name, some in distances.items() if len(some) >= LEAST_COMPARED}


def least_probability(chances: np.ndarray, right: np.ndarray) -> float:
    """The least probability above which at most MOST_WRONG are wrong; LEAST_PROBABILITY at least, or NONE_SURE.

    chances: float [n], of the best answers; right: bool [n]
    """
    order = np.argsort(-chances, kind="stable")
    wrong = 1 - _chance_right(chances, right)[order]
    good = np.flatnonzero(np.cumsum(wrong) / np.arange(1, len(wrong) + 1) <= MOST_WRONG)
    if not len(good):
        return NONE_SURE if len(wrong) else LEAST_PROBABILITY
    last = int(good[-1])
    return LEAST_PROBABILITY if last == len(wrong) - 1 else max(LEAST_PROBABILITY, float(chances[order[last]]))


def _chance_right(chances: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float [n]: the logistic curve over the log-odds of `chances` that tells best which are right."""
    clipped = np.clip(chances, 1e-6, 1 - 1e-6)
    odds = np.log(clipped) - np.log1p(-clipped)
    inputs, prior = np.stack([np.ones_like(odds), odds], 1), np.array([0.0, 1.0])

    def loss(weights: np.ndarray) -> float:
        logits = inputs @ weights
        return float((np.logaddexp(0, logits) - right * logits).sum() + PRIOR * np.square(weights - prior).sum())

    weights = prior.copy()
    for _ in range(STEPS):
        fitted = sigmoid(inputs @ weights)
        slope = inputs.T @ (fitted - right) + 2 * PRIOR * (weights - prior)
        curvature = (inputs.T * (fitted * (1 - fitted))) @ inputs + 2 * PRIOR * np.eye(2)
        stride = np.linalg.solve(curvature, slope)
        while np.abs(stride).max() > LEAST_STRIDE and loss(weights - stride) > loss(weights):
            stride = stride / 2
        weights = weights - stride
    return np.asarray(sigmoid(inputs @ weights))
