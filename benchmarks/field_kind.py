"""A kind of input of the field benchmark: what a person has, what they expect, and how the outcome is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

Sample = dict[str, Any]


class Verdict(Enum):
    """What became of an input. The last four must not happen."""

    RIGHT = "right"
    REFUSED = "refused with a remedy"
    UNCLEAR = "refused without the remedy"
    WRONG = "silently wrong"
    LOST = "lost"
    TRACEBACK = "traceback"


@dataclass(frozen=True)
class Outcome:
    """What the commands did.

    samples: those in the store, each with `inputs` (slot -> summary), `labels`, `subject`, `consent`, `aside`, ...
    said: what they printed. error: the error's sentence; empty where there was none. traceback: of what no error is.
    left: files that lie in the given folder afterwards. seconds, megabytes: of wall time, and of peak memory.
    """

    samples: list[Sample] = field(default_factory=list)
    said: str = ""
    error: str = ""
    traceback: str = ""
    left: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    megabytes: float = 0.0


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    write: makes what a person has in an empty folder, and returns what they give to the device.
    wanted: what they expect, in words.
    judge: what became of it, where it was not refused; None where only a refusal is right.
    told: words of which a refusal must have at least one, so that a person knows what is the matter.
    then: further commands, each the words after `homeroom device`. Of these DIR stands for the device, GIVEN for what was
    given, OUT for a folder beside it, FILE:… for a sheet with these lines, FIRST-ID for the id of the first sample.
    inbox: whether it comes by the agent's inbox.
    tracing: whether the device reads histories of answers.
    needs: a module without which it cannot be made here, and is not tried.
    """

    name: str
    group: str
    wanted: str
    write: Callable[[Path], Path]
    judge: Callable[[Outcome], Verdict] | None = None
    told: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    then: tuple[tuple[str, ...], ...] = ()
    inbox: bool = False
    tracing: bool = False
    needs: str = ""


def verdict(kind: Kind, outcome: Outcome) -> Verdict:
    """Judges an outcome."""
    if outcome.traceback:
        return Verdict.TRACEBACK
    if outcome.error:
        clear = not kind.told or any(word.lower() in outcome.error.lower() for word in kind.told)
        return Verdict.REFUSED if clear else Verdict.UNCLEAR
    return kind.judge(outcome) if kind.judge else Verdict.WRONG


def right_if(condition: bool) -> Verdict:
    return Verdict.RIGHT if condition else Verdict.WRONG


def and_said(kind: Kind, *said: str) -> Kind:
    """The kind, right only where the commands also said one of the words."""
    judge = kind.judge
    assert judge is not None

    def judged(outcome: Outcome) -> Verdict:
        told = any(word.lower() in outcome.said.lower() for word in said)
        return judge(outcome) if told else Verdict.WRONG

    return replace(kind, judge=judged)
