"""Heads solved from sums: as from the samples themselves, from any subset of inputs, with classes added later."""

from __future__ import annotations

import numpy as np
import pytest

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import BlockVectors, to_grid
from homeroom.contract.statistics.pooling import OTHERS, Pooling, pairs_of, pool
from homeroom.contract.statistics.sums import NOTHING, ONE, Statistics, add, check_total, merge, subtract
from homeroom.data.tasks import score, target
from homeroom.train.solve import own_numbers
from homeroom.train.solve.base import Blocks, SolvedHead, Strength
from homeroom.train.solve.combine import Mix, combined
from homeroom.train.solve.discriminant import UNTAUGHT, ClassHead, solve_classes
from homeroom.train.solve.kinds import SOLVERS, solver_of
from homeroom.train.solve.own import choose_prior, left_out, moved
from homeroom.train.solve.ridge import evidence
from homeroom.train.solve.task_vectors import TaskVectors, joined

FIRST, SECOND = "1" * 64, "2" * 64
ANIMALS = ("cat", "dog", "bird", "fish")
STRENGTH = Strength(0.1, 0.5)
ANIMAL = Task(name="animal", kind="classification", reads=("a", "b"), labels=ANIMALS, width=4)
LEVEL = Task(name="level", kind="ordinal", reads=("a", "b"), labels=("low", "middle", "high"), width=2)
TRAITS = Task(name="traits", kind="multilabel", reads=("a", "b"), labels=("flies", "swims"), width=2)
WEIGHT = Task(name="weight", kind="regression", reads=("a", "b"), width=1, offset=5.0, scale=2.0)
WHICH = Task(name="which", kind="choice", reads=("a", "b"), width=3)
SAME = Task(name="same", kind="matching", reads=("a", "b"), width=1)


def blocks(latent: np.ndarray, seed: int, absent: float = 0.0, noise: float = 0.25) -> tuple[BlockVectors, ...]:
    """Two views of latent numbers [n, k], of 6 and 4 dimensions, each absent in a share of the samples."""
    ways, rng = np.random.default_rng(5), np.random.default_rng(seed)
    views = []
    for name, width in ((FIRST, 6), (SECOND, 4)):
        vectors = latent @ ways.normal(0, 0.3, (latent.shape[1], width))
        present = rng.random(len(latent)) >= absent
        grid = to_grid(vectors + rng.normal(0, noise * 0.3, vectors.shape)) * present[:, None]
        views.append(BlockVectors(name, grid, present))
    return tuple(views)


def widths(vectors: TaskVectors) -> Blocks:
    options = vectors.options[0] if vectors.options else ()
    return Blocks(*([(b.statistics_id, b.values.shape[1]) for b in some] for some in (vectors.blocks, options)))


def head(task: Task, statistics: Statistics, vectors: TaskVectors, strength: Strength = STRENGTH) -> SolvedHead:
    solver = solver_of(task)
    assert solver
    return solver.head(task, statistics, widths(vectors), strength)


def sums(task: Task, vectors: TaskVectors, targets: np.ndarray) -> Statistics:
    solver = solver_of(task)
    assert solver
    found = solver.sums(task, vectors, targets)
    check_total(found)
    return found


