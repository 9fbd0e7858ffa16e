"""Membership inference by the loss: whether theta answers samples better than comparable ones that it never saw.

The attack is a threshold on the loss (Yeom et al. 2018), its strength the area under the ROC curve: how often a
member's loss is below another's; 0.5 is chance. When it does not hold: where members and others are not comparable, the
area says which samples are easier, not which were learned; an attack that uses more than one loss a sample may tell
more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.data.tasks import kind_of, losses
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import all_outputs_of
from homeroom.train.features.dataset import Dataset

LEAST_OF_A_SIDE = 20  # on either side; below, an area's interval holds nearly everything
LEAST_SUBJECTS = 10  # on either side, for an interval by subject
Z_95 = 1.96


@dataclass(frozen=True)
class SampleLosses:
    """Losses of one task. losses: float64 [samples]; subjects: of the same samples, in order."""

    losses: np.ndarray
    subjects: Sequence[str]


@dataclass(frozen=True)
class Area:
    """Area under the ROC curve, 0 to 1, and its 95 % interval."""

    area: float
    low: float
    high: float


def sample_losses(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> dict[str, SampleLosses]:
    """By task, the loss of each labelled sample at theta float32 [P]; per token, the mean over its tokens."""
    outputs, token_outputs = all_outputs_of(graphs, dataset, theta)
    found = dict[str, SampleLosses]()
    for column, task in enumerate(dataset.manifest.tasks):
        rows = [int(row) for row in np.flatnonzero(dataset.labelled[:, column])]
        if pairs := kind_of(task).token_pairs:
            targets = (dataset.examples[row].targets[task.name] for row in rows)
            compared = [pairs(token_outputs[task.name][row], one) for row, one in zip(rows, targets, strict=True)]
            kept = [number for number, (_, wanted) in enumerate(compared) if len(wanted)]
            values = [losses(task, *compared[number]).mean() for number in kept]
            rows = [rows[number] for number in kept]
        else:
            values = list(losses(task, outputs[task.name][rows], dataset.targets[task.name][rows]))
        subjects = [dataset.examples[row].subject for row in rows]
        found[task.name] = SampleLosses(np.array(values, np.float64), subjects)
    return found


def by_subject(members: SampleLosses, others: SampleLosses) -> bool:
    """Whether there are subjects enough for an interval that takes each one's samples as dependent."""
    return all(len(set(one.subjects)) >= LEAST_SUBJECTS for one in (members, others))


def area_of(members: SampleLosses, others: SampleLosses) -> Area:
    """How often a member's loss is below another's, ties half, with its interval; at least one sample on either side.

    The interval is DeLong's (1988), by subject as Obuchowski's (1997) where `by_subject`. Half of it is at least
    what one sample of the smaller side is worth, since both formulas give 0 where the two are apart.
    """
    wins, losts = _shares_above(members.losses, others.losses), 1 - _shares_above(others.losses, members.losses)
    area = float(wins.mean())
    clustered = by_subject(members, others)
    names = [
        one.subjects if clustered else [f"{side}{n}" for n in range(len(one.subjects))]
        for side, one in (("m", members), ("o", others))
    ]
    known = {name: number for number, name in enumerate(sorted({*names[0], *names[1]}))}
    parts = [
        np.bincount([known[name] for name in side], (values - area) / len(values), len(known))
        for side, values in zip(names, (wins, losts), strict=True)
    ]
    variance = sum(
        float(part @ part) * count / max(count - 1, 1)
        for part, count in zip(parts, (len(set(side)) for side in names), strict=True)
    )
    variance += 2 * float(parts[0] @ parts[1]) * len(known) / max(len(known) - 1, 1)
    half = max(Z_95 * max(variance, 0.0) ** 0.5, 1 / min(len(wins), len(losts)))
    return Area(area, max(0.0, area - half), min(1.0, area + half))


def _shares_above(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each value, the share of the others that is above it, ties half; float64 [values]."""
    ordered = np.sort(others)
    left, right = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return 1 - (left + right) / (2 * len(ordered))
