"""Metrics of outputs: accuracy, macro-F1, AUC, log-loss, calibration error; of numbers MAE, RMSE and R^2."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from homeroom.contract.evaluation_report import LEAST_VARIANCE, share_error
from homeroom.contract.manifest import NO_UNIT, Task

CALIBRATION_BINS = 10
LEAST_SPREAD = 1e-9  # variance of labels, in squares of the task's scale, below which they are all equal
CLEARLY_WORSE_ERRORS = 2.0  # standard errors by which another theta must be worse before the present one stays


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one task on `n` labelled samples, tokens or interactions; those that its kind does not have are None.

    skill: comparable between tasks, 1 is perfect: the share that is right; of numbers see `score_numbers`.
    error: standard error of the skill.
    mae, rmse: mean absolute and root mean squared error of numbers, in `unit`; the mae of an ordinal task is in levels.
    r2: share of the labels' variance that is explained; None where all labels are equal.
    unit: of numbers; None where the bundle does not say. skill, error: None where there is no sample.
    parts: of "theta" and "solved" alone, where solved heads answer with theta, and solved_weight of these; else absent.
        "others": of what other schools' statistics would give without the own ones, where some are here.
    auc: area under the ROC curve; tracing only, None where all answers are right, or all wrong.
    learned: how many of these samples a device holds to learn from, where it says so; else absent.
    """

    n: int
    accuracy: float | None = None
    macro_f1: float | None = None
    log_loss: float | None = None
    ece: float | None = None  # expected calibration error, Guo et al. 2017
    mae: float | None = None
    auc: float | None = None
    rmse: float | None = None
    r2: float | None = None
    unit: str | None = None
    skill: float | None = None
    error: float | None = None
    parts: dict[str, Score] | msgspec.UnsetType = msgspec.UNSET
    solved_weight: float | msgspec.UnsetType = msgspec.UNSET
    learned: int | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.accuracy is not None:
            msgspec.structs.force_setattr(self, "skill", self.accuracy)
            msgspec.structs.force_setattr(self, "error", share_error(self.accuracy, max(self.n, 1)))

    @property
    def value(self) -> float:
        """The metric for model selection, at most 1, higher is better.

        AUC of tracing, else macro-F1; accuracy of a choice; the skill of numbers.
        """
        return next((metric for metric in (self.auc, self.macro_f1, self.skill) if metric is not None), 0.0)

    @property
    def brief(self) -> str:
        """The score in a few words: what share is right, or the errors of numbers with their unit."""
        if self.accuracy is not None:
            return f"{self.accuracy:.0%} right"
        if self.mae is None or self.rmse is None:
            return f"skill {self.value:.3f}"
        explained = "" if self.r2 is None else f", R² {self.r2:.3f}"
        unit = self.unit or NO_UNIT
        return f"MAE {quantity(self.mae, unit)}, RMSE {quantity(self.rmse, unit)}{explained}"

    @property
    def by_part(self) -> str:
        """What theta and the solved heads do alone and together, and which of them answer; empty without the latter."""
        if self.parts is msgspec.UNSET or self.solved_weight is msgspec.UNSET:
            return ""
        parts = ", ".join(f"{name} {self.parts[name].brief}" for name in ("theta", "solved"))
        others = self.parts.get("others")
        told = (
            f"; the others' statistics alone {others.brief}, with yours {self.parts['solved'].brief}" if others else ""
        )
        if 0 < self.solved_weight < 1:
            return f"{parts}, both {self.brief}{told}; both answer"
        return f"{parts}{told}; {'the solved head' if self.solved_weight else 'theta'} answers"

    @property
    def detail(self) -> str:
        """As `brief`, with every figure of labels."""
        if self.accuracy is None or self.macro_f1 is None:
            return self.brief
        area = "" if self.auc is None else f"AUC {self.auc:.3f}, "
        return f"{area}accuracy {self.accuracy:.3f}, macro-F1 {self.macro_f1:.3f}"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def one_hot_class(targets: np.ndarray) -> np.ndarray:
    """The class of one-hot targets, int [n]."""
    return np.asarray(targets.argmax(1))


