"""Datasets: training examples, their split by subject, and the batches that a step's graphs read."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from homeroom.contract.graph_io import INPUT_IDS, MASK, PRESENCE, SLOT_KINDS, TARGET, named
from homeroom.contract.layout import Segment
from homeroom.contract.manifest import ABSENT_SCORE, Graph, Manifest, Task
from homeroom.data.preprocess.raw_inputs import fill_input, pad_id, token_count
from homeroom.data.tasks import kind_of
from homeroom.data.tasks.base import Words
from homeroom.errors import TrainError
from homeroom.train.features.batches import Batch, Pack
from homeroom.train.features.buffer import InputKey


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as training sees it.

    inputs: int8 [taps, n, dim] by input key, n without padding; where LoRA is inside the backbone, the raw input
    targets: float32 [width] by task; of a task that answers for each token [tokens, width] or [tokens], see
        `token_targets`
    weight: of its loss
    language: "" where it is not stated
    group: what is held out whole beside it, see `train.judged`; "" where its subject is
    longest: tokens of the longest input by modality; None where that is read from the inputs
    words: of the texts that a task marks spans in, by slot
    note: for the person who is answered; cut: slots with a text whose end is not read
    input_weights: of poor inputs in the fusion, above 0; 1 where it is not named
    """

    inputs: Mapping[InputKey, np.ndarray]
    targets: Mapping[str, np.ndarray]
    subject: str = ""
    sample_id: str = ""
    weight: float = 1.0
    language: str = ""
    longest: Mapping[str, int] | None = None
    words: Mapping[str, Words] = field(default_factory=dict)
    note: str = ""
    input_weights: Mapping[InputKey, float] = field(default_factory=dict)
    group: str = ""
    cut: tuple[str, ...] = ()


class LazyExamples(Sequence[Example]):
    """Examples that need not be in memory: each is made when it is asked for, the inputs of several at once."""

    @abstractmethod
    def inputs_of(self, rows: np.ndarray) -> list[Mapping[InputKey, np.ndarray]]:
        """The inputs of the examples with these numbers, read together."""


class Subset(LazyExamples):
    """Some of many examples. rows: their numbers, int32 [n]."""

    def __init__(self, examples: Sequence[Example], rows: np.ndarray) -> None:
        self._examples, self._rows = examples, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return Subset(self._examples, self._rows[row])
        return self._examples[self._rows.item(row)]

    def inputs_of(self, rows: np.ndarray) -> list[Mapping[InputKey, np.ndarray]]:
        """The inputs of the examples with these numbers, read together."""
        return inputs_of(self._examples, self._rows[rows])


def inputs_of(examples: Sequence[Example], rows: np.ndarray) -> list[Mapping[InputKey, np.ndarray]]:
    """The inputs of the examples with these numbers."""
    return examples.inputs_of(rows) if isinstance(examples, LazyExamples) else [examples[row].inputs for row in rows]


