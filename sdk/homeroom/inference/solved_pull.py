"""What each input adds to the solved part of one answer, exactly: the solved head's output is a sum over its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from homeroom.contract.statistics.section import Section
from homeroom.train.solve.combine import Mix
from homeroom.train.solve.heads import TaskHead
from homeroom.train.solve.vectors.samples import SampleVectors, blocks_of

ALONE = Mix(solved=1.0)  # of a task that theta never learned


@dataclass(frozen=True)
class SolvedPull:
    """The solved part of one answer.

    mix: how it counts beside theta
    by_slot: float64 [width] by slot; None where the head's output is no sum over inputs
    """

    mix: Mix
    by_slot: Mapping[str, np.ndarray] | None

    @property
    def theta_scale(self) -> float:
        """What theta's outputs are multiplied by in the answer's."""
        return (1 - self.mix.solved) / self.mix.trained_temperature / self.mix.temperature

    @property
    def solved_scale(self) -> float:
        """What the solved head's outputs are multiplied by in the answer's."""
        return self.mix.solved / self.mix.solved_temperature / self.mix.temperature


def solved_pull(head: TaskHead, vectors: SampleVectors, mix: Mix | None) -> SolvedPull | None:
    """The solved part of the answer for the one sample of the vectors; None where that is theta's alone.

    A sum over inputs is exact where each block reads one of them, and the head knows every output.
    """
    of_task, section = vectors.of_task(head.task), vectors.section
    assert isinstance(section, Section)
    known = head.outputs(of_task).known
    if not known.any():
        return None
    blocks, _ = blocks_of(section, head.task)
    exact = head.solver.contributions is not None and known.all() and all(len(block.slots) == 1 for block in blocks)
    if not exact or head.solver.contributions is None:
        return SolvedPull(mix or ALONE, None)
    parts = head.solver.contributions(head.head, of_task)[0]
    there = [block.present[0] for block in of_task.blocks]
    by_slot = {block.slots[0]: part for block, part, has in zip(blocks, parts, there, strict=True) if has}
    return SolvedPull(mix or ALONE, by_slot)