def animals(count: int, seed: int, absent: float = 0.3, classes: int = 4) -> tuple[TaskVectors, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    latent = np.eye(4)[labels] * 1.5 + rng.normal(0, 0.3, (count, 4))
    return TaskVectors(blocks(latent, seed, absent)), np.eye(4, dtype=np.float32)[labels]


def test_logits_are_those_of_a_discriminant_of_the_samples_themselves() -> None:
    vectors, targets = animals(300, 1, absent=0.0)
    x, labels = joined(vectors.blocks), targets.argmax(1)
    overall = x.mean(0)
    counts = np.bincount(labels)
    means = np.stack([(x[labels == c].sum(0) + 2 * overall) / (n + 2) for c, n in enumerate(counts)])
    within = np.mean([np.outer(r, r) for r in x - np.stack([x[labels == c].mean(0) for c in range(4)])[labels]], 0)
    within = (300 * within + 2 * np.diag(x.var(0))) / 302
    spread = np.sqrt(np.diag(within))
    inverse = np.linalg.inv(within / spread[:, None] / spread + STRENGTH.shrinkage * np.eye(len(within)))
    standardized = means / spread
    bias = STRENGTH.prior_power * np.log(counts / 300) - 0.5 * (standardized @ inverse * standardized).sum(1)
    expected = (x / spread) @ inverse @ standardized.T + bias
    found = head(ANIMAL, sums(ANIMAL, vectors, targets), vectors).outputs(vectors)
    assert np.allclose(found, (1 + STRENGTH.shrinkage) * expected, atol=1e-6)


def test_a_federation_answers_as_all_data_in_one_place_and_as_if_the_forgotten_had_never_been() -> None:
    vectors, targets = animals(240, 2)
    whole = sums(ANIMAL, vectors, targets)
    homes = np.random.default_rng(3).integers(0, 5, 240)
    parts = [
        sums(ANIMAL, vectors.subset(rows), targets[rows]) for s in range(5) for rows in [np.flatnonzero(homes == s)]
    ]
    assert merge(parts) == whole
    rest = np.flatnonzero(homes != 2)
    kept = head(ANIMAL, sums(ANIMAL, vectors.subset(rest), targets[rest]), vectors).outputs(vectors)
    assert np.array_equal(head(ANIMAL, subtract(whole, parts[2]), vectors).outputs(vectors), kept)


def test_any_subset_of_inputs_is_answered_by_its_marginal() -> None:
    vectors, targets = animals(400, 4, absent=0.4)
    together = head(ANIMAL, sums(ANIMAL, vectors, targets), vectors).outputs(vectors)
    right = []
    for alone in (0, 1):
        one = TaskVectors((vectors.blocks[alone],))
        only = head(ANIMAL, sums(ANIMAL, one, targets), one).outputs(one)
        rows = vectors.blocks[alone].present & ~vectors.blocks[1 - alone].present
        right.append((together.argmax(1) == targets.argmax(1))[rows].mean())
        assert rows.sum() > 40
        agree = together[rows].argmax(1) == only[rows].argmax(1)  # the shares of classes differ a little
        assert agree.mean() > 0.95
    both = vectors.blocks[0].present & vectors.blocks[1].present
    right.append((together.argmax(1) == targets.argmax(1))[both].mean())
    assert min(right) > 0.7
    assert right[2] >= max(right[:2])
    nothing = ~vectors.blocks[0].present & ~vectors.blocks[1].present
    assert len(np.unique(together[nothing], axis=0)) == 1  # the priors


def test_a_class_is_masked_until_it_is_taught_and_then_as_if_it_had_always_been_there() -> None:
    vectors, targets = animals(300, 6)
    old = targets[:, :2].any(1)
    first = sums(ANIMAL, vectors.subset(np.flatnonzero(old)), targets[old])
    before = head(ANIMAL, first, vectors).outputs(vectors)
    assert (before[:, 2:] < -5000).all()
    fewer = Task(name="animal", kind="classification", reads=("a", "b"), labels=ANIMALS[:2], width=2)
    assert np.allclose(head(fewer, first, vectors).outputs(vectors), before[:, :2])
    second = sums(ANIMAL, vectors.subset(np.flatnonzero(~old)), targets[~old])
    taught = head(ANIMAL, merge([first, second]), vectors).outputs(vectors)
    assert np.array_equal(taught, head(ANIMAL, sums(ANIMAL, vectors, targets), vectors).outputs(vectors))
    assert score(ANIMAL, taught, targets).value > 0.7


def levels(count: int, seed: int) -> tuple[TaskVectors, np.ndarray]:
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 3, count)
    latent = level[:, None] + rng.normal(0, 0.3, (count, 3))
    return TaskVectors(blocks(latent, seed, 0.2)), np.stack([target(LEVEL, LEVEL.labels[k]) for k in level])


def traits(count: int, seed: int) -> tuple[TaskVectors, np.ndarray]:
    rng = np.random.default_rng(seed)
    has = rng.random((count, 2)) < 0.4
    latent = np.hstack([has * 2.0, rng.normal(0, 1, (count, 1))]) + rng.normal(0, 0.3, (count, 3))
    return TaskVectors(blocks(latent, seed, 0.2)), has.astype(np.float32)


def weights(count: int, seed: int) -> tuple[TaskVectors, np.ndarray]:
    rng = np.random.default_rng(seed)
    latent = rng.normal(0, 0.7, (count, 3))
    numbers = latent @ np.array([1.0, -0.5, 0.2]) + rng.normal(0, 0.1, count)
    return TaskVectors(blocks(latent, seed, 0.2)), numbers[:, None].astype(np.float32)


