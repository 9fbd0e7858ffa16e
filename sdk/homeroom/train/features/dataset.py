"""Training examples by length, and the batches made of them; imports the manifest, preprocess."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from homeroom.contract.manifest import ABSENT_SCORE, Graph, Manifest, Task
from homeroom.data.preprocess.raw_inputs import fill_input, pad_id, token_count
from homeroom.errors import TrainError
from homeroom.train.features.batches import Batch, Pack
from homeroom.train.features.token_targets import Words

INPUTS = ("features", "input_ids", "pixels", "mask")  # of a slot, as a step's graph names them


@dataclass(frozen=True, slots=True)
class Example:
    """`inputs`: int8 [taps, n, dim] by (slot, place), n without padding; `targets`: float32 [width] by task.

    Where LoRA is inside the backbone, an input is what `preprocess.direct` keeps of it. `longest`: the tokens of the
    longest input by modality, where that is known without reading them. Of a task that answers for each token the
    target is [tokens, width], see `token_targets`, as are `words`, by slot. `note`: for who is answered. `counts`:
    what a poor input counts in the fusion, above 0; 1 where it is not named.
    """

    inputs: Mapping[tuple[str, int], np.ndarray]
    targets: Mapping[str, np.ndarray]
    subject: str = ""
    sample_id: str = ""
    weight: float = 1.0
    language: str = ""
    longest: Mapping[str, int] | None = None
    words: Mapping[str, Words] = field(default_factory=dict)
    note: str = ""
    counts: Mapping[tuple[str, int], float] = field(default_factory=dict)


class Examples(Sequence[Example]):
    """Examples that need not be in memory: each is made when it is asked for, the inputs of several at once."""

    @abstractmethod
    def inputs_of(self, rows: np.ndarray) -> list[Mapping[tuple[str, int], np.ndarray]]:
        """The inputs of the examples with these numbers, read together."""


class Some(Examples):
    """Some of many examples, by their numbers."""

    def __init__(self, every: Sequence[Example], rows: np.ndarray) -> None:
        self._every, self._rows = every, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        return Some(self._every, self._rows[row]) if isinstance(row, slice) else self._every[self._rows.item(row)]

    def inputs_of(self, rows: np.ndarray) -> list[Mapping[tuple[str, int], np.ndarray]]:
        return inputs_of(self._every, self._rows[rows])


def inputs_of(examples: Sequence[Example], rows: np.ndarray) -> list[Mapping[tuple[str, int], np.ndarray]]:
    """The inputs of the examples with these numbers."""
    return examples.inputs_of(rows) if isinstance(examples, Examples) else [examples[row].inputs for row in rows]


@dataclass
class Dataset:
    """Examples for one bundle."""

    manifest: Manifest
    examples: Sequence[Example]
    _packs: dict[str, list[Pack]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.examples)

    def some(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        """Those of the examples with these numbers."""
        return Dataset(self.manifest, Some(self.examples, np.asarray(rows, np.int32)))

    @cached_property
    def presence(self) -> np.ndarray:
        """float32 [examples, inputs]: 0 absent, 1 present, just under 1 where it counts less."""
        found = np.zeros((len(self), len(self.manifest.inputs)), np.float32)
        for row, example in enumerate(self.examples):
            for column, (slot, _, place) in enumerate(self.manifest.inputs):
                if (slot, place) in example.inputs:
                    found[row, column] = 1 + math.log(example.counts.get((slot, place), 1.0)) / ABSENT_SCORE
        return found

    @cached_property
    def labelled(self) -> np.ndarray:
        """float32 [examples, tasks]: the example's weight where it has a label that its inputs can teach, else 0."""
        found = np.zeros((len(self), len(self.manifest.tasks)), np.float32)
        for row, example in enumerate(self.examples):
            found[row] = [example.weight * (task.name in example.targets) for task in self.manifest.tasks]
        for column, task in enumerate(self.manifest.tasks):
            found[:, column] *= self.usable(task, self.presence)
        return found

    @cached_property
    def aligned(self) -> np.ndarray:
        """float32 [examples, objectives]: the example's weight where its inputs teach without a label, else 0."""
        weights = np.array([example.weight for example in self.examples], np.float32)
        return self.paired(self.presence) * weights[:, None]

    def paired(self, presence: np.ndarray) -> np.ndarray:
        """float32 [rows, objectives]: 1 where it has two inputs to align, else one; presence: [rows, inputs]."""
        found = np.zeros((len(presence), len(self.manifest.objectives)), np.float32)
        for column, objective in enumerate(self.manifest.objectives):
            here = [presence[:, self._columns(slot)].any(1) for slot in objective.reads]
            found[:, column] = np.sum(here, 0) >= (2 if objective.kind == "alignment" else 1)
        return found

    @cached_property
    def targets(self) -> dict[str, np.ndarray]:
        """float32 [examples, width] by task, but for those per token; zeros where there is no label."""
        found = {t.name: np.zeros((len(self), t.width), np.float32) for t in self.manifest.tasks if not t.per_token}
        for row, example in enumerate(self.examples):
            for name in found.keys() & example.targets.keys():
                found[name][row] = example.targets[name]
        return found

    def compared_tokens(self, task: Task) -> np.ndarray:
        """float32 [examples]: how many of its tokens a task per token is compared at."""
        counts = [np.any(e.targets[task.name], -1).sum() if task.name in e.targets else 0 for e in self.examples]
        return np.array(counts, np.float32)

    def one_sided(self, task: Task) -> bool:
        """Whether of a tracing task's answers all are right, or all wrong."""
        targets = [e.targets[task.name] for e in self.examples if task.name in e.targets]
        return not (any((one > 0).any() for one in targets) and any((one < 0).any() for one in targets))

    def usable(self, task: Task, presence: np.ndarray) -> np.ndarray:
        """bool [rows]: whether the inputs at hand let the task say anything; presence: [rows, inputs]."""
        here = np.stack([presence[:, self._columns(slot)].any(1) for slot in task.reads], 1)
        return np.asarray(here.all(1) if needs_all(task, self.manifest) else here.any(1))

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
        """(training, validation): every subject whole on one side; None where there are too few subjects or examples.

        Subjects are drawn so that the rarest labels are seen on both sides where that is possible.
        """
        names: dict[str, int] = {}
        given = (names.setdefault(example.subject, len(names)) for example in self.examples)
        owner = np.fromiter(given, np.int32, len(self))
        rng = np.random.default_rng([seed, 0x5B117])
        wanted = round(fraction * len(self))
        if wanted < 4 or not names:
            return self, None
        if len(names) == 1:  # such as a whole classroom: single examples are drawn instead
            owner = np.arange(len(self), dtype=np.int32)
        else:
            owner = np.argsort(np.argsort(list(names)))[owner].astype(np.int32)  # by name, whoever came first
        held = _draw(owner, rng.permutation(int(owner.max()) + 1), wanted, self._strata())
        if held.all() or not held.any():
            return self, None
        return self.some(np.flatnonzero(~held)), self.some(np.flatnonzero(held))

    def examples_by_segment(self) -> dict[str, int]:
        """How many examples taught each segment: those with its task, or its modality in what a labelled task reads."""
        tasks = self.manifest.tasks
        labelled = self.labelled > 0
        counts: dict[str, int] = {}
        for segment in self.manifest.segments:
            if segment.task is not None:
                column = [task.name for task in tasks].index(segment.task)
                counts[segment.name] = int(labelled[:, column].sum())
                continue
            own = [o.segment == segment.name for o in self.manifest.objectives]
            if any(own):
                counts[segment.name] = int((self.aligned[:, own.index(True)] > 0).sum())
                continue
            taught = np.zeros(len(self), bool)
            for column, task in enumerate(tasks):
                if segment.modality is None:
                    taught |= labelled[:, column] & (not needs_all(task, self.manifest))
                    continue
                slots = [s for s in task.reads if self.manifest.slot(s).modality == segment.modality]
                for slot in slots:
                    taught |= labelled[:, column] & self.presence[:, self._columns(slot)].any(1)
            for column, objective in enumerate(self.manifest.objectives):
                for slot in objective.reads:
                    if self.manifest.slot(slot).modality == segment.modality:
                        taught |= (self.aligned[:, column] > 0) & self.presence[:, self._columns(slot)].any(1)
            counts[segment.name] = int(taught.sum())
        return counts

    def packs(self, variants: Sequence[Graph]) -> list[Pack]:
        """The examples by the variant with the smallest tokens that holds them; packed once."""
        key = " ".join(variant.file for variant in variants)
        if key not in self._packs:
            self._packs[key] = list(self._pack(variants))
        return self._packs[key]

    def plan(self, variants: Sequence[Graph], rng: np.random.Generator | None = None, rows: int = 0) -> list[Batch]:
        """The batches of one pass over the examples, shuffled if there is an rng; rows: of a batch, else its graph's.

        A batch of more rows than its graph holds is run in `parts`.
        """
        batches = []
        for pack in self.packs(variants):
            order = np.arange(len(pack.rows)) if rng is None else rng.permutation(len(pack.rows))
            size = rows or pack.graphs[-1].batch
            batches += [Batch(pack, order[start : start + size], size) for start in range(0, len(order), size)]
        return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]

    def feeds(self, batch: Batch, presence: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What `predict` reads for a batch, but for theta; rows beyond it are padding, absent throughout."""
        rows, graph = batch.rows, batch.graph
        here = np.zeros((graph.batch, len(self.manifest.inputs)), np.float32)
        here[: len(rows)] = self.presence[rows] if presence is None else presence
        feeds: dict[str, np.ndarray] = {"presence": here}
        read: dict[str, dict[str, np.ndarray]] = {}  # by slot: what the graph reads of it, by kind
        for tensor in graph.inputs:
            slot, _, kind = tensor.name.partition(".")
            if kind in INPUTS:
                feeds[tensor.name] = array = np.zeros(tensor.shape, tensor.dtype)
                read.setdefault(slot, {})[kind] = array
                if kind == "input_ids":
                    array[: len(rows)] = pad_id(self.manifest.modality(self.manifest.slot(slot).modality))
        for at, inputs in enumerate(inputs_of(self.examples, rows)):
            for slot, place in inputs:
                if slot in read:
                    fill_input(read[slot], at, place, inputs[slot, place])
        if presence is not None:
            for slot, arrays in read.items():
                if "mask" in arrays:
                    arrays["mask"][: len(rows)] *= presence[:, self._columns(slot), None]
        return feeds

    def targets_of(self, batch: Batch) -> dict[str, np.ndarray]:
        """`{task}.target` float32 [batch, width] or [batch, tokens, width], zeros in the padding."""
        rows, size = batch.rows, batch.graph.batch
        feeds = {}
        for task in self.manifest.tasks:
            if task.per_token:
                tokens = batch.graph.tokens[self.manifest.slot(task.reads[0]).modality]
                made = np.zeros((size, tokens, task.width), np.float32)
                for place, row in enumerate(rows):
                    if (target := self.examples[row].targets.get(task.name)) is not None:
                        made[place, : len(target)] = target
            else:
                made = np.zeros((size, task.width), np.float32)
                made[: len(rows)] = self.targets[task.name][rows]
            feeds[f"{task.name}.target"] = made
        return feeds

    def _columns(self, slot: str) -> list[int]:
        return [column for column, (name, _, _) in enumerate(self.manifest.inputs) if name == slot]

    def _strata(self) -> np.ndarray:
        """int32 [examples]: one number for each combination of labels' classes, so that a draw can be even."""
        names = [t.name for t in self.manifest.tasks if t.kind in ("classification", "ordinal")]
        words = (b"/".join(n.encode() + e.targets[n].tobytes() for n in names if n in e.targets) for e in self.examples)
        same: dict[bytes, int] = {}
        return np.fromiter((same.setdefault(word, len(same)) for word in words), np.int32, len(self))

    def _longest(self, example: Example) -> Mapping[str, int]:
        if example.longest is not None:
            return example.longest
        longest: dict[str, int] = {}
        for (slot, _), array in example.inputs.items():
            modality = self.manifest.slot(slot).modality
            length = token_count(self.manifest.modality(modality), array)
            longest[modality] = max(longest.get(modality, 0), length)
        return longest

    def _pack(self, variants: Sequence[Graph]) -> Iterator[Pack]:
        shapes = sorted({tuple(sorted(v.tokens.items())) for v in variants})
        shapes.sort(key=lambda shape: sum(size for _, size in shape))
        members: dict[tuple[tuple[str, int], ...], list[int]] = {shape: [] for shape in shapes}
        for row, example in enumerate(self.examples):
            longest = self._longest(example)
            shape = next((s for s in shapes if all(dict(s)[m] >= n for m, n in longest.items())), None)
            if shape is None:
                raise TrainError(f"no graph of the bundle holds {longest} tokens", remedy="export the bundle again")
            members[shape].append(row)
        for shape, rows in members.items():
            if rows:
                graphs = [v for v in variants if tuple(sorted(v.tokens.items())) == shape]
                yield Pack(tuple(sorted(graphs, key=lambda g: g.batch)), np.array(rows, np.int32))


def needs_all(task: Task, manifest: Manifest) -> bool:
    """Whether a task can say nothing unless all its slots are there: a choice, a matching, a pair of one modality."""
    modalities = [manifest.slot(slot).modality for slot in task.reads]
    return task.kind in ("choice", "matching") or len(set(modalities)) < len(modalities)


def fusing(manifest: Manifest) -> set[str]:
    """The slots of tasks that take any subset of what they read."""
    return {slot for task in manifest.tasks if not needs_all(task, manifest) for slot in task.reads}


def _draw(owner: np.ndarray, order: np.ndarray, wanted: int, strata: np.ndarray) -> np.ndarray:
    """bool [rows]: whole groups, about `wanted` rows, so that no stratum gives more than its share plus one group.

    owner: the number of each row's group; order: in which groups are asked. Where most strata are too rare for an even
    draw, as with several tasks at once, their shares no longer bind.
    """
    rows = np.argsort(owner, kind="stable").astype(np.int32)  # group by group
    starts = np.searchsorted(owner[rows], np.arange(len(order) + 1))
    room = np.full(int(strata.max()) + 1, 0.5)
    np.add.at(room, strata, wanted / len(strata))
    held = np.zeros(len(owner), bool)
    for even in (True, False):
        if not even and np.count_nonzero(held) >= wanted / 2:
            break
        taken = np.count_nonzero(held)
        for number in order:
            if taken >= wanted:
                break
            group = rows[starts[number] : starts[number + 1]]
            if not held[group[0]] and len(group) <= 2 * wanted and (not even or room[strata[group[0]]] >= 1):
                held[group] = True
                taken += len(group)
                np.subtract.at(room, strata[group], 1)
    return held
