"""What a device's total must keep before it leaves in plain rounds; the device sees to it, and the aggregator checks.

A sum of one sample is its feature vector. So each row has at least LEAST_SAMPLES samples of LEAST_SUBJECTS subjects, in
every pair of blocks that it has, and second moments are of at least LEAST_MOMENT_SAMPLES.
"""

from __future__ import annotations

from collections.abc import Iterable

from homeroom.contract.manifest import Manifest, Task
from homeroom.contract.statistics.messages import Support
from homeroom.contract.statistics.pooling import (
    OTHERS,
    POOLED_KINDS,
    SHARED_KINDS,
    Pair,
    pairs_of,
    positive,
    rows_of_moments,
)
from homeroom.contract.statistics.sums import NUMBER_LIMIT, ONE, Cell, Statistics, check_total
from homeroom.errors import UpdateError

LEAST_SAMPLES = LEAST_SUBJECTS = 3
LEAST_MOMENT_SAMPLES = 20


def moment_samples(total: Statistics, task: Task, pair: Pair) -> int:
    """The samples that a pair's second moments are summed over."""
    rows = rows_of_moments(task.kind, total.rows(task.name))
    return sum(total.count(task.name, row, *pair) for row in rows)


def widths_of(manifest: Manifest) -> dict[str, int]:
    """The dimension of each block of a bundle, by `statistics_id`."""
    section = manifest.statistics
    return {block.statistics_id: block.dimension for block in section.blocks} if section else {}


def _widths(manifest: Manifest, task: Task) -> dict[str, int]:
    section = manifest.statistics
    return {b.statistics_id: b.dimension for b in section.read_by(task.name, task.reads)} if section else {}


def letter_tasks(manifest: Manifest) -> tuple[str, ...]:
    """The tasks whose sums hold letters of texts: they leave a device in secure rounds alone."""
    return manifest.statistics.letter_tasks if manifest.statistics else ()


def rows_of(task: Task) -> frozenset[str]:
    """The names that rows of a task have."""
    if task.kind in ("choice", "matching"):
        return frozenset({"true", "false"})
    return frozenset({*task.labels, OTHERS}) if task.kind in POOLED_KINDS else frozenset({""})


def largest_of_a_sample(tasks: Iterable[Task]) -> int:
    """The largest integer that one sample adds to a sum of any of these tasks."""
    return ONE**2 * (NUMBER_LIMIT**2 if any(task.kind == "regression" for task in tasks) else 1)


def check_release(total: Statistics, manifest: Manifest) -> None:
    """UpdateError unless samples of this bundle's tasks and blocks can have such sums."""
    tasks = {task.name: task for task in manifest.tasks if task.kind in SHARED_KINDS}
    widths = {name: _widths(manifest, task) for name, task in tasks.items()}
    for cell, values in total:
        _check_cell(cell, len(values), tasks.get(cell.task), widths.get(cell.task, {}))
    check_total(total)
    for name in sorted({cell.task for cell in total.cells}):
        if not positive(total, name, tasks[name].kind):
            raise UpdateError("second moments that no samples with these sums have", code="too_large", where=name)


def check_shared(total: Statistics, subjects: Iterable[Support], manifest: Manifest, sample_limit: int) -> None:
    """UpdateError unless a device's whole total is as `check_release` says, and of enough samples and subjects.

    subjects: as the device attests them. sample_limit: of a device in a task.
    """
    check_release(total, manifest)
    for name in letter_tasks(manifest):
        if total.of_task(name).cells:
            raise UpdateError("letters of texts leave a device in secure rounds alone", code="malformed", where=name)
    attested = dict[tuple[str, str, str, str], int]()
    for s in subjects:
        if (key := (s.task, s.row, s.first, s.last)) in attested:
            raise UpdateError("two numbers of subjects for one row", code="malformed", where=s.task)
        attested[key] = s.subjects
    for cell, values in total:
        if cell.kind == "count":
            _check_enough(cell, int(values[0]), attested, LEAST_SAMPLES)
    for task in manifest.tasks:
        for pair in pairs_of(total, task.name):
            moments = Cell(task.name, "moment", "", pair)
            _check_enough(moments, moment_samples(total, task, pair), attested, LEAST_MOMENT_SAMPLES)
            if sum(total.count(task.name, row, *pair) for row in total.rows(task.name)) > sample_limit:
                raise UpdateError(f"more than {sample_limit:,} samples", code="too_large", where=task.name)


def _check_cell(cell: Cell, length: int, task: Task | None, widths: dict[str, int]) -> None:
    if task is None or not widths.keys() >= set(cell.blocks):
        raise UpdateError("it is of no task or block of this bundle", code="other_bundle", where=str(cell))
    first, last = widths[cell.blocks[0]], widths[cell.blocks[-1]]
    triangle = first * (first + 1) // 2 if cell.blocks[0] == cell.blocks[-1] else first * last
    wanted = {"count": 1, "number": 2, "vector": first, "product": first, "moment": triangle}[cell.kind]
    if length != wanted:
        raise UpdateError(f"{length} values, not {wanted}", code="wrong_shape", where=str(cell))
    whole = cell.kind in ("moment", "number", "product")
    numbers = cell.kind in ("number", "product")
    if (cell.row != "" if whole else cell.row not in rows_of(task)) or (numbers and task.kind != "regression"):
        raise UpdateError("it is no row of its task", code="malformed", where=str(cell))


def _check_enough(cell: Cell, samples: int, attested: dict[tuple[str, str, str, str], int], least: int) -> None:
    subjects = attested.get((cell.task, cell.row, cell.blocks[0], cell.blocks[1]), 0)
    if samples < least or subjects < LEAST_SUBJECTS or subjects > samples:
        what = f"{samples:,} samples of {subjects:,} subjects, and {least} of {LEAST_SUBJECTS} are the least"
        raise UpdateError(what, code="too_few", where=str(cell))
