"""Answers of tasks: the best label, its calibrated probabilities, and whether the answer is sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LEAST_LEAD = 0.2  # of the best answer's probability over the next one's
LEAST_PROBABILITY = 0.5  # of the best answer


@dataclass(frozen=True)
class TextSpan:
    """Characters [start, end) of a text, their label, and its least probability over the words of the span."""

    start: int
    end: int
    label: str
    probability: float

    def __str__(self) -> str:
        return f"{self.start}-{self.end} {self.label} ({self.probability:.0%})"


Best = str | int | float | bool | list[str] | list[TextSpan] | None


@dataclass(frozen=True)
class Answer:
    """One task's answer for one sample.

    best: a label, a list of labels or spans, a number, an option's index or a truth; None where an input is missing. Of
    tracing, the skills whose next interaction is more likely right than wrong.
    probabilities: calibrated, by label, option or skill; empty for spans, which have their own, and for numbers.
    sure: False where probabilities are too low or too close, or where too little is known.
    reason: why it is not sure, and which inputs were left out.
    """

    best: Best
    probabilities: Mapping[str, float] = field(default_factory=dict)
    sure: bool = True
    reason: str = ""


def judge(best: Best, by_label: Mapping[str, float]) -> Answer:
    """An answer that is sure only of a probability that is high enough and ahead of the next."""
    ranked = sorted(by_label.values(), reverse=True)
    if ranked[0] < LEAST_PROBABILITY:
        return Answer(best, by_label, False, f"no answer reaches {LEAST_PROBABILITY:.0%}")
    if len(ranked) > 1 and ranked[0] - ranked[1] < LEAST_LEAD:
        return Answer(best, by_label, False, "two answers are close")
    return Answer(best, by_label)


def unless_unclear(best: Best, by_label: Mapping[str, float], unclear: list[str]) -> Answer:
    """An answer of several parts that is sure where none of them is unclear."""
    return Answer(best, by_label, not unclear, f"unclear: {', '.join(unclear)}" if unclear else "")
