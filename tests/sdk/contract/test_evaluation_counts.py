"""Counts of an evaluation: sums equal the pooled counts, groups are shown from k on, impossible counts are refused."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from homeroom.contract.evaluation_counts import (
    BINS,
    MOST_CLASSES,
    OTHERS,
    Accuracy,
    CountsShape,
    accuracy,
    add_counts,
    check_counts,
    shown_as,
    worst_tenth,
)
from homeroom.contract.manifest import Task
from homeroom.data.tasks import KINDS, kind_of, score
from homeroom.errors import UpdateError

TASKS = (
    *tiny.TASKS,
    Task(name="history", kind="tracing", reads=("answer",), labels=("a", "b"), width=2),
    Task(name="marks", kind="spans", reads=("answer",), labels=("a", "b"), width=3),
)
FORMS = (CountsShape("classes", 3), CountsShape("columns", 2), CountsShape("right"), CountsShape("numbers"))


def answers(task: Task, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random outputs float32 and targets of a task."""
    rng = np.random.default_rng(seed)
    width = 1 if task.kind == "tracing" else task.width
    outputs = rng.normal(size=(count, width)).astype(np.float32)
    if task.kind in ("classification", "choice", "spans"):
        targets = np.eye(width, dtype=np.float32)[rng.integers(0, width, count)]
    elif task.kind == "ordinal":
        targets = (np.arange(width) < rng.integers(0, width + 1, (count, 1))).astype(np.float32)
    elif task.kind == "regression":
        targets = rng.normal(size=(count, 1)).astype(np.float32)
    else:
        targets = (rng.random((count, width)) < 0.5).astype(np.float32)
    return outputs, targets


def counted(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[int, ...]:
    kind = kind_of(task)
    assert kind.counting is not None
    return tuple(kind.counting.count(task, kind.probabilities(np.asarray(outputs, np.float64)), targets).tolist())


def shape_of(task: Task) -> CountsShape:
    counting = kind_of(task).counting
    assert counting is not None
    return counting.shape(task)


def test_every_kind_of_task_is_counted() -> None:
    assert {task.kind for task in TASKS} == KINDS.keys()
    assert all(kind.counting for kind in KINDS.values())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@given(st.data())
def test_the_sum_over_any_partition_is_the_pooled_count(task: Task, data: st.DataObject) -> None:
    count, seed = data.draw(st.integers(1, 60)), data.draw(st.integers(0, 1000))
    outputs, targets = answers(task, count, seed)
    device = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    parts = [
        counted(task, outputs[device == one], targets[device == one]) for one in data.draw(st.permutations(range(5)))
    ]
    assert add_counts(parts, shape_of(task).size) == counted(task, outputs, targets)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_counts_say_what_the_score_says(task: Task) -> None:
    outputs, targets = answers(task, 200, 1)
    if task.kind == "regression":
        outputs = targets + 0.3 * outputs
    found, scored = accuracy(shape_of(task), counted(task, outputs, targets)), score(task, outputs, targets)
    assert found.samples == scored.n == 200
    assert scored.skill is not None
    assert found.share == pytest.approx(scored.skill, abs=2e-3 if task.kind == "regression" else 1e-12)
    assert found.bin == min(9, int(10 * found.share))
    check_counts(shape_of(task), counted(task, outputs, targets), counted(task, -outputs, targets), "task")


def test_of_many_classes_only_right_ones_are_counted() -> None:
    names = tuple(f"{number}" for number in range(MOST_CLASSES + 1))
    task = Task(name="many", kind="classification", reads=("word",), labels=names, width=len(names))
    outputs, targets = answers(task, 50, 2)
    assert shape_of(task).form == "right"
    assert counted(task, outputs, targets) == (50, int((outputs.argmax(1) == targets.argmax(1)).sum()))


def test_numbers_that_are_not_finite_or_far_off_are_cut_and_counted() -> None:
    task = next(task for task in TASKS if task.kind == "regression")
    outputs = np.array([[np.nan], [np.inf], [100.0], [0.5]])
    *_, cut = values = counted(task, outputs, np.zeros((4, 1)))
    assert cut == 3
    assert accuracy(shape_of(task), values).share == 0
    check_counts(shape_of(task), values, values, "task")


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["", "en", "de"]), st.sampled_from("abc")), st.frozensets(st.integers(0, 7))
    ),
    st.integers(1, 5),
)
def test_no_name_is_fed_by_fewer_than_k(fed: dict[tuple[str, str], frozenset[int]], k: int) -> None:
    fed = {group: who for group, who in fed.items() if who}
    names, who = shown_as(fed, k), dict[tuple[str, str], set[int]]()
    for group, name in names.items():
        assert name in (group, OTHERS)
        who.setdefault(name, set()).update(fed[group])
    assert all(len(members) >= k for members in who.values())
    assert set(names) in (set(), set(fed))
    if fed and len(frozenset[int]().union(*fed.values())) >= k:
        assert names


@given(st.lists(st.integers(0, 240), min_size=1, max_size=45))
def test_the_worst_tenth_is_between_the_bounds(shares: list[int]) -> None:
    exact = sorted(share / 240 for share in shares)
    bins = [0] * BINS
    for share in exact:
        bins[Accuracy(round(240 * share), 240, 240).bin] += 1
    worst = exact[: -(-len(exact) // 10)]
    bounds = worst_tenth(bins)
    assert bounds is not None
    assert bounds[0] - 1e-9 <= sum(worst) / len(worst) <= bounds[1] + 1e-9
    assert bounds[1] - bounds[0] == pytest.approx(0.1)


def test_nobody_has_no_worst_tenth() -> None:
    assert worst_tenth([0] * BINS) is None


IMPOSSIBLE = {
    "too few values": (FORMS[2], (4,), (4,)),
    "negative": (FORMS[2], (4, -1), (4, 1)),
    "more right than samples": (FORMS[2], (4, 5), (4, 4)),
    "no samples": (FORMS[0], (0,) * 9, (0,) * 9),
    "too many samples": (FORMS[2], (1 << 21, 0), (1 << 21, 0)),
    "columns of different samples": (FORMS[1], (1, 0, 0, 0, 2, 0, 0, 0), (1, 0, 0, 0, 2, 0, 0, 0)),
    "other samples": (FORMS[0], (1, 0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 0, 0, 0, 0)),
    "other labels": (FORMS[1], (1, 0, 0, 0, 1, 0, 0, 0), (0, 1, 0, 0, 1, 0, 0, 0)),
    "errors beyond the limit": (FORMS[3], (1, 1 << 20, 1 << 20, 0, 0, 0), (1, 0, 0, 0, 0, 0)),
    "squares too small for their errors": (FORMS[3], (2, 100, 10, 0, 0, 0), (2, 0, 0, 0, 0, 0)),
    "squares too small for their labels": (FORMS[3], (2, 0, 0, -100, 10, 0), (2, 0, 0, -100, 10, 0)),
    "more cut than samples": (FORMS[3], (1, 0, 0, 0, 0, 2), (1, 0, 0, 0, 0, 2)),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_counts_that_no_samples_have_are_refused(name: str) -> None:
    with pytest.raises(UpdateError):
        check_counts(*IMPOSSIBLE[name], "task")
