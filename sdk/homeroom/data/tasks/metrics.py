"""How good outputs are: accuracy, macro-F1, AUC, errors, log-loss, calibration error; numpy only."""

from __future__ import annotations

import msgspec
import numpy as np

from homeroom.contract.manifest import Task

CALIBRATION_BINS = 10
PROBABILITY_PER_COLUMN = ("multilabel", "matching", "tracing")  # one probability a column


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One task on `n` labelled samples, tokens or interactions. `mae` in the label's own unit, for ordinal (levels) and
    regression only; `auc`, the area under the ROC curve, for tracing only, None where all answers are right, or wrong.
    """

    n: int
    accuracy: float = 0.0
    macro_f1: float = 0.0
    log_loss: float = 0.0
    ece: float = 0.0  # expected calibration error, Guo et al. 2017, 10 bins
    mae: float | None = None
    auc: float | None = None

    @property
    def value(self) -> float:
        """What models are chosen by, higher is better: macro-F1, accuracy of a choice, -mae in the task's scale, AUC of
        tracing.
        """
        return self.macro_f1 if self.auc is None else self.auc


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def probabilities(task: Task, outputs: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Outputs float32 [n, width] to probabilities: a row sums to 1 for classification, choice, ordinal, spans.

    Multilabel, matching and tracing give one probability a column; regression is returned as it is.
    """
    if task.kind == "regression":
        return outputs
    scaled = np.asarray(outputs, np.float64) / temperature
    if task.kind in ("classification", "choice", "spans"):
        return softmax(scaled)
    each = sigmoid(scaled)
    if task.kind != "ordinal":
        return each
    at_least = np.minimum.accumulate(np.hstack([np.ones((len(each), 1)), each]), axis=1)
    return np.asarray(at_least - np.hstack([at_least[:, 1:], np.zeros((len(each), 1))]))


def losses(task: Task, outputs: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Of each sample float [n], what `Score.log_loss` is the mean of; outputs, targets: as of `score`."""
    if task.kind == "regression":
        return np.asarray(np.abs(outputs - targets).mean(1))
    chances = probabilities(task, outputs, temperature)
    if task.kind in PROBABILITY_PER_COLUMN:
        return np.asarray(-np.log(np.clip(np.where(targets > 0.5, chances, 1 - chances), 1e-12, 1)).mean(1))
    return np.asarray(-np.log(np.clip(chances[np.arange(len(chances)), _class_indices(task, targets)], 1e-12, 1)))


def score(task: Task, outputs: np.ndarray, targets: np.ndarray, temperature: float = 1.0) -> Score:
    """outputs, targets: float32 [n, width] of labelled samples, or what `tokens.compared` gives of tasks per token."""
    n = len(outputs)
    if not n:
        return Score(n=0)
    if task.kind == "regression":
        error = np.abs(outputs - targets)
        mae = float(error.mean())
        return Score(n=n, accuracy=float((error < 0.5).mean()), macro_f1=-mae, log_loss=mae, mae=mae * task.scale)
    chances, loss = probabilities(task, outputs, temperature), float(losses(task, outputs, targets, temperature).mean())
    if task.kind in PROBABILITY_PER_COLUMN:
        truth, guess = targets > 0.5, chances > 0.5
        confidence = np.maximum(chances, 1 - chances)
        right = truth == guess
        columns = [_f1(truth[:, c], guess[:, c]) for c in range(truth.shape[1])]
        if task.kind != "multilabel":
            columns.append(_f1(~truth[:, 0], ~guess[:, 0]))
        return Score(
            n=n,
            accuracy=float(right.mean()),
            macro_f1=float(np.mean(columns)),
            log_loss=loss,
            ece=_ece(confidence.ravel(), right.ravel()),
            auc=auc(truth[:, 0], chances[:, 0]) if task.kind == "tracing" else None,
        )
    truth_index = _class_indices(task, targets)
    guess_index = chances.argmax(1)
    right = truth_index == guess_index
    accuracy = float(right.mean())
    return Score(
        n=n,
        accuracy=accuracy,
        macro_f1=accuracy if task.kind == "choice" else macro_f1(truth_index, guess_index),
        log_loss=loss,
        ece=_ece(chances.max(1), right),
        mae=float(np.abs(truth_index - guess_index).mean()) if task.kind == "ordinal" else None,
    )


def _class_indices(task: Task, targets: np.ndarray) -> np.ndarray:
    """The right class of each row, int [n]."""
    return np.asarray(targets.sum(1).round().astype(int) if task.kind == "ordinal" else targets.argmax(1))


def auc(truth: np.ndarray, chances: np.ndarray) -> float | None:
    """How often a right one is given the higher chance of a right and a wrong one, ties halved; truth: bool [n]."""
    right, wrong = int(truth.sum()), int((~truth).sum())
    if not right or not wrong:
        return None
    _, places, counts = np.unique(chances, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return float((ranks[truth].sum() - right * (right + 1) / 2) / (right * wrong))


def macro_f1(truth: np.ndarray, guess: np.ndarray) -> float:
    """Mean F1 over the classes that occur in either; int [n] each."""
    return float(np.mean([_f1(truth == label, guess == label) for label in np.union1d(truth, guess)]))


def _f1(truth: np.ndarray, guess: np.ndarray) -> float:
    both = int((truth & guess).sum())
    return 2 * both / max(int(truth.sum()) + int(guess.sum()), 1)


def _ece(confidence: np.ndarray, right: np.ndarray) -> float:
    if not np.isfinite(confidence).all():
        return float("nan")
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [
        abs(float(confidence[bins == b].mean()) - float(right[bins == b].mean())) * float((bins == b).mean())
        for b in range(CALIBRATION_BINS)
        if (bins == b).any()
    ]
    return float(sum(gaps))
