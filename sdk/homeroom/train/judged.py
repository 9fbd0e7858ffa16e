"""What stands behind a training's figures: which samples judged each task, and what its labels could teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import DEFAULT_SUBJECT
from homeroom.data.tasks import kind_of
from homeroom.data.tasks.base import nothing_asked
from homeroom.train.features.dataset import Dataset, Example

Apart = Literal["pupils", "samples"]
WORDS: Mapping[Apart, str] = {
    "pupils": "samples of other pupils",
    "samples": "other samples, perhaps of the same pupils",
}
NEVER_JUDGED = "how often it is right here was never judged: too few labelled samples"
ONE_LABEL = "only one label was ever taught here"


@dataclass(frozen=True)
class Judged:
    """What judged one task, and what taught it.

    labelled: samples with a label that their inputs can teach; judging: those of them that were kept apart to judge
    apart: what sets these from the others
    only_label: in words, where all have the same
    """

    labelled: int
    judging: int = 0
    apart: Apart = "samples"
    only_label: str = ""

    @property
    def text(self) -> str:
        """The words after a figure: on which samples it was measured."""
        return f"{self.judging} {WORDS[self.apart]}"

    @property
    def doubt(self) -> str:
        """Why no answer is sure, whatever its probability; empty where there is no such reason."""
        return ONE_LABEL if self.only_label else "" if self.judging else NEVER_JUDGED


@dataclass(frozen=True)
class Judgement:
    """By task, what judged it; tasks without a label are left out."""

    tasks: Mapping[str, Judged] = field(default_factory=dict)

    @property
    def doubts(self) -> dict[str, str]:
        """Why no answer of a task is sure, by task."""
        return {name: one.doubt for name, one in self.tasks.items() if one.doubt}

    @property
    def sentences(self) -> list[str]:
        """For a person: what the labels could not teach, and what was never judged."""
        told = []
        for name, one in self.tasks.items():
            samples = f"{one.labelled} labelled sample{'s' * (one.labelled > 1)}"
            if one.only_label:
                told.append(
                    f"{name}: {samples}, all with {one.only_label}: add some with another, to learn to tell them apart"
                )
            if not one.judging:
                told.append(f"{name}: {samples}, too few to keep some apart: how often it is right is not known")
        return told


def judgement_of(examples: Sequence[Example], train: Dataset, validation: Dataset | None) -> Judgement:
    """What judges and teaches each task. examples: of both data sets.

    Pupils are others where nobody both taught and judged, and every sample names its pupil.
    """
    whole, tasks = Dataset(train.manifest, examples), dict[str, Judged]()
    taught = {example.subject for example in train.examples}
    asked = np.array([example.subject for example in validation.examples] if validation else [], object)
    for column, task in enumerate(train.manifest.tasks):
        labelled = np.flatnonzero(whole.labelled[:, column] > 0)
        if not len(labelled):
            continue
        rows = np.flatnonzero(validation.labelled[:, column] > 0) if validation else np.empty(0, int)
        judges = set(asked[rows])
        others = judges.isdisjoint(taught) and DEFAULT_SUBJECT not in judges | taught
        only = _only_label(task, whole, labelled)
        tasks[task.name] = Judged(len(labelled), len(rows), "pupils" if others else "samples", only)
    return Judgement(tasks)


def _only_label(task: Task, dataset: Dataset, rows: np.ndarray) -> str:
    """The one label of all these samples in words; empty where there are several, or a label is only a place."""
    kind = kind_of(task)
    if kind.per_token or kind.asked_input is not nothing_asked:
        return ""
    targets = dataset.targets[task.name][rows]
    if not (targets == targets[0]).all():
        return ""
    return f"the label {task.labels[int(kind.classes(targets[:1])[0])]!r}" if kind.classes else "the same label"
