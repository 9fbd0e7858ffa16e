"""Metrics of outputs: accuracy, macro-F1, AUC, absolute error, log-loss, expected calibration error."""

from __future__ import annotations

import msgspec
import numpy as np

from homeroom.contract.manifest import Task

CALIBRATION_BINS = 10
PROBABILITY_PER_COLUMN = ("multilabel", "matching", "tracing")  # and no distribution over them


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one task on `n` labelled samples, tokens or interactions.

    mae: mean absolute error in the label's own unit (levels of an ordinal task); ordinal and regression only.
    auc: area under the ROC curve; tracing only, None where all answers are right, or all wrong.
    """

    n: int
    accuracy: float = 0.0
    macro_f1: float = 0.0
    log_loss: float = 0.0
    ece: float = 0.0  # expected calibration error, Guo et al. 2017
    mae: float | None = None
    auc: float | None = None

    @property
    def value(self) -> float:
        """The metric for model selection, higher is better.

        Macro-F1; accuracy of a choice; -mae in units of the task's scale; AUC of tracing.
        """
        return self.macro_f1 if self.auc is None else self.auc


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def probabilities(task: Task, outputs: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of outputs float32 [n, width], calibrated by a temperature.

    Classification, choice, spans and ordinal (over its levels, [n, width + 1]): a row sums to 1. Multilabel, matching
    and tracing: one probability a column. Regression: the outputs as they are.
    """
    if task.kind == "regression":
        return outputs
    scaled = np.asarray(outputs, np.float64) / temperature
    if task.kind in ("classification", "choice", "spans"):
        return softmax(scaled)
    columns = sigmoid(scaled)
    if task.kind != "ordinal":
        return columns
    at_least = np.minimum.accumulate(np.hstack([np.ones((len(columns), 1)), columns]), axis=1)
    return np.asarray(at_least - np.hstack([at_least[:, 1:], np.zeros((len(columns), 1))]))


def losses(task: Task, outputs: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-loss of each sample, float [n] (absolute error for regression); outputs, targets: as of `score`."""
    if task.kind == "regression":
        return np.asarray(np.abs(outputs - targets).mean(1))
    chances = probabilities(task, outputs, temperature)
    if task.kind in PROBABILITY_PER_COLUMN:
        return np.asarray(-np.log(np.clip(np.where(targets > 0.5, chances, 1 - chances), 1e-12, 1)).mean(1))
    return np.asarray(-np.log(np.clip(chances[np.arange(len(chances)), _class_indices(task, targets)], 1e-12, 1)))


def score(task: Task, outputs: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> Score:
    """Scores one task.

    outputs, targets: float32 [n, width] of labelled samples; of tasks per token as `token_targets.compared` gives them.
    """
    if not len(outputs):
        return Score(n=0)
    if task.kind == "regression":
        return _score_regression(task, outputs, targets)
    chances, loss = probabilities(task, outputs, temperature), float(losses(task, outputs, targets, temperature).mean())
    if task.kind in PROBABILITY_PER_COLUMN:
        return _score_columns(task, chances, targets, loss)
    return _score_classes(task, chances, targets, loss)


def _score_regression(task: Task, outputs: np.ndarray, targets: np.ndarray) -> Score:
    errors = np.abs(outputs - targets)
    mae, accuracy = float(errors.mean()), float((errors < 0.5).mean())
    return Score(n=len(errors), accuracy=accuracy, macro_f1=-mae, log_loss=mae, mae=mae * task.scale)


def _score_columns(task: Task, chances: np.ndarray, targets: np.ndarray, loss: float) -> Score:
    """Multilabel, matching, tracing; chances: [n, width], each column a probability of its own."""
    truth, predicted = targets > 0.5, chances > 0.5
    correct = truth == predicted
    f1 = [_f1(truth[:, column], predicted[:, column]) for column in range(truth.shape[1])]
    if task.kind != "multilabel":
        f1.append(_f1(~truth[:, 0], ~predicted[:, 0]))
    return Score(
        n=len(chances),
        accuracy=float(correct.mean()),
        macro_f1=float(np.mean(f1)),
        log_loss=loss,
        ece=_calibration_error(np.maximum(chances, 1 - chances).ravel(), correct.ravel()),
        auc=auc(truth[:, 0], chances[:, 0]) if task.kind == "tracing" else None,
    )


def _score_classes(task: Task, chances: np.ndarray, targets: np.ndarray, loss: float) -> Score:
    """Classification, choice, ordinal, spans; chances: [n, classes], each row a distribution."""
    truth, predicted = _class_indices(task, targets), chances.argmax(1)
    correct = truth == predicted
    accuracy = float(correct.mean())
    return Score(
        n=len(chances),
        accuracy=accuracy,
        macro_f1=accuracy if task.kind == "choice" else macro_f1(truth, predicted),
        log_loss=loss,
        ece=_calibration_error(chances.max(1), correct),
        mae=float(np.abs(truth - predicted).mean()) if task.kind == "ordinal" else None,
    )


def _class_indices(task: Task, targets: np.ndarray) -> np.ndarray:
    """The class of each target row, int [n]."""
    return np.asarray(targets.sum(1).round().astype(int) if task.kind == "ordinal" else targets.argmax(1))


def auc(truth: np.ndarray, chances: np.ndarray) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half; truth: bool [n], chances: float [n].

    None where only one class occurs.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    _, indices, counts = np.unique(chances, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[indices]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that occur in either; int [n] each."""
    return float(np.mean([_f1(truth == label, predicted == label) for label in np.union1d(truth, predicted)]))


def _f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    true_positives = int((truth & predicted).sum())
    return 2 * true_positives / max(int(truth.sum()) + int(predicted.sum()), 1)


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    if not np.isfinite(confidence).all():
        return float("nan")
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [
        abs(float(confidence[bins == b].mean()) - float(correct[bins == b].mean())) * float((bins == b).mean())
        for b in range(CALIBRATION_BINS)
        if (bins == b).any()
    ]
    return float(sum(gaps))
