"""Each subject's sums are known apart: they add up, weigh no more than allowed, and leave without a trace."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import to_grid
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.section import Block, Section
from homeroom.contract.statistics.sums import Statistics, check_total, merge, subtract
from homeroom.data.tasks import losses
from homeroom.train.solve.combine import (
    SOLVED_WEIGHT,
    Mix,
    SolvedOutputs,
    answered,
    choose_weight,
    combined,
)
from homeroom.train.solve.paired import LEAST_PAIRS, clearly_lower
from homeroom.train.solve.subjects import counted_rows, subject_sums
from homeroom.train.solve.vectors.samples import SampleVectors, blocks_of

BLOCK = Block(statistics_id="1" * 64, kind="taps", slots=("picture",), width=8, dimension=4)
ANIMAL = Task(name="animal", kind="classification", reads=("picture",), labels=("cat", "dog"), width=2)
WEIGHT = Task(name="weight", kind="regression", reads=("picture",), width=1)


def lesson(count: int, limit: int = 1000) -> tuple[SampleVectors, dict[str, np.ndarray], list[str], list[str]]:
    rng = np.random.default_rng(count)
    section = Section(file="statistics.safetensors", blocks=(BLOCK,), subject_limit=limit)
    grid = to_grid(rng.normal(0, 0.4, (count, 4)))[:, None]
    vectors = SampleVectors(section, {"picture": grid}, {"picture": np.ones((count, 1), bool)})
    targets = {"animal": np.eye(2, dtype=np.float32)[rng.integers(0, 2, count)], "weight": rng.normal(size=(count, 1))}
    subjects = [f"pupil-{rng.integers(0, 5)}" for _ in range(count)]
    return vectors, targets, subjects, [f"{i:032x}" for i in range(count)]


def sums(count: int, limit: int = 1000, only: np.ndarray | None = None) -> dict[str, Statistics]:
    vectors, targets, subjects, ids = lesson(count, limit)
    rows = np.arange(count) if only is None else only
    some = SampleVectors(
        vectors.section,
        {"picture": vectors.values["picture"][rows]},
        {"picture": vectors.present["picture"][rows]},
    )
    labelled = {"animal": np.ones(len(rows), bool), "weight": rows % 3 == 0}
    part = {name: values[rows] for name, values in targets.items()}
    names = [subjects[row] for row in rows]
    counted = counted_rows(labelled, names, [ids[row] for row in rows], limit)
    return dict(subject_sums([ANIMAL, WEIGHT], some, part, counted, names))


def test_the_subjects_add_up_to_the_total_and_one_leaves_without_a_trace() -> None:
    by_subject = sums(60)
    total = merge(by_subject.values())
    check_total(total)
    _, _, subjects, _ = lesson(60)
    without = np.array([row for row, subject in enumerate(subjects) if subject != "pupil-3"])
    assert encode(subtract(total, by_subject["pupil-3"])) == encode(merge(sums(60, only=without).values()))
    shuffled = np.random.default_rng(0).permutation(60)
    assert encode(merge(sums(60, only=shuffled).values())) == encode(total)
    labels = sum(total.count("animal", label, BLOCK.statistics_id, BLOCK.statistics_id) for label in ANIMAL.labels)
    assert labels == 60
    assert total.count("weight", "", BLOCK.statistics_id, BLOCK.statistics_id) == 20


def test_one_subject_weighs_no_more_than_allowed_whatever_order_its_samples_came_in() -> None:
    limited, again = sums(80, limit=3), sums(80, limit=3, only=np.random.default_rng(1).permutation(80))
    assert limited == again
    for part in limited.values():
        counted = sum(part.count("animal", label, BLOCK.statistics_id, BLOCK.statistics_id) for label in ANIMAL.labels)
        assert counted == 3


def parts(count: int, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a part that is right in so many answers, and targets."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, count)
    said = np.where(rng.random(count) < right, labels, 1 - labels)
    return np.eye(2)[said] * 2 + rng.normal(0, 0.2, (count, 2)), np.eye(2, dtype=np.float32)[labels]


def test_both_parts_count_two_to_one_until_validation_clearly_says_otherwise() -> None:
    good, targets = parts(400, 0.95)
    poor = np.random.default_rng(5).normal(size=good.shape)
    assert choose_weight(ANIMAL, poor, known(good), targets).solved == 1.0
    assert choose_weight(ANIMAL, good, known(poor), targets).solved == 0.0
    assert choose_weight(ANIMAL, good, known(good), targets).solved == SOLVED_WEIGHT


def test_of_few_validation_samples_nearly_all_must_agree_before_the_weight_moves() -> None:
    def weight(count: int, wrong: int, least: float = 0.0) -> float:
        targets = np.eye(2, dtype=np.float32)[np.arange(count) % 2]
        told = targets * 4.0
        told[:wrong] = told[:wrong, ::-1]
        return choose_weight(ANIMAL, np.zeros((count, 2)), known(told), targets, least).solved

    assert weight(LEAST_PAIRS - 1, 0) == 0.0, "nothing is known of so few"
    assert weight(LEAST_PAIRS, 0) > 0.5
    assert weight(12, 1) > 0.5
    assert weight(12, 3) == 0.0, "9 of 12 may be chance"
    assert weight(49, 12) > 0.5
    assert weight(49, 20) == 0.0
    assert weight(12, 12, SOLVED_WEIGHT) == 0.0, "in either direction"
    gain = np.full(20, 0.1)
    gain[0] = -10.0
    assert not clearly_lower(gain), "one great loss outweighs many small gains"


@pytest.mark.parametrize(
    ("better", "worse", "clear"),
    [(9, 0, False), (10, 0, True), (9, 1, False), (11, 1, True), (12, 3, False), (34, 15, True), (33, 16, False)],
)
def test_of_few_samples_nearly_all_must_agree(better: int, worse: int, clear: bool) -> None:
    gain = np.array([1.0] * better + [-0.01] * worse)
    assert gain.mean() > gain.std(ddof=1) / len(gain) ** 0.5
    assert clearly_lower(gain) == clear


def known(values: np.ndarray) -> SolvedOutputs:
    return SolvedOutputs(values, np.ones(values.shape, bool), exclusive=True)


def test_what_no_solved_sample_teaches_theta_answers_alone() -> None:
    rng = np.random.default_rng(3)
    trained, values = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    values[:, 2] = -1e4

    def chances(outputs: np.ndarray) -> np.ndarray:
        return np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)

    taught = np.array([[True, True, False]] * 4 + [[False] * 3])
    mix = Mix(0.5)
    both = chances(answered(mix, trained, SolvedOutputs(values, taught, exclusive=True)))
    assert np.allclose(both[:, 2], chances(trained)[:, 2]), "theta says how likely it is another class"
    assert np.allclose(both[4], chances(trained)[4]), "and answers what is not covered"
    odds = np.log(both[:4, 0] / both[:4, 1])
    expected = ((trained[:, 0] - trained[:, 1]) + (values[:, 0] - values[:, 1]))[:4] / 2
    assert np.allclose(odds, expected), "both tell apart what both know"
    columns = answered(mix, trained, SolvedOutputs(values, taught))
    assert np.allclose(columns, np.where(taught, (trained + values) / 2, trained))


def test_the_mean_is_that_of_calibrated_log_probabilities() -> None:
    first, targets = parts(50, 0.8)
    second, mix = parts(50, 0.9)[0], Mix(0.25, 2.0, 0.5)

    def logs(outputs: np.ndarray) -> np.ndarray:
        return outputs - np.log(np.exp(outputs).sum(1, keepdims=True))

    mean = 0.75 * logs(first / 2.0) + 0.25 * logs(second / 0.5)
    both = combined(mix, first, second)
    assert np.allclose(logs(both), logs(mean))
    assert np.isfinite(losses(ANIMAL, both, targets)).all()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_either_part_may_come_to_nothing(weight: float) -> None:
    first, _ = parts(10, 0.8)
    second = np.full_like(first, -1e4)
    found = combined(Mix(weight), first, second)
    assert np.array_equal(found, second if weight else first)


def test_texts_read_as_a_pair_are_not_read_one_by_one_and_several_inputs_serve_choice_alone() -> None:
    def block(number: int, kind: str, *slots: str, inputs: int = 1) -> Block:
        made = {"kind": kind, "slots": slots, "inputs": inputs, "width": 8, "dimension": 4}
        return msgspec.convert({"statistics_id": f"{number:064x}", **made}, Block)

    one, two = block(1, "text", "question"), block(2, "text", "answer")
    pair, words = block(3, "pair", "question", "answer"), block(4, "overlap", "question", "answer")
    picture, pictures = block(5, "taps", "picture"), block(6, "taps", "pictures", inputs=4)
    section = Section(file="f", blocks=(one, two, pair, words, picture, pictures))

    def read(kind: str, *reads: str) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
        return blocks_of(section, Task(name="t", kind=kind, reads=reads, width=4))

    assert read("classification", "question", "answer", "picture") == ((pair, words, picture), ())
    assert read("classification", "answer", "picture", "pictures") == ((two, picture), ())
    assert read("choice", "question", "pictures") == ((one,), (pictures,))
    assert read("matching", "question", "sound") == ((), ())
    assert read("spans", "question") == ((), ())
