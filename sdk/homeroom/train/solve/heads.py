"""The solved heads of a bundle: of each covered task of which some sample has a label."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import UNSET

from homeroom.contract.manifest import Manifest, Task
from homeroom.contract.statistics.section import Block, Section
from homeroom.contract.statistics.sums import Statistics, add
from homeroom.data.samples import StoredSample
from homeroom.train.features.dataset import Example, inputs_of
from homeroom.train.solve.base import Blocks, SolvedHead, Solver, Strength
from homeroom.train.solve.combine import SolvedOutputs
from homeroom.train.solve.discriminant import ClassHead, LevelHead
from homeroom.train.solve.distance import nearest_class
from homeroom.train.solve.kinds import ON_TOP, solver_of
from homeroom.train.solve.task_vectors import TaskVectors, all_present
from homeroom.train.solve.vectors.projection import Projection
from homeroom.train.solve.vectors.samples import Read, SampleVectors, blocks_of, covered, sample_vectors

ROWS_TOGETHER = 256  # samples whose numbers before projection are in memory at once


@dataclass(frozen=True)
class TaskHead:
    """A task's head.

    taught: bool [blocks, width], the outputs that its samples with a block say anything of
    reads: the `statistics_id`s of its blocks
    """

    task: Task
    solver: Solver
    head: SolvedHead
    taught: np.ndarray
    reads: frozenset[str]

    def outputs(self, vectors: TaskVectors) -> SolvedOutputs:
        """Its outputs for samples; nothing is known of an output that was taught with none of a sample's inputs.

        vectors: of the task; blocks that the head does not read are left out.
        """
        vectors = vectors.only(self.reads)
        there = np.stack([block.present for block in vectors.blocks], 1)
        known = (there[:, :, None] & self.taught).any(1)
        if self.solver.pairs:
            known &= np.any([all_present(option) for option in vectors.options], axis=0)[:, None]
        head = self.head
        distance = nearest_class(head.discriminant, vectors) if isinstance(head, ClassHead | LevelHead) else None
        return SolvedOutputs(self.head.outputs(vectors), known, self.solver.exclusive, distance)


def section_strength(section: Section, task: str) -> Strength:
    """What a bundle says of a task's head."""
    components = {} if section.components is UNSET else section.components
    return Strength(section.shrinkage, section.prior_power, components.get(task))


def solve(
    manifest: Manifest,
    total: Statistics,
    strengths: Mapping[str, Strength] | None = None,
    *,
    unlettered: Collection[str] = (),
) -> dict[str, TaskHead]:
    """The heads by task; none of a task of which the total says nothing.

    total: sums of this manifest's meaning
    strengths: by task, in place of the manifest's
    unlettered: tasks whose heads read no letters, of those that `reads_letters_beside`
    """
    section, heads = manifest.statistics, {}
    for task in covered(manifest):
        assert isinstance(section, Section)
        solver, (blocks, options) = solver_of(task), blocks_of(section, task)
        if task.name in unlettered:
            blocks, options = _without_letters(blocks), _without_letters(options)
        part = total.of_task(task.name)
        assert solver
        taught = np.stack([solver.taught(task, _of_block(part, block.statistics_id)) for block in blocks])
        if taught.any():
            read = Blocks(*([(block.statistics_id, block.dimension) for block in some] for some in (blocks, options)))
            strength = (strengths or {}).get(task.name) or section_strength(section, task.name)
            head = solver.head(task, part, read, strength)
            reads = frozenset(block.statistics_id for block in (*blocks, *options))
            heads[task.name] = TaskHead(task, solver, head, taught, reads)
    return heads


def reads_letters_beside(section: Section, task: Task) -> bool:
    """Whether a head of the task reads letters, and could do without."""
    sides = blocks_of(section, task)
    return any(_without_letters(side) != side for side in sides) and all(map(_without_letters, sides))


def _without_letters(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block.kind != "letters")


def solve_on_top(
    manifest: Manifest,
    own: Statistics,
    others: Statistics,
    priors: Mapping[str, float],
    unlettered: Collection[str] = (),
) -> dict[str, TaskHead]:
    """The heads of own sums and those of others: as `kinds.ON_TOP` moves them where a task has a prior, else added.

    priors: samples that the others' solution counts as, by task
    unlettered: as for `solve`
    """
    heads = solve(manifest, add(own, others), unlettered=unlettered)
    if not priors or not others.cells:
        return heads
    shared, mine = (solve(manifest, part, unlettered=unlettered) for part in (others, own))
    for name in priors.keys() & heads.keys() & shared.keys() & mine.keys():
        if on_top := ON_TOP.get(heads[name].task.kind):
            total, theirs, ours = (some[name].head for some in (heads, shared, mine))
            heads[name] = replace(heads[name], head=on_top.moved(total, theirs, ours, priors[name]))
    return heads


def _of_block(part: Statistics, block: str) -> Statistics:
    """The cells of one block alone."""
    return Statistics({cell: values for cell, values in part.cells.items() if set(cell.blocks) == {block}})


def outputs_by_task(heads: Mapping[str, TaskHead], vectors: SampleVectors) -> dict[str, SolvedOutputs]:
    """The outputs of each head for samples."""
    return {name: head.outputs(vectors.of_task(head.task)) for name, head in heads.items()}


def vectors_of(
    manifest: Manifest,
    projections: Mapping[str, Projection],
    samples: Sequence[StoredSample],
    examples: Sequence[Example],
    read: Read,
) -> SampleVectors:
    """The vectors of examples, some at a time. samples: theirs, and perhaps others that have no example."""
    parts, rest = list[SampleVectors](), iter(samples)
    for start in range(0, max(1, len(examples)), ROWS_TOGETHER):
        rows = np.arange(start, min(start + ROWS_TOGETHER, len(examples)))
        theirs = [_sample_of(examples[row], rest) for row in rows.tolist()]
        parts.append(sample_vectors(manifest, projections, theirs, inputs_of(examples, rows), read))
    return SampleVectors.joined(parts)


def _sample_of(example: Example, rest: Iterator[StoredSample]) -> StoredSample:
    """The next sample that the example was made of; one that is not stored has no id."""
    return next(sample for sample in rest if example.sample_id in ("", sample.sample_id))
