"""The default: the prior correction, unless another method is clearly better on the person's own held-out samples.

Every method's theta is judged on samples that it was not trained on, at each share of mixing, by mean log-loss. Another
than the prior correction, or the shared model, is taken where that is lower by CLEARLY standard errors: with a dozen
samples the least of many losses is mostly chance (Breiman et al. 1984, "Classification and Regression Trees", section
3.4.3). It is then trained again on all samples. A person with few gets the prior correction at most, one with too few
keeps the shared model. Tasks that answer for each token are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from homeroom.train.calibration import temperature
from homeroom.train.cross_validation import Outputs, folds, losses_of
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.personalize.ditto import ditto
from homeroom.train.personalize.fedrep import fedrep
from homeroom.train.personalize.finetune import finetune
from homeroom.train.personalize.mixing import mix, shares
from homeroom.train.personalize.person import Method, Person
from homeroom.train.personalize.prior_correction import correct_prior

METHODS: Mapping[str, Method] = {"prior": correct_prior, "fedrep": fedrep, "ditto": ditto, "finetune": finetune}
SHARED = "shared"
LEAST_FOR_PRIOR, LEAST_FOR_ALL = (
    10,
    20,
)  # samples with which the prior correction is tried; with which every method is
DEFAULT_CANDIDATE, STANDARD_ERRORS = ("prior", 0.75), 2.0  # method and share; standard errors of the paired difference


@dataclass(frozen=True)
class Choice:
    """`theta` float32 [P] of the method, to be mixed by `share`; the shared theta itself where there is too little.

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
    samples = int((own.labelled[:, judged] > 0).any(1).sum())
    if samples < LEAST_FOR_ALL:
        methods = {
            name: method for name, method in methods.items() if method is correct_prior and samples >= LEAST_FOR_PRIOR
        }
    if not methods:
        return Choice(SHARED, 0.0, person.shared)
    held: dict[tuple[str, float], Outputs] = {(SHARED, 0.0): outputs_of(person.graphs, own, person.shared)}
    for train, rows in folds(own, person.settings.seed):
        test = own.subset(rows)
        for name, method in methods.items():
            personal = method(person, train)
            for share in shares(samples):
                found = outputs_of(person.graphs, test, mix(person.shared, personal, share))
                for task, values in found.items():
                    place = held.setdefault((name, share), {}).setdefault(task, np.zeros((len(own), values.shape[1])))
                    place[rows] = values
    each = {candidate: losses_of(own, outputs) for candidate, outputs in held.items()}
    losses = {candidate: float(values.mean()) for candidate, values in each.items()}
    name, share = min(losses, key=lambda candidate: losses[candidate])
    usual = (
        DEFAULT_CANDIDATE
        if losses.get(DEFAULT_CANDIDATE, losses[SHARED, 0.0]) != losses[SHARED, 0.0]
        else (SHARED, 0.0)
    )
    ahead = each[usual] - each[name, share]
    if ahead.mean() <= STANDARD_ERRORS * ahead.std(ddof=1) / len(ahead) ** 0.5:
        name, share = usual
    theta = person.shared if name == SHARED else methods[name](person, own)
    named = {f"{method} {part:g}" if part else method: value for (method, part), value in losses.items()}
    return Choice(name, share, theta, named, _temperatures(own, held[name, share]))


def _temperatures(own: Dataset, outputs: Outputs) -> dict[str, float]:
    found = {}
    for column, task in enumerate(own.manifest.tasks):
        rows = own.labelled[:, column] > 0
        if rows.any() and task.name in outputs:
            found[task.name] = temperature(task, outputs[task.name][rows], own.targets[task.name][rows])
    return found
