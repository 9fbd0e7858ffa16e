"""A task kind as one record: how labels are checked, learned, scored, answered, explained and shown."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import Label, StoredInput, StoredSample
from homeroom.data.tasks.answers import Answer, Best
from homeroom.data.tasks.counting import Counting
from homeroom.data.tasks.metrics import Score
from homeroom.errors import InputError

EMOJI_FORMS = "\ufe0e\ufe0f"
WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")

Words = Sequence[tuple[int, int] | None]  # for each token its word's [start, end) in characters; None for special ones
SlotInputs = Mapping[str, Sequence[StoredInput | None]]
InputKey = tuple[str, int]  # slot, index in the slot


class AnsweredExample(Protocol):
    """The parts of an example that an answer may read: arrays by input, and the words of its texts by slot."""

    @property
    def inputs(self) -> Mapping[InputKey, np.ndarray]: ...

    @property
    def words(self) -> Mapping[str, Words]: ...


@dataclass(frozen=True)
class FormField:
    """A label's field in a form.

    widget: one of the options, any of them, a text, or only a note
    chosen: the options that hold; the text, if there is one
    """

    widget: Literal["select", "checkboxes", "text", "note"]
    options: Sequence[str] = ()
    chosen: Sequence[str] = ()


def text_field(task: Task, label: Label | None) -> FormField:
    """A field for a label that is written out."""
    return FormField("text", chosen=() if label is None else (str(label),))


def nothing_asked(task: Task, label: Label) -> None:
    """No single input is asked about by the label."""


def fits(task: Task, label: Label, inputs: SlotInputs) -> None:
    """The label fits whatever inputs the sample has."""


def own_label(task: Task, answer: Answer) -> str:
    """The label that an answer gives."""
    return str(answer.best).lower() if isinstance(answer.best, bool) else str(answer.best)


def shown(task: Task, best: Best) -> str:
    """An answer's best for a person, labels by their titles."""
    return ", ".join(map(task.said_label, best)) or "none" if isinstance(best, list) else task.said_label(best)


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """One kind of task. Arrays: outputs, targets and probabilities are float [n, width] of n samples.

    check: (task, label, where) to the label's stored form; InputError if it does not fit the task
    probabilities: of outputs float64 that were divided by the temperature; the outputs themselves without `calibrated`
    losses: (probabilities, targets) to the loss of each sample, float [n]
    score: (task, probabilities, targets)
    answer: (task, one sample's probabilities, presence of each input of its last slot, the example)
    target: of a label, float32 [width]; None for kinds that answer for each token
    soft_target: of outputs, the target with which they are the least loss; None where answers cannot be learned

    parse: a cell's or a form's text to a label; what does not fit stays text, for `check` to refuse
    asked_input: the slot and index of the one input that a label asks about
    check_inputs: InputError if a label does not fit the sample's inputs
    form: the field of a label in a form; None where it cannot be given
    show: an answer's best for a person

    select: (task, label, answer) to the weights float32 [width] of the output that speak for a label; None where
        answers are not explained
    own_label: the label that an answer gives

    token_target: (task, sample, inputs, words by slot) to float32 [tokens, width], zeros where nothing is compared; or
        [tokens], the signed number from 1 of the one column that is asked
    columns_of_numbers: (such a target, width) to float32 [tokens, width], for graphs that read one; None for others
    token_pairs: (outputs, targets) of one example's tokens to the [n, width] that are compared
    one_sided: whether targets have nothing to tell apart

    counting: how right and wrong answers are counted for sums over devices; None where they are not
    numbers: the answers are numbers, whose unit the task may name
    calibrated: by a temperature on validation samples
    classes: the class of each target, int [n], in the order of the task's labels; only where a sample has one
    class_prior: whether a shift of the head's bias by log-priors adapts it to how often a class is
    needs_every_slot: whether it cannot answer without all its slots
    grows: whether its outputs are a column a label, so that a later bundle may have more
    marks_words: whether it needs the words of its text
    teaches_unlabelled: whether a sample without a label teaches it
    """

    name: str
    check: Callable[[Task, Any, str], Label]
    probabilities: Callable[[np.ndarray], np.ndarray]
    losses: Callable[[np.ndarray, np.ndarray], np.ndarray]
    score: Callable[[Task, np.ndarray, np.ndarray], Score]
    answer: Callable[[Task, np.ndarray, Sequence[bool], AnsweredExample], Answer]
    target: Callable[[Task, Label], np.ndarray] | None = None
    soft_target: Callable[[np.ndarray], np.ndarray] | None = None

    parse: Callable[[str], Any] = str
    asked_input: Callable[[Task, Label], InputKey | None] = nothing_asked
    check_inputs: Callable[[Task, Label, SlotInputs], None] = fits
    form: Callable[[Task, Label | None], FormField | None] = text_field
    show: Callable[[Task, Best], str] = shown

    select: Callable[[Task, str, Answer], np.ndarray] | None = None
    own_label: Callable[[Task, Answer], str] = own_label

    token_target: (
        Callable[[Task, StoredSample, Mapping[InputKey, np.ndarray], Mapping[str, Words]], np.ndarray | None] | None
    ) = None
    columns_of_numbers: Callable[[np.ndarray, int], np.ndarray] | None = None
    token_pairs: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    one_sided: Callable[[Iterable[np.ndarray]], bool] | None = None

    counting: Counting | None = None
    numbers: bool = False
    calibrated: bool = True
    classes: Callable[[np.ndarray], np.ndarray] | None = None
    class_prior: bool = False
    needs_every_slot: bool = False
    grows: bool = False
    marks_words: bool = False
    teaches_unlabelled: bool = False

    @property
    def per_token(self) -> bool:
        """Whether the output is one for each token of one slot."""
        return self.token_target is not None