@dataclass
class Dataset:
    """Examples for one bundle, and what training reads of them as arrays. hidden: slots that count as absent."""

    manifest: Manifest
    examples: Sequence[Example]
    hidden: frozenset[str] = frozenset()
    _packs: dict[str, list[Pack]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.examples)

    def subset(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        """The examples with these numbers."""
        return Dataset(self.manifest, Subset(self.examples, np.asarray(rows, np.int32)), self.hidden)

    def only(self, slot: str) -> Dataset:
        """The same examples with the inputs of one slot alone."""
        others = frozenset(one.name for one in self.manifest.slots if one.name != slot)
        return Dataset(self.manifest, self.examples, others)

    @cached_property
    def presence(self) -> np.ndarray:
        """float32 [examples, inputs]: 0 absent, 1 present, just under 1 where it has a lower weight in the fusion."""
        presence = np.zeros((len(self), len(self.manifest.inputs)), np.float32)
        for row, example in enumerate(self.examples):
            for column, (slot, _, slot_index) in enumerate(self.manifest.inputs):
                if slot not in self.hidden and (slot, slot_index) in example.inputs:
                    weight = example.input_weights.get((slot, slot_index), 1.0)
                    presence[row, column] = 1 + math.log(weight) / ABSENT_SCORE
        return presence

    @cached_property
    def labelled(self) -> np.ndarray:
        """float32 [examples, tasks]: the example's weight where it has a label that its inputs can teach, else 0."""
        labelled = np.zeros((len(self), len(self.manifest.tasks)), np.float32)
        for row, example in enumerate(self.examples):
            labelled[row] = [example.weight * (task.name in example.targets) for task in self.manifest.tasks]
        for column, task in enumerate(self.manifest.tasks):
            labelled[:, column] *= self.usable(task, self.presence)
        return labelled

    @cached_property
    def aligned(self) -> np.ndarray:
        """float32 [examples, objectives]: the example's weight where its inputs teach without a label, else 0."""
        weights = np.array([example.weight for example in self.examples], np.float32)
        return self.paired(self.presence) * weights[:, None]

    def paired(self, presence: np.ndarray) -> np.ndarray:
        """float32 [rows, objectives]: 1 where an objective has inputs enough: two to align, else one; 0 elsewhere.

        presence: [rows, inputs].
        """
        paired = np.zeros((len(presence), len(self.manifest.objectives)), np.float32)
        for column, objective in enumerate(self.manifest.objectives):
            slots = [presence[:, self._columns(slot)].any(1) for slot in objective.reads]
            paired[:, column] = np.sum(slots, 0) >= (2 if objective.kind == "alignment" else 1)
        return paired

    @cached_property
    def targets(self) -> dict[str, np.ndarray]:
        """float32 [examples, width] by task, but for those per token; zeros where there is no label."""
        tasks = [task for task in self.manifest.tasks if not kind_of(task).per_token]
        targets = {task.name: np.zeros((len(self), task.width), np.float32) for task in tasks}
        for row, example in enumerate(self.examples):
            for name in targets.keys() & example.targets.keys():
                targets[name][row] = example.targets[name]
        return targets

    def compared_tokens(self, task: Task) -> np.ndarray:
        """float32 [examples]: the number of tokens with a target of a task per token."""
        targets = (e.targets.get(task.name) for e in self.examples)
        marked = (None if t is None else t.any(1) if t.ndim > 1 else t for t in targets)
        return np.array([0 if t is None else np.count_nonzero(t) for t in marked], np.float32)

    def one_sided(self, task: Task) -> bool:
        """Whether a task's targets have nothing to tell apart: the answers of a tracing are all right, or all wrong."""
        targets = (e.targets[task.name] for e in self.examples if task.name in e.targets)
        return bool((one_sided := kind_of(task).one_sided) and one_sided(targets))

    def usable(self, task: Task, presence: np.ndarray) -> np.ndarray:
        """bool [rows]: whether the inputs suffice for the task to answer. presence: [rows, inputs]."""
        slots = np.stack([presence[:, self._columns(slot)].any(1) for slot in task.reads], 1)
        return np.asarray(slots.all(1) if needs_all(task, self.manifest) else slots.any(1))

    def split(self, fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
        """(training, validation): every group or subject whole on one side; None where there are too few, or examples.

        fraction: of the examples, for validation. They are drawn so that rare labels are on both sides where that is
        possible.
        """
        rng = np.random.default_rng([seed, 0x5B117])
        wanted = round(fraction * len(self))
        if wanted < 4 or not len(self):
            return self, None
        group = self.whole_units()
        held_out = _stratified_draw(group, rng.permutation(int(group.max()) + 1), wanted, self._strata())
        if held_out.all() or not held_out.any():
            return self, None
        return self.subset(np.flatnonzero(~held_out)), self.subset(np.flatnonzero(held_out))

    def whole_units(self) -> np.ndarray:
        """int32 [examples]: the number of each example's group, or subject where it is in none.

        Where all are in one group, subjects alone count; of one subject, such as a whole classroom, single examples do.
        """
        for grouped in (True, False):
            numbers: dict[tuple[bool, str], int] = {}
            names = ((bool(e.group), e.group or e.subject) if grouped else (False, e.subject) for e in self.examples)
            unit = np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), np.int32, len(self))
            if len(numbers) > 1:
                rank = {name: number for number, name in enumerate(sorted(numbers))}  # whoever came first
                return np.array([rank[name] for name in numbers], np.int32)[unit]
        return np.arange(len(self), dtype=np.int32)

    def examples_by_segment(self) -> dict[str, int]:
        """The number of examples that taught each segment, by segment name."""
        return {segment.name: int(self._teaches(segment).sum()) for segment in self.manifest.segments}

    def _teaches(self, segment: Segment) -> np.ndarray:
        """bool [examples]: whether it has the segment's task or objective, or its modality in a labelled task."""
        tasks, objectives, labelled = self.manifest.tasks, self.manifest.objectives, self.labelled > 0
        if segment.task is not None:
            return np.asarray(labelled[:, [task.name for task in tasks].index(segment.task)])
        for column, objective in enumerate(objectives):
            if objective.segment == segment.name:
                return np.asarray(self.aligned[:, column] > 0)
        if segment.modality is None:
            return np.asarray(labelled[:, [not needs_all(task, self.manifest) for task in tasks]].any(1))
        reads = [task.reads for task in tasks] + [objective.reads for objective in objectives]
        has_modality = np.stack([self._has(slots, segment.modality) for slots in reads], 1)
        return np.asarray((np.hstack([labelled, self.aligned > 0]) & has_modality).any(1))

    def _has(self, slots: Sequence[str], modality: str) -> np.ndarray:
        """bool [examples]: whether an input of this modality is present in the slots."""
        columns = [c for slot in slots if self.manifest.slot(slot).modality == modality for c in self._columns(slot)]
        return np.asarray(self.presence[:, columns].any(1))

    def packs(self, variants: Sequence[Graph]) -> list[Pack]:
        """The examples by the variant with the smallest tokens that holds them; packed once."""
        key = " ".join(variant.file for variant in variants)
        if key not in self._packs:
            self._packs[key] = list(self._pack(variants))
        return self._packs[key]

    def plan(self, variants: Sequence[Graph], rng: np.random.Generator | None = None, rows: int = 0) -> list[Batch]:
        """The batches of one pass over the examples, shuffled if there is an rng.

        rows: of a batch, which is run in `parts` where its graph holds fewer; 0: as many as the graph holds.
        """
        batches = []
        for pack in self.packs(variants):
            order = np.arange(len(pack.rows)) if rng is None else rng.permutation(len(pack.rows))
            size = rows or pack.graphs[-1].batch
            batches += [Batch(pack, order[start : start + size], size) for start in range(0, len(order), size)]
        return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]

    def feeds(self, batch: Batch, presence: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The inputs of a `predict` graph for a batch, but for theta; rows beyond the batch are padding, all absent.

        presence: float32 [rows, inputs], None for the dataset's own.
        """
        rows, graph = batch.rows, batch.graph
        presence = self.presence[rows] if presence is None and self.hidden else presence  # which also masks tokens
        padded = np.zeros((graph.batch, len(self.manifest.inputs)), np.float32)
        padded[: len(rows)] = self.presence[rows] if presence is None else presence
        feeds: dict[str, np.ndarray] = {PRESENCE: padded}
        by_slot: dict[str, dict[str, np.ndarray]] = {}  # and kind, the same arrays as in `feeds`
        for tensor in graph.inputs:
            slot, _, kind = tensor.name.partition(".")
            if kind in SLOT_KINDS:
                feeds[tensor.name] = array = np.zeros(tensor.shape, tensor.dtype)
                by_slot.setdefault(slot, {})[kind] = array
                if kind == INPUT_IDS:
                    array[: len(rows)] = pad_id(self.manifest.modality(self.manifest.slot(slot).modality))
        for row, inputs in enumerate(inputs_of(self.examples, rows)):
            for slot, slot_index in inputs:
                if slot in by_slot:
                    fill_input(by_slot[slot], row, slot_index, inputs[slot, slot_index])
        if presence is not None:
            for slot, arrays in by_slot.items():
                if MASK in arrays:
                    arrays[MASK][: len(rows)] *= presence[:, self._columns(slot), None]
        return feeds

    def targets_of(self, batch: Batch) -> dict[str, np.ndarray]:
        """`{task}.target` float32 [batch, width], [batch, tokens, width] or [batch, tokens], zeros in the padding."""
        rows, size = batch.rows, batch.graph.batch
        shapes = {tensor.name: tensor.shape for tensor in batch.graph.inputs}
        feeds = {}
        for task in self.manifest.tasks:
            if (kind := kind_of(task)).per_token:
                targets = np.zeros(shapes[named(task.name, TARGET)], np.float32)
                for position, row in enumerate(rows):
                    if (target := self.examples[row].targets.get(task.name)) is not None:
                        if kind.columns_of_numbers and targets.ndim == 3:
                            target = kind.columns_of_numbers(target, task.width)
                        targets[position, : len(target)] = target
            else:
                targets = np.zeros((size, task.width), np.float32)
                targets[: len(rows)] = self.targets[task.name][rows]
            feeds[named(task.name, TARGET)] = targets
        return feeds

    def _columns(self, slot: str) -> list[int]:
        return [column for column, (name, _, _) in enumerate(self.manifest.inputs) if name == slot]

    def _strata(self) -> np.ndarray:
        """int32 [examples]: a number for each combination of the labels' classes, to stratify a draw by."""
        names = [t.name for t in self.manifest.tasks if kind_of(t).classes]
        keys = (b"/".join(n.encode() + e.targets[n].tobytes() for n in names if n in e.targets) for e in self.examples)
        numbers: dict[bytes, int] = {}
        return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int32, len(self))

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
        by_shape: dict[tuple[tuple[str, int], ...], list[Graph]] = {}
        for graph in sorted(variants, key=lambda graph: graph.batch):
            by_shape.setdefault(tuple(sorted(graph.tokens.items())), []).append(graph)
        shapes = sorted(sorted(by_shape), key=lambda shape: sum(size for _, size in shape))
        members: dict[tuple[tuple[str, int], ...], list[int]] = {shape: [] for shape in shapes}
        for row, example in enumerate(self.examples):
            longest = self._longest(example)
            shape = next((s for s in shapes if all(dict(s)[m] >= n for m, n in longest.items())), None)
            if shape is None:
                raise TrainError(f"no graph of the bundle holds {longest} tokens", remedy="export the bundle again")
            members[shape].append(row)
        return (Pack(tuple(by_shape[shape]), np.array(rows, np.int32)) for shape, rows in members.items() if rows)


