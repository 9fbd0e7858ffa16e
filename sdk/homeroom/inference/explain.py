"""Why an answer: which words, regions, moments and columns pulled it up or down; imports parts, runtime and predict.

Expected gradients (Erion et al. 2021, equation 2): from the features of a reference to those of the sample on a
straight line, the gradient of the answer times the difference, averaged over references and places on the line. The
references are the bundle's golden samples. Where LoRA is inside an encoder there are no features, and the line is
between the embeddings of its tokens, drawn by the graph. A part's pull is the sum over its tokens; that all pulls
together make up the difference of the sample's output and the references' mean output is how it can be checked (see
the tests).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.manifest import Task, Tensor
from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.raw_inputs import raw_input, token_count
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError
from homeroom.inference import golden
from homeroom.inference.predict import Answer
from homeroom.inference.regions import WHOLE_INPUT, Region, regions, without
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.compute import compute
from homeroom.train.features.dataset import Dataset, Example

REFERENCE_SAMPLES = 8  # golden samples that a sample is compared with
PATH_POINTS = 8  # on the line to each
ABLATED_REGIONS = 4  # parts that are taken away one at a time, to see what the answer would be
LEAST_SHARE = 0.05  # of all pull: less is not worth a sentence

Predict = Callable[[Sequence[StoredSample]], Sequence[Answer]]


@dataclass(frozen=True)
class RegionAttribution:
    """A part of an input and its `share` of all pull: above 0 for the answer, below 0 against it; |shares| sum to 1.

    `where` as in `parts.Region`. `alone`: the answer if this part alone were missing, for those that pull most.
    """

    slot: str
    place: int
    name: str
    share: float
    where: tuple[float, ...] = ()
    alone: Answer | None = None


@dataclass(frozen=True)
class Explanation:
    """Why `answer` says, or does not say, `label`. `parts`: those that pull most first; `pull`: their pulls' sum.

    `pull` is in the output's own unit: logits, or the value of a regression.
    """

    task: str
    label: str
    answer: Answer
    parts: tuple[RegionAttribution, ...]
    pull: float

    @property
    def shares(self) -> dict[str, float]:
        """By slot, the share of all pull of either sign."""
        found: dict[str, float] = {}
        for part in self.parts:
            found[part.slot] = found.get(part.slot, 0.0) + abs(part.share)
        return found

    def sentences(self) -> list[str]:
        """The explanation in plain words."""
        said = [f"{self.task}: {self.label}{_chance(self.answer, self.label)}."]
        if not self.answer.sure:
            said.append(f"Not sure: {self.answer.reason}.")
        number = not self.answer.probabilities
        for sign, begin in ((1, "Pulled up by" if number else "For it"), (-1, "Down by" if number else "Against it")):
            pulling = [p for p in self.parts if p.share * sign >= LEAST_SHARE][: 3 if sign > 0 else 2]
            if pulling:
                listed = ", ".join(f"{_named(p)} ({abs(p.share):.0%})" for p in pulling)
                said.append(f"{begin}: {listed}.")
        for part in self.parts:
            if part.alone is not None:
                said.append(f"Without {_named(part)}: {_instead(part.alone, self.label)}.")
        return said


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
) -> Explanation:
    """Explain one task's answer for one sample, or, with `label`, what speaks for and against that label.

    theta: float32 [P]. predict: the task's answers for further samples. Raises InputError where there is no answer,
    BundleError where the bundle has no saliency graph.
    """
    if task.per_token:
        raise InputError(f"answers of {task.kind} are not explained", where=task.name, remedy="ask for another task")
    if answer.best is None:
        raise InputError(f"there is no answer: {answer.reason}", where=task.name)
    chosen = label if label is not None else _best(task, answer)
    select = selection(task, chosen, answer)
    pulls = pulls_of(bundle, graphs, theta, example, task.name, select)
    found = _regions(bundle, graphs, sample, example, pulls, task)
    whole = sum(abs(pull) for *_, pull in found) or 1.0
    found.sort(key=lambda one: -abs(one[3]))
    tried: list[StoredSample | None] = [
        without(sample, slot, place, region, bundle.manifest.modality(bundle.manifest.slot(slot).modality))
        if abs(pull) >= LEAST_SHARE * whole
        else None
        for slot, place, region, pull in found[:ABLATED_REGIONS]
    ]
    answers = iter(predict([one for one in tried if one is not None]))
    alone = [None if one is None else next(answers) for one in tried] + [None] * len(found)
    return Explanation(
        task=task.name,
        label=chosen,
        answer=answer,
        parts=tuple(
            RegionAttribution(slot, place, region.name, pull / whole, region.where, instead)
            for (slot, place, region, pull), instead in zip(found, alone, strict=False)
        ),
        pull=sum(pull for *_, pull in found),
    )


def selection(task: Task, label: str, answer: Answer) -> np.ndarray:
    """float32 [width]: what of the output speaks for a label; the explained value is its product with the output.

    A class or option against the mean of the others, since only differences of logits count.
    """
    select = np.zeros(task.width, np.float32)
    known: Sequence[str] = task.labels
    if task.kind == "choice":
        known = list(answer.probabilities)
    elif task.kind == "matching":
        known = ["true", "false"]
    elif task.kind == "regression":
        known = [label]
    if label not in known:
        raise InputError(f"no label {label!r}", where=task.name, remedy=f"one of {', '.join(known)}")
    if task.kind in ("classification", "choice"):
        columns = [int(name) if task.kind == "choice" else task.labels.index(name) for name in known]
        select[columns] = -1.0 / max(1, len(known) - 1)
        select[columns[list(known).index(label)]] = 1.0
    elif task.kind == "ordinal":
        level = task.labels.index(label)
        if level > 0:
            select[level - 1] = 1.0
        if level < task.width:
            select[level] = -1.0
    elif task.kind == "multilabel":
        select[task.labels.index(label)] = 1.0
    elif task.kind == "matching":
        select[0] = 1.0 if label == "true" else -1.0
    else:
        select[0] = task.scale
    return select


@dataclass(frozen=True)
class Pulls:
    """By slot: `tokens` float64 [count, tokens], the pull of each token; `slopes` [count, taps, tokens, dim], the mean
    gradient with respect to the features (of int8 units), of slots that have features.
    """

    tokens: Mapping[str, np.ndarray]
    slopes: Mapping[str, np.ndarray]


def pulls_of(
    bundle: Bundle, graphs: Graphs, theta: np.ndarray, example: Example, task: str, select: np.ndarray
) -> Pulls:
    """Expected gradients of one example's output of a task, weighed by `select` [width]."""
    manifest = bundle.manifest
    dataset = Dataset(manifest, [example])
    batch = dataset.plan(graphs.steps("saliency"))[0]
    feeds = dataset.feeds(batch) | {"theta": graphs.narrow(theta)}
    size, run = batch.graph.batch, graphs.loaded(batch.graph)
    for name in feeds.keys() - {"theta"}:
        feeds[name] = np.repeat(feeds[name][:1], size, 0)
    for tensor in batch.graph.inputs:
        if tensor.name.endswith(".select"):
            feeds[tensor.name] = np.zeros(tensor.shape, np.float32)
    feeds[f"{task}.select"] += select
    cached = [s for s in manifest.slots if manifest.modality(s.modality).adapter == "ladder"]
    here = {s.name: feeds[f"{s.name}.features"][0].astype(np.float32) for s in cached}
    masks = {s.name: feeds[f"{s.name}.mask"][0][:, None, :, None] for s in cached}
    references = {s.name: _references(bundle, s.modality, here[s.name]) for s in cached}
    inputs = {tensor.name: tensor for tensor in batch.graph.inputs}
    direct = {
        s.name: _direct_references(bundle, s.modality, inputs[f"{s.name}.reference"])
        for s in manifest.slots
        if s not in cached
    }
    shapes = {tensor.name: tensor.shape for tensor in batch.graph.outputs}
    tokens = {name: np.zeros((len(value), value.shape[2])) for name, value in here.items()}
    tokens |= {name: np.zeros(shapes[f"{name}.pull"][1:]) for name in direct}
    slopes = {name: np.zeros(value.shape) for name, value in here.items()}
    points = REFERENCE_SAMPLES * PATH_POINTS
    for start in range(0, points, size):
        numbers = np.arange(start, start + size) % points  # a last batch begins anew, and is weighed as none
        counted = (np.arange(start, start + size) < points) / points
        along = (numbers % PATH_POINTS + 0.5) / PATH_POINTS
        differences = {}
        for name, value in here.items():
            chosen = references[name][numbers // PATH_POINTS % len(references[name])]
            differences[name] = (value - chosen) * masks[name]
            where = along[:, None, None, None, None].astype(np.float32)
            feeds[f"{name}.features"] = (value - (1 - where) * differences[name]).astype(np.float32)
        for name, given in direct.items():
            feeds["along"] = along.astype(np.float32)
            feeds[f"{name}.reference"] = given[numbers // PATH_POINTS % len(given)]
        made = run(feeds)
        for name in direct:
            tokens[name] += (made[f"{name}.pull"].astype(np.float64) * counted[:, None, None]).sum(0)
        for name, difference in differences.items():
            gradient = made[f"{name}.gradient"].astype(np.float64) * counted[:, None, None, None, None]
            tokens[name] += (gradient * difference).sum((0, 2, 4))
            slopes[name] += gradient.sum(0)
    return Pulls(tokens, slopes)


def _references(bundle: Bundle, modality: str, like: np.ndarray) -> np.ndarray:
    """float32 [references, count, taps, tokens, dim]: the golden samples' features at every place, repeated to length.

    like: [count, taps, tokens, dim].
    """
    slots = {slot.name for slot in bundle.manifest.slots if slot.modality == modality}
    expected = golden.expected_arrays(bundle)
    found = []
    for name in sorted(expected):
        kind, *rest = name.split(".")
        if kind == "features" and rest[1] in slots:
            value = expected[name]
            found.append(value[:, np.arange(like.shape[2]) % value.shape[1]])
    found = found[:: max(1, len(found) // REFERENCE_SAMPLES)][:REFERENCE_SAMPLES]
    if not found:
        return np.zeros((1, *like.shape), np.float32)
    return np.repeat(np.stack(found)[:, None].astype(np.float32), len(like), 1)


def _direct_references(bundle: Bundle, modality: str, like: Tensor) -> np.ndarray:
    """[references, count, ...]: the golden samples' token ids or pixels at every place, ids repeated to length.

    like: the graph's input, [batch, count, ...].
    """
    described = bundle.manifest.modality(modality)
    slots = [slot.name for slot in bundle.manifest.slots if slot.modality == modality]
    values = [
        v for one in golden.golden_samples(bundle) for slot in slots for v in one.inputs.get(slot, ()) if v is not None
    ]
    values = values[:: max(1, len(values) // REFERENCE_SAMPLES)][:REFERENCE_SAMPLES]
    found = [raw_input(described, prepare(described, value, bundle.file)) for value in values]
    count, *shape = like.shape[1:]
    ready = [np.resize(one, shape) for one in found] or [np.zeros(shape, like.dtype)]
    return np.repeat(np.stack(ready)[:, None], count, 1)


def _regions(
    bundle: Bundle, graphs: Graphs, sample: StoredSample, example: Example, pulls: Pulls, task: Task
) -> list[tuple[str, int, Region, float]]:
    """Every part of every input that the task reads, with its pull."""
    manifest = bundle.manifest
    found: list[tuple[str, int, Region, float]] = []
    for (slot, place), features in example.inputs.items():
        if slot not in task.reads:
            continue
        modality, value = manifest.modality(manifest.slot(slot).modality), sample.inputs[slot][place]
        assert value is not None
        pixels = features.dtype == np.uint8
        length = pulls.tokens[slot].shape[1] if pixels else token_count(modality, features)
        for region in regions(modality, value, length, bundle.file):
            if region.column is None:
                pull = float(pulls.tokens[slot][place][list(region.tokens)].sum())
            else:
                pull = _column_pull(bundle, graphs, modality.name, value, region.column, features, pulls, slot, place)
            found.append((slot, place, region, pull))
    return found


def _column_pull(
    bundle: Bundle,
    graphs: Graphs,
    modality: str,
    value: object,
    column: str,
    features: np.ndarray,
    pulls: Pulls,
    slot: str,
    place: int,
) -> float:
    """What the features' change by a column is worth: its slope times the difference to a row that lacks it."""
    assert isinstance(value, Mapping)
    row = {**value, column: None}
    (_, lacking), *_ = compute(bundle, graphs, modality, [row])
    difference = features.astype(np.float64) - lacking
    return float((pulls.slopes[slot][place][:, : difference.shape[1]] * difference).sum())


def _best(task: Task, answer: Answer) -> str:
    if task.kind == "multilabel":
        return max(answer.probabilities, key=lambda name: answer.probabilities[name])
    if task.kind == "regression":
        return f"{float(answer.best):.3g}"  # type: ignore[arg-type]
    return str(answer.best).lower() if isinstance(answer.best, bool) else str(answer.best)


def _chance(answer: Answer, label: str) -> str:
    return f" ({answer.probabilities[label]:.0%})" if label in answer.probabilities else ""


def _instead(alone: Answer, label: str) -> str:
    if not alone.probabilities:
        return f"{float(alone.best):.3g}" if isinstance(alone.best, float) else "no answer"
    best = max(alone.probabilities, key=lambda name: alone.probabilities[name])
    if best == label or isinstance(alone.best, list):
        return f"{label} ({alone.probabilities[label]:.0%})" if label in alone.probabilities else "no such option"
    return f"{best} ({alone.probabilities[best]:.0%}) in place of {label}"


def _named(part: RegionAttribution) -> str:
    whose = f"{part.slot} {part.place + 1}" if part.place else part.slot
    return f"{whose} as a whole" if part.name == WHOLE_INPUT else f"{part.name} in {whose}"
