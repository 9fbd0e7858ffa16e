"""The default: which method and how much of it, by cross-validation on the person's own samples; else the shared model.

Every method's theta is judged on samples that it was not trained on, at each share of mixing, by mean log-loss; then
the best is trained again on all of them. A person with too few samples, or whom nothing helps, keeps the shared model.
Tasks that answer for each token are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from homeroom.calibration import temperature
from homeroom.dataset import Dataset
from homeroom.personalize.ditto import ditto
from homeroom.personalize.fedrep import fedrep
from homeroom.personalize.finetune import finetune
from homeroom.personalize.mixing import SHARES, mix
from homeroom.personalize.person import Method, Person
from homeroom.scores import score
from homeroom.training import outputs_of

METHODS: Mapping[str, Method] = {"fedrep": fedrep, "ditto": ditto, "finetune": finetune}
SHARED = "shared"
LEAST, FOLDS = 10, 4  # samples with which anything is tried; parts that they are dealt into

Outputs = dict[str, np.ndarray]  # float32 [samples, width] by task


@dataclass(frozen=True)
class Choice:
    """`theta` float32 [P] of the method, to be mixed by `share`; the shared theta itself where nothing was better.

    `losses`: mean log-loss of each candidate ("ditto 0.5") on held-out samples; `temperatures` by task.
    """

    method: str
    share: float
    theta: np.ndarray
    losses: Mapping[str, float] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)


def choose(person: Person, own: Dataset, methods: Mapping[str, Method] = METHODS) -> Choice:
    """The best method and share for one person's labelled samples; OutOfTimeError if the budget ends first."""
    judged = [column for column, task in enumerate(own.manifest.tasks) if not task.per_token]
    if int((own.labelled[:, judged] > 0).any(1).sum()) < LEAST:
        return Choice(SHARED, 0.0, person.shared)
    held: dict[tuple[str, float], Outputs] = {(SHARED, 0.0): outputs_of(person.graphs, own, person.shared)}
    for train, rows in folds(own, person.settings.seed):
        test = Dataset(own.manifest, [own.examples[row] for row in rows])
        for name, method in methods.items():
            personal = method(person, train)
            for share in SHARES:
                found = outputs_of(person.graphs, test, mix(person.shared, personal, share))
                for task, values in found.items():
                    place = held.setdefault((name, share), {}).setdefault(task, np.zeros((len(own), values.shape[1])))
                    place[rows] = values
    losses = {candidate: loss(own, outputs) for candidate, outputs in held.items()}
    name, share = min(losses, key=lambda candidate: losses[candidate])
    theta = person.shared if name == SHARED else methods[name](person, own)
    named = {f"{method} {part:g}" if part else method: value for (method, part), value in losses.items()}
    return Choice(name, share, theta, named, _temperatures(own, held[name, share]))


def folds(own: Dataset, seed: int) -> Iterator[tuple[Dataset, list[int]]]:
    """(the other samples, rows of a part) for each part; labels are dealt evenly over the parts."""
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(own))
    words = ["/".join(f"{name}{target}" for name, target in sorted(e.targets.items())) for e in own.examples]
    dealt = sorted(order, key=lambda row: words[row])
    for part in range(FOLDS):
        rows = sorted(int(row) for row in dealt[part::FOLDS])
        kept = [example for row, example in enumerate(own.examples) if row not in set(rows)]
        yield Dataset(own.manifest, kept), rows


def loss(own: Dataset, outputs: Outputs) -> float:
    """Mean over tasks of the log-loss on labelled samples."""
    found = []
    for column, task in enumerate(own.manifest.tasks):
        rows = own.labelled[:, column] > 0
        if rows.any() and task.name in outputs:
            found.append(score(task, outputs[task.name][rows], own.targets[task.name][rows]).log_loss)
    return float(np.mean(found))


def _temperatures(own: Dataset, outputs: Outputs) -> dict[str, float]:
    found = {}
    for column, task in enumerate(own.manifest.tasks):
        rows = own.labelled[:, column] > 0
        if rows.any() and task.name in outputs:
            found[task.name] = temperature(task, outputs[task.name][rows], own.targets[task.name][rows])
    return found
