"""Every kind of task: labels, targets, probabilities, losses, scores, answers, explanations and forms fit together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from homeroom.contract.evaluation_report import NumberReport, TaskReport, make_report
from homeroom.contract.manifest import NO_UNIT, Task
from homeroom.data.tasks import KINDS, kind_of, losses, probabilities, score, target
from homeroom.data.tasks.base import match_name
from homeroom.data.tasks.metrics import Score, clearly_worse, quantity
from homeroom.errors import InputError

LEVELS = ("low", "middle", "high")
TASKS = {
    "classification": Task(name="t", kind="classification", reads=("x",), labels=LEVELS, width=3),
    "ordinal": Task(name="t", kind="ordinal", reads=("x",), labels=LEVELS, width=2),
    "multilabel": Task(name="t", kind="multilabel", reads=("x",), labels=LEVELS, width=3),
    "regression": Task(name="t", kind="regression", reads=("x",), width=1, offset=10.0, scale=5.0, unit="kg"),
    "choice": Task(name="t", kind="choice", reads=("x", "options"), width=4),
    "matching": Task(name="t", kind="matching", reads=("x", "y"), width=1),
    "spans": Task(name="t", kind="spans", reads=("x",), labels=("claim", "reason"), width=3),
    "tracing": Task(name="t", kind="tracing", reads=("x",), labels=("adding", "counting"), width=2),
}
LABELS: dict[str, tuple[tuple[Any, str, Any], ...]] = {  # the label, as a cell says it, and as it is stored
    "classification": (("low", "low", "low"), ("high", "high", "high")),
    "ordinal": (("low", "low", "low"), ("high", "high", "high")),
    "multilabel": ((["low", "high"], "low | high", ["high", "low"]), ([], "", [])),
    "regression": ((3.5, "3.5", 3.5), (-2, "-2", -2.0)),
    "choice": ((0, "0", 0), (3, "3", 3)),
    "matching": ((True, "yes", True), (False, "False", False)),
}
WRONG: dict[str, tuple[Any, ...]] = {
    "classification": ("none", 3, None),
    "ordinal": ("none", True),
    "multilabel": ("low", ["none"], 3),
    "regression": (True, float("nan"), float("inf"), "3", 1e308, -1e17, 10**400),
    "choice": (4, -1, True, "0"),
    "matching": ("yes", 2),
    "spans": ("claim", [(3, 3, "claim")], [(0, 2, "none")], [(0, 4, "claim"), (2, 5, "reason")]),
    "tracing": (True, []),
}


def test_every_kind_is_tried_here() -> None:
    assert list(TASKS) == list(KINDS)


@pytest.mark.parametrize("name", LABELS)
def test_a_label_is_checked_parsed_and_becomes_a_target_that_a_sure_answer_gives_back(name: str) -> None:
    task, kind = TASKS[name], KINDS[name]
    for label, cell, stored in LABELS[name]:
        assert kind.check(task, label, "here") == kind.check(task, kind.parse(cell), "here") == stored
        wanted = target(task, stored)
        assert (wanted.dtype, wanted.shape) == (np.float32, (task.width,))
        output = wanted if kind.numbers else (wanted * 2 - 1) * 9
        answer = kind.answer(task, probabilities(task, output[None])[0], [True] * 4, example())
        assert answer.sure
        assert kind.check(task, answer.best, "here") == (pytest.approx(stored) if kind.numbers else stored)
        found = score(task, output[None], wanted[None])
        assert (found.n, found.accuracy, found.mae) == ((1, None, 0.0) if kind.numbers else (1, 1.0, found.mae))
        assert losses(task, output[None], wanted[None])[0] < 0.01 < losses(task, -output[None] + 1, wanted[None])[0]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_label_is_refused_where_it_stands(name: str) -> None:
    for label in WRONG[name]:
        with pytest.raises(InputError, match="here"):
            KINDS[name].check(TASKS[name], label, "here")


def example() -> Any:
    return SimpleNamespace(inputs={}, words={})


@pytest.mark.parametrize("name", LABELS)
def test_what_is_explained_is_the_output_that_speaks_for_the_label(name: str) -> None:
    """More of the output that an explanation selects makes its label more probable, or the number larger."""
    task, kind = TASKS[name], KINDS[name]
    assert kind.select is not None
    output = np.linspace(0.4, -0.3, task.width, dtype=np.float32)
    answer = kind.answer(task, probabilities(task, output[None])[0], [True] * 4, example())
    for label in answer.probabilities or (kind.own_label(task, answer),):
        weights = kind.select(task, label, answer)
        assert weights.shape == (task.width,)
        more = kind.answer(task, probabilities(task, (output + 0.5 * weights)[None])[0], [True] * 4, example())
        if kind.numbers:
            assert more.best > answer.best  # type: ignore[operator]
        else:
            assert more.probabilities[label] > answer.probabilities[label]
    if not kind.numbers:
        with pytest.raises(InputError, match="no label 'nothing'"):
            kind.select(task, "nothing", answer)


@pytest.mark.parametrize("name", TASKS)
def test_a_form_shows_the_label_that_there_is(name: str) -> None:
    task, kind = TASKS[name], KINDS[name]
    empty = kind.form(task, None)
    if name in LABELS:
        assert empty is not None
        assert not empty.chosen
        label, _, stored = LABELS[name][0]
        field = kind.form(task, stored)
        assert field is not None
        assert sorted(field.chosen) == sorted(map(str, label if isinstance(label, list) else [str(label).lower()]))
        assert set(field.chosen) <= set(field.options) or field.widget == "text"
    elif empty is not None:
        assert (empty.widget, empty.chosen) == ("note", ("0 marked",))


@given(st.sampled_from(sorted(set(TASKS) - {"regression"})), st.integers(1, 12), st.data())
def test_probabilities_lie_between_zero_and_one_and_scores_too(name: str, rows: int, data: st.DataObject) -> None:
    task = TASKS[name]
    width = 1 if name == "tracing" else task.width
    outputs = data.draw(hnp.arrays(np.float32, (rows, width), elements=st.floats(-30, 30, width=32)))
    chances = probabilities(task, outputs, 1.5)
    assert ((chances >= 0) & (chances <= 1)).all()
    targets = np.eye(width, dtype=np.float32)[np.arange(rows) % width]
    found = score(task, outputs, targets)
    assert found.accuracy is not None
    assert found.skill == found.accuracy
    assert 0 <= found.value <= 1
    assert found.log_loss == pytest.approx(float(losses(task, outputs, targets).mean()))


numbers = hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(-50, 50))


@given(numbers, st.integers(0, 2**31), st.floats(0.1, 20))
def test_errors_of_numbers_are_in_the_unit_of_the_label_whatever_the_scale(
    values: np.ndarray, seed: int, scale: float
) -> None:
    guesses = values + np.random.default_rng(seed).normal(0, 3, len(values))
    for task in (TASKS["regression"], msgspec.structs.replace(TASKS["regression"], scale=scale, offset=-3.0)):
        scaled = [((x - task.offset) / task.scale)[:, None] for x in (guesses, values)]
        found = score(task, *scaled)
        assert found.mae == pytest.approx(np.abs(guesses - values).mean(), rel=1e-6, abs=1e-6)
        assert found.rmse == pytest.approx(np.sqrt(np.square(guesses - values).mean()), rel=1e-6, abs=1e-6)
        if values.std() > 0.01:
            assert found.r2 == pytest.approx(1 - np.square(guesses - values).mean() / values.var(), rel=1e-4)
        assert -1 <= found.skill <= 1
        assert (found.accuracy, found.macro_f1, found.log_loss, found.ece) == (None, None, None, None)
        assert found.brief == found.detail
        assert found.brief.count(" kg") == 2


def of_numbers(error: float, count: int = 200) -> Score:
    """A score of guesses that are off by this much, of labels whose standard deviation is near 5 kg."""
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (count, 1))
    return score(TASKS["regression"], values + rng.normal(0, error / 5, (count, 1)), values)


def test_a_number_without_a_unit_says_so() -> None:
    task = msgspec.structs.replace(TASKS["regression"], unit=msgspec.UNSET)
    found = score(task, np.array([[0.1], [0.4]]), np.array([[0.0], [0.5]]))
    assert found.brief == f"MAE 0.500 {NO_UNIT}, RMSE 0.500 {NO_UNIT}, R² 0.840"
    assert kind_of(task).show(task, 12.345) == f"12.3 {NO_UNIT}"
    assert b"unit" not in msgspec.json.encode(task), "bundles without a unit keep their bytes"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12.345, "12.3 kg"),
        (-0.0123, "-0.0123 kg"),
        (1234.5, "1,234 kg"),
        (0, "0 kg"),
        (1e-7, "1e-07 kg"),
        (999.96, "1,000 kg"),
    ],
)
def test_a_quantity_has_three_digits_and_its_unit(value: float, shown: str) -> None:
    assert quantity(value, "kg") == shown


def test_equal_labels_and_endless_guesses_leave_a_skill() -> None:
    task = TASKS["regression"]
    equal = score(task, np.array([[0.5], [0.5]], np.float32), np.full((2, 1), 0.1, np.float32))
    assert equal.r2 is None
    assert equal.skill == pytest.approx(1 - 0.16)
    broken = score(task, np.array([[np.nan], [0.5]], np.float32), np.array([[0.1], [0.2]], np.float32))
    assert broken.skill == -1
    assert not clearly_worse({"t": equal}, {"t": broken})
    assert clearly_worse({"t": broken}, {"t": equal})


def test_models_are_compared_by_what_tasks_have_in_common() -> None:
    """Kilograms and shares are not averaged: an error in small units would drown every other task."""
    grades, worse = Score(n=200, accuracy=0.8), Score(n=200, accuracy=0.6)
    good, little, much = of_numbers(1.0), of_numbers(1.1), of_numbers(5.0)
    assert clearly_worse({"grade": worse}, {"grade": grades})
    assert clearly_worse({"weight": much}, {"weight": good})
    assert not clearly_worse({"weight": little}, {"weight": good}), "chance in so few samples"
    assert not clearly_worse({"weight": good}, {"weight": much})
    assert clearly_worse({"grade": grades, "weight": much}, {"grade": grades, "weight": good})
    both = clearly_worse({"grade": worse, "weight": good}, {"grade": grades, "weight": much})
    assert not both, "what one task loses another gains"
    assert not clearly_worse({"other": worse}, {"grade": grades})


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 5000))
def test_a_single_task_with_labels_is_compared_as_it_always_was(before: float, after: float, count: int) -> None:
    error = np.sqrt(max(before * (1 - before), 0.05) * 2 / count)
    if abs(before - after - 2.0 * error) > 1e-9:
        worse = clearly_worse({"t": Score(n=count, accuracy=after)}, {"t": Score(n=count, accuracy=before)})
        assert worse == (before - after > 2.0 * error)


def test_a_report_tells_errors_with_their_unit_and_older_readers_no_accuracy_of_them() -> None:
    new = {"grade": Score(n=40, accuracy=0.666), "weight": of_numbers(1.0), "height": Score(n=40, mae=1.0)}
    report = make_report(3, "global", new, {"weight": of_numbers(5.0)})
    assert report is not None
    assert report.tasks == {"grade": TaskReport(40, 0.67)}
    number = report.numbers["weight"]
    assert number.unit == "kg"
    assert number.now.rmse == pytest.approx(new["weight"].rmse, rel=0.05)
    assert number.now.rmse == float(f"{new['weight'].rmse:.2g}")
    assert number.gain > 0.5 > number.error
    assert set(report.every_task) == {"grade", "weight"}
    body = msgspec.json.encode(report)
    assert msgspec.json.decode(body, type=type(report)) == report

    class Older(msgspec.Struct):
        version: int
        in_use: str
        tasks: dict[str, TaskReport]

    assert set(msgspec.json.decode(body, type=Older).tasks) == {"grade"}
    lone = make_report(3, "local", {"weight": of_numbers(1.0)}, {})
    assert lone is not None
    assert (lone.tasks, lone.numbers["weight"].gain) == ({}, 0.0)
    assert isinstance(lone.numbers["weight"], NumberReport)


@pytest.mark.filterwarnings("error")
def test_what_is_not_known_is_null_and_old_labels_beyond_float32_warn_of_nothing() -> None:
    task = msgspec.structs.replace(TASKS["regression"], unit=msgspec.UNSET)
    none = msgspec.to_builtins(score(task, np.zeros((0, 1)), np.zeros((0, 1))))
    assert (none["n"], none["skill"], none["error"], none["unit"]) == (0, None, None, None)
    some = score(task, np.zeros((3, 1)), np.ones((3, 1)))
    assert some.unit is None
    assert NO_UNIT in some.brief
    report = make_report(1, "local", {"t": msgspec.structs.replace(some, n=40)}, {})
    assert report is not None
    assert report.numbers["t"].unit == NO_UNIT, "on the wire it is a text"
    assert not np.isfinite(target(task, 1e308)).any()


@pytest.mark.parametrize("cell", ["low, high", "high;low;", "Low;HIGH", "low | high", "high,low,"])
def test_several_ticked_boxes_of_a_form_are_several_labels(cell: str) -> None:
    kind = KINDS["multilabel"]
    assert kind.check(TASKS["multilabel"], kind.parse(cell), "t") == ["high", "low"]


def test_what_a_form_joined_is_taken_apart_only_where_each_part_is_a_label() -> None:
    kind = KINDS["multilabel"]
    task = msgspec.structs.replace(TASKS["multilabel"], labels=("low", "low, but rising", "high"))
    assert kind.check(task, kind.parse("low, but rising"), "t") == ["low, but rising"]
    for cell in ("low, tall", "low, but rising, high"):
        with pytest.raises(InputError, match="no label"):
            kind.check(task, kind.parse(cell), "t")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1.0", "1"),
        ("1.00", "1"),
        ("01", None),
        ("1.5", None),
        ("\u2764", "\u2764\ufe0f"),
        ("A\u200b", "a"),
        ("b\u00a0 c", "b c"),
    ],
)
def test_a_label_is_found_without_what_nobody_sees(written: str, meant: str | None) -> None:
    assert match_name(written, ("1", "2", "\u2764\ufe0f", "a", "b c")) == meant


def test_a_label_that_could_be_two_is_none() -> None:
    assert match_name("1.0", ("1", "1.0")) == "1.0"
    assert match_name("A ", ("a", "\u200ba")) is None
