"""Explanations: the words, picture regions, moments and table columns that an answer rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.samples import StoredSample
from homeroom.data.tasks import kind_of
from homeroom.data.tasks.answers import Answer
from homeroom.errors import InputError
from homeroom.inference.ablation import ablate
from homeroom.inference.attribution import attribute_regions, expected_gradients
from homeroom.inference.regions import WHOLE_INPUT, Region
from homeroom.inference.solved_pull import SolvedPull
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Example

ABLATED_REGIONS = 4  # the strongest, each taken away in turn
LEAST_SHARE = 0.05  # of all attribution; less is not worth a sentence

Attributed = tuple[str, int, Region, float]  # slot, index there, region, attribution
Predict = Callable[[Sequence[StoredSample]], Sequence[Answer]]


@dataclass(frozen=True)
class RegionAttribution:
    """The share of one region of an input in an answer.

    place: the input's index in its slot. share: above 0 for the answer, below 0 against it; the absolute shares of an
    explanation sum to 1. where: as in `Region`. alone: the answer with this region alone ablated, `without`
    the same in words; the strongest only.
    """

    slot: str
    place: int
    name: str
    share: float
    where: tuple[float, ...] = ()
    alone: Answer | None = None
    without: str = ""


@dataclass(frozen=True)
class Explanation:
    """What speaks for and against `label` in `answer`.

    parts: regions, the strongest first. pull: the sum of their attributions, in the output's own unit (logits, or the
    value of a regression in its unit).
    covers: a sentence on what the shares leave out; empty where they are of the whole answer.
    task_title, label_title: what people see in place of `task` and `label`; the same where the bundle has no titles.
    """

    task: str
    label: str
    answer: Answer
    parts: tuple[RegionAttribution, ...]
    pull: float
    covers: str = ""
    task_title: str = ""
    label_title: str = ""

    @property
    def shares(self) -> dict[str, float]:
        """Share of all attribution, of either sign, by slot."""
        shares: dict[str, float] = {}
        for part in self.parts:
            shares[part.slot] = shares.get(part.slot, 0.0) + abs(part.share)
        return shares

    def sentences(self) -> list[str]:
        """The explanation in plain words."""
        sentences = [
            f"{self.task_title or self.task}: {self.label_title or self.label}{_probability(self.answer, self.label)}."
        ]
        if not self.answer.sure:
            sentences.append(f"Not sure: {self.answer.reason}.")
        number = not self.answer.probabilities
        for sign, begin in ((1, "Pulled up by" if number else "For it"), (-1, "Down by" if number else "Against it")):
            strongest = [p for p in self.parts if p.share * sign >= LEAST_SHARE][: 3 if sign > 0 else 2]
            if strongest:
                listed = ", ".join(f"{_named(p)} ({abs(p.share):.0%})" for p in strongest)
                sentences.append(f"{begin}: {listed}.")
        for part in self.parts:
            if part.without:
                sentences.append(f"Without {_named(part)}: {part.without}.")
        return [*sentences, *filter(None, [self.covers])]


def explain(
    bundle: Bundle,
    graphs: Graphs,
    theta: np.ndarray,
    sample: StoredSample,
    example: Example,
    answer: Answer,
    task: Task,
    label: str | None,
    predict: Predict,
    solved: SolvedPull | None = None,
) -> Explanation:
    """Explains one task's answer for one sample.

    theta: float32 [P].
    sample, example, answer: the sample, its features, and the task's answer for it.
    label: explain what speaks for and against this label, in place of the answer's own.
    predict: the task's answers for ablated samples.
    solved: the solved part of the answer, where there is one.

    Raises InputError where there is no answer or no such label, BundleError where there is no saliency graph.
    """
    kind = kind_of(task)
    if kind.select is None:
        raise InputError(f"answers of {task.kind} are not explained", where=task.name, remedy="ask for another task")
    if answer.best is None:
        raise InputError(f"there is no answer: {answer.reason}", where=task.name)
    chosen = label if label is not None else kind.own_label(task, answer)
    weights = kind.select(task, chosen, answer)
    attributions = expected_gradients(bundle, graphs, theta, example, task.name, weights)
    attributed = attribute_regions(bundle, graphs, sample, example, attributions, task)
    if solved is not None and solved.by_slot is not None:
        attributed = _with_solved(attributed, solved, weights)
    total = sum(abs(attribution) for *_, attribution in attributed) or 1.0
    attributed.sort(key=lambda row: -abs(row[3]))
    ablated: list[StoredSample | None] = [
        ablate(sample, slot, index, region, bundle.manifest.modality(bundle.manifest.slot(slot).modality))
        if abs(attribution) >= LEAST_SHARE * total
        else None
        for slot, index, region, attribution in attributed[:ABLATED_REGIONS]
    ]
    answers = iter(predict([one for one in ablated if one is not None]))
    alone = [None if one is None else next(answers) for one in ablated] + [None] * len(attributed)
    return Explanation(
        task=task.name,
        label=chosen,
        answer=answer,
        parts=tuple(
            RegionAttribution(
                slot,
                index,
                region.name,
                attribution / total,
                region.where,
                instead,
                "" if instead is None else _ablated_answer(task, instead, chosen),
            )
            for (slot, index, region, attribution), instead in zip(attributed, alone, strict=False)
        ),
        pull=sum(attribution for *_, attribution in attributed),
        covers=_covers(solved),
        task_title=task.said,
        label_title=task.said_label(chosen),
    )


def _with_solved(attributed: Sequence[Attributed], solved: SolvedPull, weights: np.ndarray) -> list[Attributed]:
    """Theta's attributions and what each input adds to the solved head, both as they count in the answer."""
    assert solved.by_slot is not None
    rows = [(slot, index, region, solved.theta_scale * value) for slot, index, region, value in attributed]
    for slot, part in solved.by_slot.items():
        own = solved.solved_scale * float(weights @ part)
        at = next((i for i, (s, _, region, _) in enumerate(rows) if (s, region.name) == (slot, WHOLE_INPUT)), None)
        if at is None:
            rows.append((slot, 0, Region(WHOLE_INPUT, ()), own))
        else:
            rows[at] = (*rows[at][:3], rows[at][3] + own)
    return rows


def _covers(solved: SolvedPull | None) -> str:
    if solved is None or solved.by_slot is not None:
        return ""
    return f"These shares are of theta's part; the solved head, {solved.mix.solved:.0%} of the answer, is not in them."


def _probability(answer: Answer, label: str) -> str:
    return f" ({answer.probabilities[label]:.0%})" if label in answer.probabilities else ""


def _ablated_answer(task: Task, alone: Answer, label: str) -> str:
    if not alone.probabilities:
        return kind_of(task).show(task, alone.best) if alone.best is not None else "no answer"
    best = max(alone.probabilities, key=lambda name: alone.probabilities[name])
    if best == label or isinstance(alone.best, list):
        return f"{label} ({alone.probabilities[label]:.0%})" if label in alone.probabilities else "no such option"
    return f"{best} ({alone.probabilities[best]:.0%}) in place of {label}"


def _named(part: RegionAttribution) -> str:
    whose = f"{part.slot} {part.place + 1}" if part.place else part.slot
    return f"{whose} as a whole" if part.name == WHOLE_INPUT else f"{part.name} in {whose}"
