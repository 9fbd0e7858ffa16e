"""Sums by subject: each can be taken away from the total again, and one weighs no more than allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.sums import NOTHING, Statistics, add
from homeroom.train.solve.kinds import solver_of
from homeroom.train.solve.vectors.samples import SampleVectors


def subject_sums(
    tasks: Sequence[Task],
    vectors: SampleVectors,
    targets: Mapping[str, np.ndarray],
    labelled: Mapping[str, np.ndarray],
    subjects: Sequence[str],
    sample_ids: Sequence[str],
) -> dict[str, Statistics]:
    """The statistics of each subject; those of all together are `merge` of them, in any order.

    tasks: those that are covered
    targets: float32 [n, width] by task; labelled: bool [n] by task
    subjects, sample_ids: of the n samples. Of a subject with more samples of a task than the section's
        `subject_limit` those with the least digests of their ids count, whatever order they came in.
    """
    limit = vectors.section.subject_limit
    digests = [sha256(sample_id.encode()).digest() for sample_id in sample_ids]
    rows_of: dict[str, list[int]] = {}
    for row in sorted(range(len(subjects)), key=lambda row: digests[row]):
        rows_of.setdefault(subjects[row], []).append(row)
    sums = dict.fromkeys(rows_of, NOTHING)
    for task in tasks:
        solver, of_task = solver_of(task), vectors.of_task(task)
        assert solver
        for subject, rows in rows_of.items():
            chosen = np.array([row for row in rows if labelled[task.name][row]][:limit], int)
            if len(chosen):
                part = solver.sums(task, of_task.subset(chosen), targets[task.name][chosen])
                sums[subject] = add(sums[subject], part)
    return sums