def class_losses(chances: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Log-loss of each row, float [n]; chances: [n, classes], each row a distribution; classes: int [n]."""
    return np.asarray(-np.log(np.clip(chances[np.arange(len(chances)), classes], 1e-12, 1)))


def column_losses(chances: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Mean log-loss of each row, float [n]; chances: [n, width], each column a probability of its own."""
    return np.asarray(-np.log(np.clip(np.where(targets > 0.5, chances, 1 - chances), 1e-12, 1)).mean(1))


def score_classes(
    task: Task,
    chances: np.ndarray,
    targets: np.ndarray,
    *,
    class_of: Callable[[np.ndarray], np.ndarray] = one_hot_class,
    ordered: bool = False,
    places_mean_nothing: bool = False,
) -> Score:
    """Score of distributions [n, classes].

    class_of: targets to the right class, int [n]
    ordered: the classes are levels, and how far off they are counts
    places_mean_nothing: a class is only a place, as of options, so that an F1 of each would mean nothing
    """
    classes, predicted = class_of(targets), chances.argmax(1)
    correct = classes == predicted
    accuracy = float(correct.mean())
    return Score(
        n=len(chances),
        accuracy=accuracy,
        macro_f1=accuracy if places_mean_nothing else macro_f1(classes, predicted),
        log_loss=float(class_losses(chances, classes).mean()),
        ece=_calibration_error(chances.max(1), correct),
        mae=float(np.abs(classes - predicted).mean()) if ordered else None,
    )


def score_columns(
    task: Task, chances: np.ndarray, targets: np.ndarray, *, both_sides: bool = False, ranked: bool = False
) -> Score:
    """Score of [n, width], each column a probability of its own, against 1.0 and 0.0.

    both_sides: macro-F1 is the mean over true and false, of a single column
    ranked: also the area under the ROC curve, of a single column
    """
    truth, predicted = targets > 0.5, chances > 0.5
    correct = truth == predicted
    accuracy = float(correct.mean())
    f1 = [_f1(truth[:, column], predicted[:, column]) for column in range(truth.shape[1])]
    if both_sides:
        f1.append(_f1(~truth[:, 0], ~predicted[:, 0]))
    return Score(
        n=len(chances),
        accuracy=accuracy,
        macro_f1=float(np.mean(f1)),
        log_loss=float(column_losses(chances, targets).mean()),
        ece=_calibration_error(np.maximum(chances, 1 - chances).ravel(), correct.ravel()),
        auc=auc(truth[:, 0], chances[:, 0]) if ranked else None,
    )


def score_numbers(task: Task, predicted: np.ndarray, targets: np.ndarray) -> Score:
    """Score of numbers [n, 1] in units of the task's scale, by their errors in the task's unit.

    The skill is R^2 where that is at least 0, and R^2 / (1 - R^2) below, which stays above -1: so a poor start of one
    task does not outweigh all others. Where all labels are equal, the scale takes the place of their deviation. Its
    standard error is that of the mean squared error, by the delta method.
    """
    squares = np.square(np.asarray(predicted, np.float64) - targets).mean(1)
    spread, mean = float(np.var(np.asarray(targets, np.float64))), float(squares.mean())
    spread = spread if spread > LEAST_SPREAD else 0.0
    unexplained = mean / (spread or 1.0)
    variance = max(float(squares.var()) / (spread or 1.0) ** 2, LEAST_VARIANCE) if np.isfinite(mean) else 0.0
    return Score(
        n=len(squares),
        mae=float(np.abs(predicted - targets).mean()) * task.scale,
        rmse=mean**0.5 * task.scale,
        r2=1 - unexplained if spread else None,
        unit=None if task.unit is msgspec.UNSET else task.unit,
        skill=1 - unexplained if unexplained <= 1 else 1 / unexplained - 1 if np.isfinite(mean) else -1.0,
        error=(variance / len(squares)) ** 0.5 / max(unexplained, 1.0) ** 2,
    )


def quantity(value: float, unit: str) -> str:
    """A number for a person, with three digits at least, and its unit."""
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.3g} {unit}"
    return f"{value:,.{max(2 - int(np.floor(np.log10(abs(value)))), 0)}f} {unit}"


def clearly_worse(new: Mapping[str, Score], old: Mapping[str, Score]) -> bool:
    """Whether the mean skill over tasks falls by more than CLEARLY_WORSE_ERRORS standard errors.

    The errors are those of the old scores, twice, since the new ones are on as many samples; tasks are independent.
    """
    pairs = [(new[task], score) for task, score in old.items() if task in new and score.n]
    if not pairs:
        return False
    fall = float(np.mean([before.skill for _, before in pairs]) - np.mean([after.skill for after, _ in pairs]))
    error = (2 * sum((before.error or 0.0) ** 2 for _, before in pairs)) ** 0.5 / len(pairs)
    return bool(fall > CLEARLY_WORSE_ERRORS * error)


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
