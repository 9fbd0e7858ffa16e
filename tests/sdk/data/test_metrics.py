"""Scores, calibration and answers, against scikit-learn and by their properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom.contract.manifest import Task
from homeroom.data.tasks import probabilities, score
from homeroom.data.tasks.metrics import macro_f1
from homeroom.inference.predict import predict
from homeroom.train.calibration import temperature
from sdk.learning import dataset, opened, without

CLASSES = Task(name="t", kind="classification", reads=("x",), labels=("a", "b", "c"), width=3)
LEVELS = Task(name="t", kind="ordinal", reads=("x",), labels=("low", "mid", "high"), width=2)

logits = st.lists(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3), min_size=1, max_size=20).map(
    lambda rows: np.array(rows, np.float32)
)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, guess = np.array(pairs).T
    assert macro_f1(truth, guess) == pytest.approx(metrics.f1_score(truth, guess, average="macro"), abs=1e-9)


@given(logits, st.floats(0.25, 8))
def test_probabilities_sum_to_one_and_keep_the_best(outputs: np.ndarray, degrees: float) -> None:
    found = probabilities(CLASSES, outputs, degrees)
    assert np.allclose(found.sum(1), 1)
    assert (found.max(1) == found[np.arange(len(outputs)), outputs.argmax(1)]).all()


@given(logits)
def test_levels_sum_to_one_and_none_is_negative(outputs: np.ndarray) -> None:
    found = probabilities(LEVELS, outputs[:, :2])
    assert np.allclose(found.sum(1), 1)
    assert (found >= 0).all()


def test_an_overconfident_model_is_cooled_and_loses_log_loss() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    outputs = rng.normal(size=(400, 3)).astype(np.float32)
    outputs[np.arange(400), truth] += 1.0
    targets, hot = np.eye(3, dtype=np.float32)[truth], outputs * 6
    degrees = temperature(CLASSES, hot, targets)
    assert degrees > 3
    assert score(CLASSES, hot, targets, degrees).log_loss < score(CLASSES, hot, targets).log_loss
    assert score(CLASSES, hot, targets, degrees).ece < score(CLASSES, hot, targets).ece


def test_a_handful_of_samples_hardly_moves_the_temperature() -> None:
    assert abs(temperature(CLASSES, np.eye(3, dtype=np.float32)[:1] * 9, np.eye(3, dtype=np.float32)[:1]) - 1) < 0.1


def test_an_answer_says_when_there_is_too_little_to_go_on() -> None:
    bundle, graphs = opened()
    example = dataset(4).examples[0]
    blind = without(example, "pictures", "word")
    answers = predict(graphs, bundle.manifest, bundle.theta(), [example, blind], {}, trained={"grade"})
    assert answers[1]["which_picture"].best is None
    assert not answers[1]["which_picture"].sure
    assert "needs" in answers[1]["which_picture"].reason
    assert answers[0]["which_picture"].best in range(4)
    assert "never taught" in answers[0]["category"].reason
    assert set(answers[0]["category"].probabilities) == set(bundle.manifest.task("category").labels)
