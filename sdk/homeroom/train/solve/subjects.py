"""Sums by subject: each can be taken away from the total again, and one weighs no more than allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.sums import NOTHING, Statistics, add
from homeroom.train.solve.kinds import solver_of
from homeroom.train.solve.vectors.samples import SampleVectors


def counted_rows(
    labelled: Mapping[str, np.ndarray], subjects: Sequence[str], sample_ids: Sequence[str], limit: int
) -> dict[str, np.ndarray]:
    """Which samples count, bool [n] by task: at most `limit` of one subject.

    labelled: bool [n] by task
    subjects, sample_ids: of the n samples. Of a subject with more, those with the least digests of their ids count,
        whatever order they came in.
    """
    counted = {task: has.copy() for task, has in labelled.items()}
    for rows in rows_by_subject(subjects).values():
        if len(rows) > limit:
            order = np.array(sorted(rows, key=lambda row: sha256(sample_ids[row].encode()).digest()))
            for has in counted.values():
                has[order[has[order]][limit:]] = False
    return counted


def rows_by_subject(subjects: Sequence[str]) -> dict[str, list[int]]:
    """The numbers of each subject's samples."""
    rows: dict[str, list[int]] = {}
    for row, subject in enumerate(subjects):
        rows.setdefault(subject, []).append(row)
    return rows


def sums_of(
    tasks: Sequence[Task],
    vectors: SampleVectors,
    targets: Mapping[str, np.ndarray],
    counted: Mapping[str, np.ndarray],
    rows: np.ndarray,
) -> Statistics:
    """The statistics of the samples with these numbers that count.

    tasks: those that are covered
    targets: float32 [n, width] by task
    """
    total = NOTHING
    for task in tasks:
        solver, chosen = solver_of(task), rows[counted[task.name][rows]]
        assert solver
        if len(chosen):
            part = solver.sums(task, vectors.of_task(task).subset(chosen), targets[task.name][chosen])
            total = add(total, part)
    return total


def subject_sums(
    tasks: Sequence[Task],
    vectors: SampleVectors,
    targets: Mapping[str, np.ndarray],
    counted: Mapping[str, np.ndarray],
    subjects: Sequence[str],
) -> Iterator[tuple[str, Statistics]]:
    """Each subject and its statistics, one in memory at a time; those of all together are `merge` of them.

    As in `sums_of`; subjects: of the n samples.
    """
    for subject, rows in rows_by_subject(subjects).items():
        yield subject, sums_of(tasks, vectors, targets, counted, np.array(rows))