def match_name(name: str, known: Sequence[str]) -> str | None:
    """The known name that is meant: the same one, else the only one without regard to case, blanks and unseen signs.

    A whole number with zeros behind its point, as some programs write it, is that number.
    """
    if name in known:
        return name
    folded = _folded(name)
    alike = [one for one in known if _folded(one) == folded]
    if not alike and (number := WHOLE_NUMBER.fullmatch(folded)):
        alike = [one for one in known if _folded(one) == number[1]]
    return alike[0] if len(alike) == 1 else None


@lru_cache(4096)
def _folded(name: str) -> str:
    """A name without what nobody sees: marks of form (of emojis too), and which blanks there are; in small letters."""
    seen = (c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf" and c not in EMOJI_FORMS)
    return " ".join("".join(seen).split()).casefold()


def close_names(name: str, known: Sequence[str]) -> list[str]:
    """At most three known names that are spelt almost so."""
    return difflib.get_close_matches(name, known, n=3, cutoff=0.5)


def suggestion(name: str, known: Sequence[str]) -> str:
    """Returns a remedy: the known names closest to this one, or the first twelve."""
    close = close_names(name, known)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known[:12])}"


def check_class(task: Task, label: Any, where: str) -> str:
    """Returns the label as text; InputError if it is none of the task's."""
    name = match_name(str(label), task.labels)
    if name is None:
        raise InputError(f"no label {label!r}", where=where, remedy=suggestion(str(label), task.labels))
    return name


def select_field(task: Task, label: Label | None) -> FormField:
    """A field for one of the task's labels."""
    return FormField("select", task.labels, () if label is None else (str(label),))


def column_of(task: Task, label: str, known: Sequence[str]) -> int:
    """The index of a label among those that can be explained; InputError if it is none."""
    if label not in known:
        raise InputError(f"no label {label!r}", where=task.name, remedy=f"one of {', '.join(known)}")
    return known.index(label)


def against_the_others(width: int, columns: Sequence[int], chosen: int) -> np.ndarray:
    """Weights float32 [width]: a class or option counts against the mean of the others in `columns`.

    Only differences of their logits matter.
    """
    weights = np.zeros(width, np.float32)
    weights[list(columns)] = -1.0 / max(1, len(columns) - 1)
    weights[chosen] = 1.0
    return weights


def labelled(task: Task, probabilities: np.ndarray) -> dict[str, float]:
    """One sample's probabilities by label."""
    return {label: float(p) for label, p in zip(task.labels, probabilities, strict=True)}