def choices(count: int, seed: int) -> tuple[TaskVectors, np.ndarray]:
    rng = np.random.default_rng(seed)
    latent, others = rng.normal(0, 0.7, (count, 4)), rng.normal(0, 0.7, (2, count, 4))
    asked, right = blocks(latent, seed)
    wrong = [blocks(other, seed + 1 + i)[1] for i, other in enumerate(others)]
    at = rng.integers(0, 3, count)
    options = np.stack([right.values, wrong[0].values, wrong[1].values], 1)
    order = np.stack([np.roll([0, 1, 2], k) for k in at])
    mixed = np.take_along_axis(options, order[:, :, None], 1)
    given = tuple((BlockVectors(SECOND, mixed[:, k], np.ones(count, bool)),) for k in range(3))
    return TaskVectors((asked,), given), np.eye(3, dtype=np.float32)[order.argmin(1)]


def matches(count: int, seed: int) -> tuple[TaskVectors, np.ndarray]:
    vectors, right = choices(count, seed)
    return TaskVectors(vectors.blocks, vectors.options[:1]), right[:, :1]


@pytest.mark.parametrize(
    ("task", "lesson", "least"),
    [(LEVEL, levels, 0.8), (TRAITS, traits, 0.7), (WEIGHT, weights, 0.0), (WHICH, choices, 0.8), (SAME, matches, 0.75)],
)
def test_every_kind_is_solved(task: Task, lesson: object, least: float) -> None:
    vectors, targets = lesson(400, 1)  # type: ignore[operator]
    unseen, expected = lesson(200, 2)  # type: ignore[operator]
    outputs = head(task, sums(task, vectors, targets), vectors).outputs(unseen)
    assert outputs.shape == (200, task.width)
    if task is WEIGHT:
        assert np.mean((outputs - expected) ** 2) < 0.2 * np.var(expected)
    else:
        assert score(task, outputs, expected).value > least


def test_every_kind_is_among_those_that_are_tried_here() -> None:
    assert {task.kind for task in (ANIMAL, LEVEL, TRAITS, WEIGHT, WHICH, SAME)} == set(SOLVERS)
    assert solver_of(Task(name="t", kind="spans", reads=("a",), labels=("x",), width=2)) is None


def test_a_ratio_is_that_of_two_gaussians() -> None:
    from homeroom.train.solve.canonical import PairHead

    nothing = (np.zeros(1), np.eye(1))
    rule = PairHead(nothing, nothing, np.array([0.6]), 0.0)
    x, y = np.array([[0.4], [-1.2]]), np.array([[0.9], [0.3]])
    joint = np.array([[1, 0.6], [0.6, 1]])
    pairs = np.hstack([x, y])
    together = -0.5 * (pairs @ np.linalg.inv(joint) * pairs).sum(1) - 0.5 * np.log(np.linalg.det(joint))
    assert np.allclose(rule.ratio(x, y), together + 0.5 * (pairs**2).sum(1))


def test_the_evidence_leaves_many_samples_alone_and_takes_noise_back() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 4))
    y = x @ np.array([1.0, 0.5, 0.0, -0.3]) + rng.normal(0, 0.1, 5000)
    fitted, _ = evidence(x.T @ x / 5000, x.T @ y / 5000, float(y.var()), 5000)
    assert np.allclose(fitted, np.linalg.lstsq(x, y, rcond=None)[0], atol=1e-3)
    noise = rng.normal(size=5000)
    flat, _ = evidence(x.T @ x / 5000, x.T @ noise / 5000, float(noise.var()), 5000)
    assert np.linalg.norm(flat) < 0.5 * np.linalg.norm(x.T @ noise / 5000) + 1e-3


def few(vectors: TaskVectors, targets: np.ndarray) -> tuple[TaskVectors, np.ndarray]:
    return vectors.subset(np.arange(3)), targets[:3]


def without_a_class(vectors: TaskVectors, targets: np.ndarray) -> tuple[TaskVectors, np.ndarray]:
    return animals(60, 3, classes=1)


