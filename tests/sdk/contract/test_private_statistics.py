"""Private statistics: one unit more moves what is sent by one clip, and class sums alone are in it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeroom.contract.manifest import Task
from homeroom.contract.privacy import Privacy
from homeroom.contract.statistics.accumulate import BlockVectors, to_grid
from homeroom.contract.statistics.private import PrivateShape, clipped_sums, private_shape
from homeroom.contract.statistics.sums import GRID_BITS, ONE, Statistics, merge
from homeroom.errors import InputError
from homeroom.train.solve.base import Blocks, Strength
from homeroom.train.solve.directions import DirectionHead, solve_directions
from homeroom.train.solve.discriminant import sum_classes
from homeroom.train.solve.task_vectors import TaskVectors

BLOCKS = [("1" * 64, 4), ("2" * 64, 3)]
TASK = Task(name="animal", kind="classification", reads=("word", "picture"), labels=("cat", "dog", "fish"), width=3)
PLACES = np.eye(3, 7) + np.eye(3, 7, 4)  # of the classes, in both blocks


def vectors(classes: np.ndarray, seed: int, *, lacking: float = 0.2) -> TaskVectors:
    """Samples around their classes' places, some without one of the blocks."""
    rng, blocks, start = np.random.default_rng(seed), [], 0
    for name, width in BLOCKS:
        present = rng.random(len(classes)) >= lacking
        place = PLACES[classes][:, start : start + width]
        values = to_grid(0.5 * place + rng.normal(0, 0.1, (len(classes), width)))
        blocks.append(BlockVectors(name, values * present[:, None], present))
        start += width
    return TaskVectors(tuple(blocks))


def subject(seed: int, samples: int) -> Statistics:
    classes = np.random.default_rng(seed).integers(0, 3, samples)
    return sum_classes(TASK, vectors(classes, seed), classes)


def shape() -> PrivateShape:
    return private_shape([TASK], {"animal": BLOCKS})


def promise(clip_norm: float, subjects: int | msgspec.UnsetType = msgspec.UNSET) -> Privacy:
    return Privacy(clip_norm=clip_norm, noise_multiplier=1.0, epsilon=2.0, delta=1e-5, subjects=subjects)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.sampled_from([0.1, 0.5, 1.0, 7.3]),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_one_subject_more_moves_what_is_sent_by_at_most_one_clip(
    samples: list[int], clip_norm: float, most: int, seed: int
) -> None:
    parts = [subject(seed + number, count) for number, count in enumerate(samples)]
    by_subject = promise(clip_norm, most)
    moved = clipped_sums(shape(), parts, by_subject) - clipped_sums(shape(), parts[1:], by_subject)
    assert int((moved * moved).sum()) <= by_subject.clip_grid(GRID_BITS) ** 2
    whole = clipped_sums(shape(), [merge(parts)], promise(clip_norm))
    assert int((whole * whole).sum()) <= by_subject.clip_grid(GRID_BITS) ** 2


def test_sums_within_the_clip_are_sent_exactly_without_counts_and_moments() -> None:
    part = subject(3, 5)
    sent = shape().statistics(clipped_sums(shape(), [part], promise(1000.0)))
    assert sent.cells
    assert {cell.kind for cell in sent.cells} == {"vector"}
    assert all(np.array_equal(values, part.cells[cell]) for cell, values in sent)


def test_every_class_has_its_numbers_whoever_taught_it() -> None:
    assert shape().size == 3 * (4 + 3)
    assert len(clipped_sums(shape(), [], promise(1.0))) == shape().size
    assert not clipped_sums(shape(), [Statistics({})], promise(1.0)).any()


def test_a_task_of_numbers_is_refused_with_a_sentence() -> None:
    weight = Task(name="weight", kind="regression", reads=("word",), labels=(), width=1)
    with pytest.raises(InputError, match="weight is regression, and private statistics are of classification"):
        private_shape([weight], {"weight": BLOCKS})


def test_a_clip_that_rounding_takes_whole_is_refused() -> None:
    with pytest.raises(InputError, match="less than what rounding 21 numbers takes"):
        clipped_sums(shape(), [subject(1, 2)], promise(4 / ONE, 2))


def direction_head(times: int = 1) -> DirectionHead:
    classes = np.repeat(np.arange(3), 20)
    public = sum_classes(TASK, vectors(classes, 1), classes)
    released = Statistics({cell: times * values for cell, values in subject(2, 60) if cell.kind == "vector"})
    return solve_directions(TASK, released, public, Blocks(BLOCKS), Strength(0.3, 0.0))


def test_directions_answer_from_any_subset_of_inputs() -> None:
    expected = np.repeat(np.arange(3), 30)
    samples = vectors(expected, 5, lacking=0.4)
    there = np.any([block.present for block in samples.blocks], axis=0)
    logits = direction_head().outputs(samples)
    assert not logits[~there].any()
    assert (logits[there].argmax(1) == expected[there]).mean() > 0.95


def test_how_many_samples_stand_behind_a_sum_changes_no_answer() -> None:
    samples = vectors(np.arange(3), 6, lacking=0.0)
    assert np.allclose(direction_head().outputs(samples), direction_head(7).outputs(samples))
