"""Vectors of samples: raw numbers of each block that they have, projected to the grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from homeroom.contract.canonical_json import identity
from homeroom.contract.manifest import Manifest, Task
from homeroom.contract.statistics.accumulate import BlockVectors
from homeroom.contract.statistics.section import Block, Section
from homeroom.data.samples import StoredInput, StoredSample
from homeroom.data.tasks.base import InputKey
from homeroom.train.features.buffer import input_at
from homeroom.train.solve.kinds import solver_of
from homeroom.train.solve.task_vectors import TaskVectors
from homeroom.train.solve.vectors.letters import Spelling
from homeroom.train.solve.vectors.projection import Projection
from homeroom.train.solve.vectors.raw import numbers_of_text, raw_numbers, reads_values

Inputs = Mapping[InputKey, np.ndarray]  # features int8 [taps, n, dim] of a sample
Read = Callable[[StoredSample, StoredInput], StoredInput | None]  # opens an input that was left in the store


@dataclass(frozen=True)
class SampleVectors:
    """Vectors of n samples by name of the block, one for each input of its slots.

    values: int16 [n, inputs, d] on the grid; present: bool [n, inputs]
    """

    section: Section
    values: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]

    @staticmethod
    def joined(parts: Sequence[SampleVectors]) -> SampleVectors:
        """The vectors of one or more lots of samples, one after another."""
        values, present = (
            {name: np.concatenate([getattr(part, kind)[name] for part in parts]) for name in parts[0].values}
            for kind in ("values", "present")
        )
        return SampleVectors(parts[0].section, values, present)

    def subset(self, rows: np.ndarray) -> SampleVectors:
        """The vectors of the samples with these numbers."""
        values, present = ({n: a[rows] for n, a in of.items()} for of in (self.values, self.present))
        return SampleVectors(self.section, values, present)

    def of_task(self, task: Task) -> TaskVectors:
        """The vectors that a task is solved from."""
        blocks, options = blocks_of(self.section, task)
        asked = tuple(self._one(block, 0) for block in blocks)
        inputs = range(options[0].inputs if options else 0)
        return TaskVectors(asked, tuple(tuple(self._one(block, index) for block in options) for index in inputs))

    def _one(self, block: Block, index: int) -> BlockVectors:
        values, present = self.values[block.name], self.present[block.name]
        return BlockVectors(block.statistics_id, values[:, index], present[:, index])


def blocks_of(section: Section, task: Task) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """The blocks that a task is solved from, and those of its options; none where it is not covered.

    A slot of several inputs serves choice alone. Texts that are read as a pair are not read one by one as well: what
    each says alone tells questions apart, not answers.
    """
    solver = solver_of(task)
    if solver is None:
        return (), ()
    if solver.pairs:
        asked, options = (
            tuple(block for block in section.read_by(task.name, task.reads) if block.slots == (slot,))
            for slot in task.reads
        )
        return (asked, options) if asked and options else ((), ())
    read = [block for block in section.read_by(task.name, task.reads) if block.inputs == 1]
    paired = {slot for block in read if len(block.slots) > 1 for slot in block.slots}
    return tuple(block for block in read if len(block.slots) > 1 or block.slots[0] not in paired), ()


def covered(manifest: Manifest) -> list[Task]:
    """The tasks that a bundle's statistics can solve."""
    section = manifest.statistics
    return [task for task in manifest.tasks if isinstance(section, Section) and blocks_of(section, task)[0]]


def sums_id(manifest: Manifest) -> str:
    """What the sums of a bundle's tasks mean: those of two bundles may be added where this is the same; else ""."""
    section, tasks = manifest.statistics, covered(manifest)
    if not isinstance(section, Section) or not tasks:
        return ""
    blocks = {block.name: block.statistics_id for block in section.blocks}
    named = [
        {"name": t.name, "kind": t.kind, "reads": t.reads, "labels": t.labels, "range": [t.offset, t.scale]}
        for t in tasks
    ]
    return identity({"blocks": blocks, "tasks": named, "subject_limit": section.subject_limit})


def sums_ids(manifest: Manifest) -> tuple[str, ...]:
    """What sums may mean that count in a bundle: `sums_id`, and that of each bundle which it extends."""
    return (sums_id(manifest), *(() if manifest.continues is UNSET else manifest.continues.sums))


def sample_vectors(
    manifest: Manifest,
    projections: Mapping[str, Projection],
    samples: Sequence[StoredSample],
    inputs: Sequence[Inputs],
    read: Read,
) -> SampleVectors:
    """The vectors of samples whose features are there.

    inputs: features of each sample, in the order of the samples
    """
    section = manifest.statistics
    assert isinstance(section, Section)
    values, present = {}, {}
    for block in section.blocks:
        width = block.inputs
        there = np.zeros((len(samples), width), bool)
        raw = np.zeros((len(samples), width, block.width), np.float32)
        projection, pairs = projections[block.name], zip(samples, inputs, strict=True)
        for row, index, numbers in raw_rows(manifest, block.slots, block.kind, pairs, read, projection.spelling):
            raw[row, index], there[row, index] = numbers, True
        vectors = np.zeros((len(samples), width, block.dimension), np.int16)  # at most 2^10
        vectors[there] = projection(raw[there])
        values[block.name], present[block.name] = vectors, there
    return SampleVectors(section, values, present)


def raw_rows(
    manifest: Manifest,
    slots: tuple[str, ...],
    kind: str,
    samples: Iterable[tuple[StoredSample, Inputs]],
    read: Read,
    spelling: Spelling | None = None,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields (number of the sample, number of the input, raw numbers float32 [width]) of inputs that are present.

    spelling: of a block of letters.
    """
    modality = manifest.modality(manifest.slot(slots[0]).modality)
    of_text = numbers_of_text(kind, modality, spelling)
    for row, (sample, features) in enumerate(samples):
        for index in range(manifest.slot(slots[0]).count):
            keys = [(slot, index) for slot in slots]
            if not all(key in features for key in keys):
                continue
            opened = _opened(sample, keys, read) if reads_values(kind) else []
            if any(value is None for value in opened):
                continue
            arrays = [features[key] for key in keys]
            yield row, index, raw_numbers(kind, modality, arrays, opened, sample.language or "", of_text)


def _opened(sample: StoredSample, keys: Sequence[InputKey], read: Read) -> list[StoredInput | None]:
    values = [input_at(sample, slot, index) for slot, index in keys]
    return [None if value is None else read(sample, value) for value in values]