def constant_block(vectors: TaskVectors, targets: np.ndarray) -> tuple[TaskVectors, np.ndarray]:
    first, second = vectors.blocks
    return TaskVectors((BlockVectors(FIRST, np.full_like(first.values, 50), first.present | True), second)), targets


def empty_block(vectors: TaskVectors, targets: np.ndarray) -> tuple[TaskVectors, np.ndarray]:
    first, second = vectors.blocks
    return TaskVectors((BlockVectors(FIRST, first.values * 0, first.present & False), second)), targets


def apart(vectors: TaskVectors, targets: np.ndarray) -> tuple[TaskVectors, np.ndarray]:
    """No sample has both blocks, and one class is in one block only."""
    first, second = vectors.blocks
    lone = np.arange(len(targets)) % 2 == 0
    lone |= targets[:, 1] > 0
    one = BlockVectors(FIRST, first.values * lone[:, None], lone)
    return TaskVectors((one, BlockVectors(SECOND, second.values * ~lone[:, None], ~lone))), targets


@pytest.mark.parametrize("fault", [few, without_a_class, constant_block, empty_block, apart])
@pytest.mark.parametrize("task", [ANIMAL, LEVEL, TRAITS, WEIGHT])
def test_poor_samples_give_finite_answers(fault: object, task: Task) -> None:
    vectors, targets = fault(*animals(80, 5, absent=0.1))  # type: ignore[operator]
    labels = {"ordinal": np.minimum(targets[:, :2], 1), "multilabel": targets[:, :2], "regression": targets[:, :1]}
    labels = labels.get(task.kind, targets)
    unseen, _ = animals(50, 6)
    outputs = head(task, sums(task, vectors, labels), unseen).outputs(unseen)
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize(("task", "lesson"), [(WHICH, choices), (SAME, matches)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_pairs_give_finite_answers(task: Task, lesson: object, count: int) -> None:
    vectors, targets = lesson(count, 1)  # type: ignore[operator]
    unseen, _ = lesson(20, 2)  # type: ignore[operator]
    assert np.isfinite(head(task, sums(task, vectors, targets), unseen).outputs(unseen)).all()


def shifted(count: int, seed: int) -> tuple[TaskVectors, np.ndarray]:
    """Samples of another school: its classes look otherwise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    latent = np.roll(np.eye(4), 1, axis=1)[labels] * 1.5 + rng.normal(0, 0.3, (count, 4))
    return TaskVectors(blocks(latent, seed, 0.2)), np.eye(4, dtype=np.float32)[labels]


def own_head(fed: Statistics, vectors: TaskVectors, targets: np.ndarray) -> tuple[float | None, SolvedHead]:
    """How the shared solution counts beside own samples of a person each, and the head of both."""
    shared = solve_classes(ANIMAL, fed, widths(vectors), STRENGTH)
    prior = choose_prior(shared, vectors, targets.argmax(1), [f"p-{row}" for row in range(len(vectors))])
    mine = sums(ANIMAL, vectors, targets)
    total = solve_classes(ANIMAL, add(fed, mine), widths(vectors), STRENGTH)
    own = solve_classes(ANIMAL, mine, widths(vectors), STRENGTH).moments
    return prior, ClassHead(total if prior is None else moved(total, shared, own, prior))


def accuracy(head: SolvedHead, vectors: TaskVectors, targets: np.ndarray) -> float:
    return float((head.outputs(vectors).argmax(1) == targets.argmax(1)).mean())


def test_own_samples_move_the_shared_solution_where_they_differ_and_are_added_where_they_do_not() -> None:
    vectors, targets = animals(600, 1)
    fed = sums(ANIMAL, vectors, targets)
    mine, labels = shifted(40, 8)
    unseen, expected = shifted(300, 9)
    added = head(ANIMAL, add(fed, sums(ANIMAL, mine, labels)), mine)
    prior, on_top = own_head(fed, mine, labels)
    assert prior is not None
    assert prior < 30
    assert accuracy(on_top, unseen, expected) > accuracy(added, unseen, expected) + 0.2
    for count in (12, 60):
        assert own_head(fed, *animals(count, 10))[0] is None, "they are as those of others"
    assert own_head(fed, *shifted(9, 8))[0] is None, "too few to tell"


def test_own_samples_of_one_person_are_judged_by_what_the_others_taught() -> None:
    vectors, targets = animals(600, 1)
    shared = solve_classes(ANIMAL, sums(ANIMAL, vectors, targets), widths(vectors), STRENGTH)
    alike, same = animals(60, 12)
    odd, labels = shifted(60, 8)
    both = TaskVectors(
        tuple(
            BlockVectors(a.statistics_id, np.concatenate([a.values, b.values]), np.concatenate([a.present, b.present]))
            for a, b in zip(alike.blocks, odd.blocks, strict=True)
        )
    )
    classes = np.concatenate([same, labels]).argmax(1)
    apart = ["odd" if row >= 60 else f"p-{row}" for row in range(120)]
    assert choose_prior(shared, both, classes, apart) is None, "the odd one helps nobody else"
    assert choose_prior(shared, odd, labels.argmax(1), ["odd"] * 60) is not None, "alone, sample by sample"
    whole = left_out(shared, odd, labels.argmax(1), None, np.zeros(60, int))
    assert np.allclose(whole, shared.logits(odd), atol=0.2), "what is left out does not count"


def test_an_option_that_is_not_given_is_never_chosen_and_without_a_question_none_is_ahead() -> None:
    vectors, targets = choices(200, 1)
    found = head(WHICH, sums(WHICH, vectors, targets), vectors)
    asked, ((first,), *others) = vectors.blocks[0], vectors.options
    absent = BlockVectors(SECOND, first.values * 0, first.present & False)
    outputs = found.outputs(TaskVectors((asked,), ((absent,), *others)))
    assert (outputs[:, 0] < -5000).all()
    assert (outputs[:, 1:] > -5000).all()
    unasked = BlockVectors(FIRST, asked.values * 0, asked.present & False)
    assert not found.outputs(TaskVectors((unasked,), vectors.options)).any()


def test_a_head_of_fewer_components_is_that_of_vectors_which_have_no_more() -> None:
    vectors, targets = choices(200, 1)

    def first_two(blocks: tuple[BlockVectors, ...]) -> tuple[BlockVectors, ...]:
        return tuple(BlockVectors(b.statistics_id, b.values[:, :2], b.present) for b in blocks)

    short = TaskVectors(first_two(vectors.blocks), tuple(map(first_two, vectors.options)))
    wanted = head(WHICH, sums(WHICH, short, targets), short).outputs(short)
    fewer = Strength(STRENGTH.shrinkage, STRENGTH.prior_power, 2)
    found = head(WHICH, sums(WHICH, vectors, targets), vectors, fewer).outputs(vectors)
    assert np.allclose(found, wanted)
    assert not np.allclose(found, head(WHICH, sums(WHICH, vectors, targets), vectors).outputs(vectors))


def test_two_views_that_agree_fully_are_finite() -> None:
    rng = np.random.default_rng(1)
    grid, every = to_grid(rng.normal(0, 0.3, (300, 4))), np.ones(300, bool)
    both = BlockVectors(FIRST, grid, every), BlockVectors(SECOND, grid, every)
    pairs, right = TaskVectors(both[:1], (both[1:],)), np.ones((300, 1), np.float32)
    outputs = head(SAME, sums(SAME, pairs, right), pairs, Strength(1e-9, 0.0)).outputs(pairs)
    assert np.isfinite(outputs).all()
    assert 3 < outputs.mean() < 12


def test_leave_one_out_is_what_leaving_each_out_gives() -> None:
    vectors, targets = animals(200, 1)
    shared = solve_classes(ANIMAL, sums(ANIMAL, vectors, targets), widths(vectors), STRENGTH)
    mine, labels = shifted(15, 3)
    quick = [left_out(shared, mine, labels.argmax(1), prior, np.arange(15)) for prior in (1.0, 30.0)]
    for row in range(15):
        rest, alone = np.setdiff1d(np.arange(15), [row]), mine.subset(np.array([row]))
        own = solve_classes(ANIMAL, sums(ANIMAL, mine.subset(rest), labels[rest]), widths(vectors), STRENGTH).moments
        slow = [moved(shared, shared, own, prior).logits(alone)[0] for prior in (1.0, 30.0)]
        assert np.allclose(quick[0][row] - quick[1][row], slow[0] - slow[1])


def test_nothing_to_solve_from_is_all_masked() -> None:
    vectors, _ = animals(5, 1)
    outputs = head(ANIMAL, NOTHING, vectors).outputs(vectors)
    assert (outputs < -5000).all()
    assert np.isfinite(outputs).all()


def test_vectors_side_by_side_are_in_units_of_norm_one() -> None:
    vectors, _ = animals(5, 1, absent=0.0)
    assert np.array_equal(joined(vectors.blocks) * ONE, np.hstack([b.values for b in vectors.blocks]))


def test_a_class_that_the_solved_head_was_never_taught_is_left_to_theta() -> None:
    trained, solved = (
        np.array([[0.0, 1.0, 9.0], [5.0, 0.0, 0.0]]),
        np.array([[1.0, 2.0, UNTAUGHT], [3.0, 1.0, UNTAUGHT]]),
    )
    assert combined(Mix(), trained, solved).argmax(1).tolist() == [1, 0]
    assert combined(Mix(solved=1 / 3), trained, solved).argmax(1).tolist() == [2, 0], "no veto where theta is sure"
    assert (combined(Mix(solved=1.0), trained, solved)[:, 2] == UNTAUGHT).all(), "masked where nobody else knows"
    alone = combined(Mix(solved=0.5), trained, np.full((2, 3), UNTAUGHT))
    assert alone.argmax(1).tolist() == [2, 0]


def test_a_row_without_a_name_is_within_the_covariance_and_no_class() -> None:
    rng = np.random.default_rng(3)
    classes = rng.integers(0, 4, 300)
    vectors = TaskVectors(blocks(np.eye(4)[classes], 4, absent=0.2))
    whole = sums(ANIMAL, vectors, np.eye(4)[classes])
    pooling = {"animal": Pooling(frozenset(ANIMALS[:3]), frozenset(pairs_of(whole, "animal")))}
    shared = pool(whole, pooling)
    assert shared.rows("animal") == sorted({OTHERS, *ANIMALS[:3]})
    every, named = (solve_classes(ANIMAL, total, widths(vectors), STRENGTH) for total in (whole, shared))
    found, expected = (one.moments.covariance(range(len(ANIMALS))) for one in (named, every))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (named.taught[:3].tolist(), named.taught[3]) == (every.taught[:3].tolist(), 0)


def other_numbers(count: int, seed: int) -> tuple[TaskVectors, np.ndarray]:
    """Numbers of another school: what is seen says otherwise, and its numbers are higher."""
    vectors, targets = weights(count, seed)
    return vectors, (0.8 - targets).astype(np.float32)


def test_own_numbers_move_the_shared_line_where_they_differ_and_cost_little_where_they_do_not() -> None:
    vectors, targets = weights(600, 1)
    shared = head(WEIGHT, sums(WEIGHT, vectors, targets), vectors)
    for lesson, most in ((other_numbers, 0.5), (weights, 1.03)):
        mine, own = lesson(40, 8)
        unseen, expected = lesson(300, 9)
        total = head(WEIGHT, add(sums(WEIGHT, vectors, targets), sums(WEIGHT, mine, own)), vectors)
        prior = own_numbers.choose_prior(shared, mine, own, [f"p-{row}" for row in range(40)])
        assert prior is not None
        on_top = own_numbers.moved_ridge(total, shared, head(WEIGHT, sums(WEIGHT, mine, own), mine), prior)
        before, after = (float(((one.outputs(unseen) - expected) ** 2).mean()) for one in (total, on_top))
        assert after < most * before


def test_leave_one_out_of_numbers_is_what_leaving_each_out_gives() -> None:
    vectors, targets = weights(200, 1)
    shared = head(WEIGHT, sums(WEIGHT, vectors, targets), vectors)
    mine, own = other_numbers(15, 3)
    every = mine.subset(np.flatnonzero(np.all([block.present for block in mine.blocks], axis=0)))
    own = own[np.flatnonzero(np.all([block.present for block in mine.blocks], axis=0))]
    for prior in (1.0, 30.0):
        quick = own_numbers.left_out(shared, every, own, prior, np.arange(len(own)))
        for row in range(len(own)):
            rest = np.setdiff1d(np.arange(len(own)), [row])
            alone = head(WEIGHT, sums(WEIGHT, every.subset(rest), own[rest]), every)
            moved = own_numbers.moved_ridge(shared, shared, alone, prior)
            assert np.isclose(own[row, 0] - moved.outputs(every.subset(np.array([row])))[0, 0], quick[row], atol=2e-3)
