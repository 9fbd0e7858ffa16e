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
from homeroom.system.printable import counted
from homeroom.train.features.dataset import Dataset, Example

Apart = Literal["pupils", "groups", "samples"]
NEVER_JUDGED = "how often it is right here was never judged: too few labelled samples"
ONE_LABEL = "only one label was ever taught here"


@dataclass(frozen=True)
class Judged:
    """What judged one task, and what taught it.

    labelled: samples with a label that their inputs can teach; judging: those of them that were kept apart to judge
    apart: what sets these from the others: whole groups of samples, else whole pupils
    group: the slots or columns whose content no sample of both sides shares, where groups are apart
    only_label: in words, where all have the same
    """

    labelled: int
    judging: int = 0
    apart: Apart = "samples"
    group: str = ""
    only_label: str = ""

    @property
    def text(self) -> str:
        """The words after a figure: on which samples it was measured."""
        if self.apart == "groups":
            return f"{self.judging} samples with another {self.group}"
        of_others = self.apart == "pupils"
        return f"{self.judging} " + (
            "samples of other pupils" if of_others else "other samples, perhaps of the same pupils"
        )

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
            samples = f"{counted(one.labelled, 'labelled sample')}"
            if one.only_label:
                told.append(
                    f"{name}: {samples}, all with {one.only_label}: add some with another, to learn to tell them apart"
                )
            if not one.judging:
                told.append(f"{name}: {samples}, too few to keep some apart: how often it is right is not known")
        return told


def judgement_of(examples: Sequence[Example], train: Dataset, validation: Dataset | None) -> Judgement:
    """What judges and teaches each task. examples: of both data sets."""
    whole, tasks = Dataset(train.manifest, examples), dict[str, Judged]()
    taught, asked = (
        [(one.subject, one.group) for one in side.examples] if side else [] for side in (train, validation)
    )
    for column, task in enumerate(train.manifest.tasks):
        labelled = np.flatnonzero(whole.labelled[:, column] > 0)
        if len(labelled):
            judging = [asked[row] for row in np.flatnonzero(validation.labelled[:, column] > 0)] if validation else []
            apart, group = _set_apart(judging, taught)
            tasks[task.name] = Judged(len(labelled), len(judging), apart, group, _only_label(task, whole, labelled))
    return Judgement(tasks)


def _set_apart(asked: Sequence[tuple[str, str]], taught: Sequence[tuple[str, str]]) -> tuple[Apart, str]:
    """What sets the samples that judge from those that teach, and the slot of their groups. Each: subject and group.

    Pupils are others where nobody both taught and judged, and every sample names its pupil.
    """
    groups = {group for _, group in asked}
    if asked and all(groups) and groups.isdisjoint(group for _, group in taught):
        return "groups", " or ".join(sorted({group.rpartition(":")[0] for group in groups}))
    judges, teachers = ({subject for subject, _ in side} for side in (asked, taught))
    others = judges.isdisjoint(teachers) and DEFAULT_SUBJECT not in judges | teachers
    return "pupils" if others else "samples", ""


def _only_label(task: Task, dataset: Dataset, rows: np.ndarray) -> str:
    """The one label of all these samples in words; empty where there are several, or a label is only a place."""
    kind = kind_of(task)
    if kind.per_token or kind.asked_input is not nothing_asked:
        return ""
    targets = dataset.targets[task.name][rows]
    if not (targets == targets[0]).all():
        return ""
    return f"the label {task.labels[int(kind.classes(targets[:1])[0])]!r}" if kind.classes else "the same label"
