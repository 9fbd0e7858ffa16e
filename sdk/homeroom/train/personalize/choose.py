"""Chooses a person's method: the prior correction, unless another is clearly better on held-out samples of the person.

Every method's theta is judged on samples that it was not trained on, at each share of mixing, by mean log-loss. Another
than the prior correction, or the shared model, is chosen where its loss is lower by STANDARD_ERRORS: with a dozen
samples the least of many losses is mostly chance (Breiman et al. 1984, "Classification and Regression Trees", section
3.4.3). It is then trained again on all samples. A person with few samples gets the prior correction at most, one with
too few keeps the shared model. Tasks that answer for each token are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from homeroom.data.tasks import kind_of
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
LEAST_FOR_PRIOR = 10  # samples with which the prior correction is tried
LEAST_FOR_ALL = 20  # samples with which every method is
DEFAULT_CANDIDATE = ("prior", 0.75)  # method and share
STANDARD_ERRORS = 2.0  # of the paired difference

Candidate = tuple[str, float]  # method and share


@dataclass(frozen=True)
class Choice:
    """A person's theta and how it was chosen.

    theta: float32 [P] of the method, to be mixed with the shared theta by `share`; the shared theta itself where there
        is too little to choose from
    losses: mean log-loss of each candidate ("ditto 0.5") on held-out samples
    temperatures: by task
    """

    method: str
    share: float
    theta: np.ndarray
    losses: Mapping[str, float] = field(default_factory=dict)
    temperatures: Mapping[str, float] = field(default_factory=dict)


def choose(person: Person, own: Dataset, methods: Mapping[str, Method] = METHODS) -> Choice:
    """The best method and share for one person's labelled samples; OutOfTimeError if the budget ends first."""
    columns = [column for column, task in enumerate(own.manifest.tasks) if not kind_of(task).per_token]
    samples = int((own.labelled[:, columns] > 0).any(1).sum())
    if samples < LEAST_FOR_ALL:
        enough = samples >= LEAST_FOR_PRIOR
        methods = {name: method for name, method in methods.items() if method is correct_prior and enough}
    if not methods:
        return Choice(SHARED, 0.0, person.shared)
    held_out = _held_out_outputs(person, own, methods, shares(samples))
    losses = {candidate: losses_of(own, outputs) for candidate, outputs in held_out.items()}
    method, share = _best(losses)
    theta = person.shared if method == SHARED else methods[method](person, own)
    named = {f"{name} {part:g}" if part else name: float(values.mean()) for (name, part), values in losses.items()}
    return Choice(method, share, theta, named, _temperatures(own, held_out[method, share]))


def _held_out_outputs(
    person: Person, own: Dataset, methods: Mapping[str, Method], tried: Sequence[float]
) -> dict[Candidate, Outputs]:
    """Each candidate's outputs on the samples that it was not trained on, by cross-validation. tried: shares."""
    held_out: dict[Candidate, Outputs] = {(SHARED, 0.0): outputs_of(person.graphs, own, person.shared)}
    for train, rows in folds(own, person.settings.seed, whole_groups=True):
        test = own.subset(rows)
        for name, method in methods.items():
            personal = method(person, train)
            for share in tried:
                outputs = outputs_of(person.graphs, test, mix(person.shared, personal, share))
                for task, values in outputs.items():
                    by_task = held_out.setdefault((name, share), {})
                    by_task.setdefault(task, np.zeros((len(own), values.shape[1])))[rows] = values
    return held_out


def _best(losses: Mapping[Candidate, np.ndarray]) -> Candidate:
    """The candidate with the least mean loss if it is clearly better than the default, else the default.

    losses: float64 [samples] of each candidate.
    """
    means = {candidate: float(values.mean()) for candidate, values in losses.items()}
    best = min(means, key=lambda candidate: means[candidate])
    shared = (SHARED, 0.0)
    default = DEFAULT_CANDIDATE if means.get(DEFAULT_CANDIDATE, means[shared]) != means[shared] else shared
    gain = losses[default] - losses[best]
    return default if gain.mean() <= STANDARD_ERRORS * gain.std(ddof=1) / len(gain) ** 0.5 else best


def _temperatures(own: Dataset, outputs: Outputs) -> dict[str, float]:
    temperatures = {}
    for column, task in enumerate(own.manifest.tasks):
        rows = own.labelled[:, column] > 0
        if rows.any() and task.name in outputs:
            temperatures[task.name] = temperature(task, outputs[task.name][rows], own.targets[task.name][rows])
    return temperatures