def needs_all(task: Task, manifest: Manifest) -> bool:
    """Whether a task cannot answer unless all its slots are present: a choice, a matching, a pair of one modality."""
    modalities = [manifest.slot(slot).modality for slot in task.reads]
    return kind_of(task).needs_every_slot or len(set(modalities)) < len(modalities)


def fused_slots(manifest: Manifest) -> set[str]:
    """The slots of tasks that answer from any subset of their slots."""
    return {slot for task in manifest.tasks if not needs_all(task, manifest) for slot in task.reads}


def _stratified_draw(group: np.ndarray, order: np.ndarray, wanted: int, strata: np.ndarray) -> np.ndarray:
    """bool [rows]: whole groups, about `wanted` rows, so that no stratum gives more than its share plus one group.

    group: the number of each row's group
    order: of the groups, in which they are considered
    strata: the number of each row's stratum; where most strata are too rare for an even draw, as with several tasks at
        once, their shares no longer bind
    """
    rows = np.argsort(group, kind="stable").astype(np.int32)  # group by group
    starts = np.searchsorted(group[rows], np.arange(len(order) + 1))
    share_left = np.full(int(strata.max()) + 1, 0.5)
    np.add.at(share_left, strata, wanted / len(strata))
    drawn = np.zeros(len(group), bool)
    for even in (True, False):
        if not even and np.count_nonzero(drawn) >= wanted / 2:
            break
        count = np.count_nonzero(drawn)
        for number in order:
            if count >= wanted:
                break
            members = rows[starts[number] : starts[number + 1]]
            in_share = not even or share_left[strata[members[0]]] >= 1
            if not drawn[members[0]] and len(members) <= 2 * wanted and in_share:
                drawn[members] = True
                count += len(members)
                np.subtract.at(share_left, strata[members], 1)
    return drawn
