"""Own pairs on top of shared ones: they move the solution where schools differ, and are added where they do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import BlockVectors, to_grid
from homeroom.contract.statistics.sums import NOTHING, Statistics, add, difference
from homeroom.data.tasks import losses
from homeroom.train.calibration import temperature
from homeroom.train.solve import own_pairs
from homeroom.train.solve.base import Blocks, SolvedHead, Strength
from homeroom.train.solve.kinds import ON_TOP, solver_of
from homeroom.train.solve.task_vectors import TaskVectors

FIRST, SECOND, OPTIONS = "1" * 64, "2" * 64, 3
WHICH = Task(name="which", kind="choice", reads=("a", "b"), width=OPTIONS)
SAME = Task(name="same", kind="matching", reads=("a", "b"), width=1)
Lesson = tuple[TaskVectors, np.ndarray]


def lesson(task: Task, count: int, seed: int, *, turned: bool = False) -> Lesson:
    """Two views of six latent numbers. turned: of another school, where the second view shows other numbers."""
    ways, rng = np.random.default_rng(5), np.random.default_rng(seed)
    first, second = (ways.normal(0, 0.3, (6, width)) for width in (8, 7))
    latent = rng.normal(0, 0.6, (OPTIONS, count, 6))
    seen = np.roll(latent, 1, axis=2) * [1, -1, 1, -1, 1, -1] if turned else latent
    there = np.ones(count, bool)

    def block(name: str, numbers: np.ndarray) -> BlockVectors:
        return BlockVectors(name, to_grid(numbers + rng.normal(0, 0.15, numbers.shape)), there)

    at = rng.integers(0, OPTIONS, count)
    options = tuple((block(SECOND, seen[(k - at) % OPTIONS, np.arange(count)] @ second),) for k in range(OPTIONS))
    asked = (block(FIRST, latent[0] @ first),)
    if task is WHICH:
        return TaskVectors(asked, options), np.eye(OPTIONS, dtype=np.float32)[at]
    return TaskVectors(asked, options[:1]), (at == 0)[:, None].astype(np.float32)


def sums(task: Task, vectors: TaskVectors, targets: np.ndarray) -> Statistics:
    solver = solver_of(task)
    assert solver
    return solver.sums(task, vectors, targets)


def head(task: Task, total: Statistics) -> SolvedHead:
    solver = solver_of(task)
    assert solver
    return solver.head(task, total, Blocks([(FIRST, 8)], [(SECOND, 7)]), Strength(0.3, 0.5))


def people(count: int) -> list[str]:
    return [f"p-{row}" for row in range(count)]


def chosen(task: Task, fed: Statistics, own: Lesson) -> tuple[float | None, SolvedHead]:
    """How many right pairs the shared sums count as, and the head of both."""
    shared, mine, on_top = head(task, fed), sums(task, *own), ON_TOP[task.kind]
    total = head(task, add(fed, mine))
    prior = on_top.choose(shared, *own, people(len(own[1])))
    return prior, total if prior is None else on_top.moved(total, shared, head(task, mine), prior)


def loss(task: Task, found: SolvedHead, asked: Lesson) -> np.ndarray:
    outputs = found.outputs(asked[0])
    return losses(task, outputs, asked[1], temperature(task, outputs, asked[1]))


@pytest.mark.parametrize("task", [WHICH, SAME])
def test_own_pairs_move_the_shared_ones_where_schools_differ(task: Task) -> None:
    fed, mine = sums(task, *lesson(task, 900, 1)), lesson(task, 120, 2, turned=True)
    prior, on_top = chosen(task, fed, mine)
    assert prior is not None
    assert prior <= 100
    unseen = lesson(task, 400, 3, turned=True)
    added = loss(task, head(task, add(fed, sums(task, *mine))), unseen).mean()
    assert loss(task, on_top, unseen).mean() < 0.8 * added


@pytest.mark.parametrize("task", [WHICH, SAME])
@pytest.mark.parametrize("count", [9, 40, 200])
def test_own_pairs_cost_next_to_nothing_where_schools_are_alike(task: Task, count: int) -> None:
    fed, mine = sums(task, *lesson(task, 900, 1)), lesson(task, count, 4)
    prior, on_top = chosen(task, fed, mine)
    assert count > 9 or prior is None, "too few to tell"
    unseen = lesson(task, 400, 3)
    added = loss(task, head(task, add(fed, sums(task, *mine))), unseen).mean()
    assert loss(task, on_top, unseen).mean() < 1.05 * added


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_what_is_chosen_is_on_validation_within_its_error_of_the_better_of_both_alone(noise: float) -> None:
    """noise: share of own labels that are drawn; then the others alone are the better, else the own."""
    fed, (vectors, targets) = sums(WHICH, *lesson(WHICH, 900, 1)), lesson(WHICH, 150, 2, turned=not noise)
    rng = np.random.default_rng(3)
    drawn = rng.random(150) < noise
    labels = np.where(drawn[:, None], np.eye(OPTIONS)[rng.integers(0, OPTIONS, 150)], targets).astype(np.float32)
    shared, parts = head(WHICH, fed), np.arange(150) % 50 % own_pairs.FOLDS
    prior = ON_TOP["choice"].choose(shared, vectors, labels, people(150))
    assert (prior is None or prior > 100) if noise else (prior is not None and prior < 100)
    found = own_pairs.left_out(shared, solver_sums(WHICH), vectors, labels, (prior,), parts)[prior]
    own = np.zeros_like(found)
    for part in range(own_pairs.FOLDS):
        rest, rows = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        alone = head(WHICH, sums(WHICH, vectors.subset(rest), labels[rest]))
        own[rows] = alone.outputs(vectors.subset(rows))
    by_chosen, *others = (
        losses(WHICH, one, labels, temperature(WHICH, one, labels)) for one in (found, own, shared.outputs(vectors))
    )
    for one in others:
        assert (by_chosen - one).mean() <= (by_chosen - one).std() / 150**0.5


@pytest.mark.parametrize("task", [WHICH, SAME])
@pytest.mark.parametrize("prior", [None, 10.0])
def test_what_is_left_out_does_not_count(task: Task, prior: float | None) -> None:
    fed, (vectors, targets) = sums(task, *lesson(task, 300, 1)), lesson(task, 30, 2, turned=True)
    parts, total, on_top = np.arange(30) % 5, sums(task, vectors, targets), ON_TOP[task.kind]
    shared = head(task, fed)
    found = own_pairs.left_out(shared, solver_sums(task), vectors, targets, (prior,), parts)[prior]
    for part in range(5):
        rows = np.flatnonzero(parts == part)
        rest = difference(total, sums(task, vectors.subset(rows), targets[rows]))
        both = head(task, add(fed, rest))
        expected = both if prior is None else on_top.moved(both, shared, head(task, rest), prior)
        np.testing.assert_allclose(found[rows], expected.outputs(vectors.subset(rows)), atol=1e-9)


def solver_sums(task: Task) -> Callable[[Task, TaskVectors, np.ndarray], Statistics]:
    solver = solver_of(task)
    assert solver
    return solver.sums


def test_one_persons_pairs_are_judged_one_by_one() -> None:
    fed, mine = sums(WHICH, *lesson(WHICH, 900, 1)), lesson(WHICH, 120, 2, turned=True)
    choose = ON_TOP["choice"].choose
    assert choose(head(WHICH, fed), *mine, ["one"] * 120) is not None


def test_nothing_shared_leaves_own_pairs_as_they_are() -> None:
    mine = lesson(WHICH, 60, 2)
    own = head(WHICH, sums(WHICH, *mine))
    moved = ON_TOP["choice"].moved(own, head(WHICH, NOTHING), own, 10.0)
    np.testing.assert_allclose(moved.outputs(mine[0]), own.outputs(mine[0]), atol=1e-9)
