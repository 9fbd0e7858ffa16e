"""Counts of an evaluation in secure rounds: what a round sums, the same for every device and for the aggregator.

A group that enough devices have is summed by itself, all others of a task together, and beside them the ten bins of
devices' own accuracy: for each figure there are as many devices as for a segment of an update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import msgspec
import numpy as np

from homeroom.contract.canonical_json import identity
from homeroom.contract.evaluation_counts import (
    BINS,
    MOST_SAMPLES,
    OTHERS,
    VALUE_LIMIT,
    CountsShape,
    Group,
    GroupCounts,
    accuracy,
    add_counts,
    shown_as,
)
from homeroom.contract.manifest import Manifest
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.data.tasks import kind_of
from homeroom.errors import TrustError
from homeroom.privacy.secagg.encoding import SumLayout, ring_bytes
from homeroom.privacy.secagg.masks import ring_dtype
from homeroom.train.evaluate import input_names

TaskNames = Mapping[str, Mapping[Group, Group]]
DEVICES: Group = ("", "")  # of the segment that holds the bins; no group has no inputs


def segment_name(task: str, group: Group) -> str:
    """The name of a segment."""
    return msgspec.json.encode((task, *group)).decode()


def segment_of(name: str) -> tuple[str, Group]:
    """Task and group of a segment's name."""
    task, language, inputs = msgspec.json.decode(name, type=tuple[str, str, str])
    return task, (language, inputs)


def task_shapes(manifest: Manifest) -> dict[str, CountsShape]:
    """The form of the counts of each task whose answers are counted."""
    counted = ((task, kind_of(task).counting) for task in manifest.tasks)
    return {task.name: counting.shape(task) for task, counting in counted if counting}


def languages_of(manifest: Manifest) -> list[str]:
    """The languages that groups may have, with none."""
    return sorted({"", *(one for modality in manifest.modalities for one in modality.known_languages)})


@dataclass(frozen=True)
class EvaluationShape:
    """Counts of one version, 0 where there is none to tell of."""

    manifest: Manifest
    configuration: RoundConfiguration
    version: int

    @property
    def rules_id(self) -> str:
        """Identity of configuration and version: no notice of other rounds has it."""
        return identity({"evaluation": self.version, "configuration": self.configuration.configuration_id})

    @property
    def secure(self) -> SecureRules:
        """The rules of updates' secure rounds; TrustError where counts are not summed so."""
        if self.configuration.evaluation.mode != "secure" or not self.configuration.secure:
            raise TrustError("the round configuration asks for no secure evaluation", where="secure round")
        return self.configuration.secure

    @cached_property
    def shapes(self) -> dict[str, CountsShape]:
        """As `task_shapes`."""
        return task_shapes(self.manifest)

    @cached_property
    def groups(self) -> dict[str, list[Group]]:
        """The groups that samples of each task may be in."""
        reads = {task.name: task.reads for task in self.manifest.tasks}
        languages = languages_of(self.manifest)
        return {name: list(product(languages, input_names(reads[name]))) for name in self.shapes}

    @cached_property
    def announced(self) -> Sequence[str]:
        """A bit for each group of each task, set where the device has samples in it."""
        if not self.version:
            return []
        return [segment_name(task, group) for task, groups in self.groups.items() for group in groups]

    def names(self, task: str, fed: Mapping[str, set[int]], least: int) -> dict[Group, Group]:
        """Under which name each group of a task that somebody has is summed; as of `shown_as`."""
        slots = {group: fed.get(segment_name(task, group), set[int]()) for group in self.groups[task]}
        return shown_as({group: who for group, who in slots.items() if who}, least)

    def chosen(self, fed: Mapping[str, set[int]], least: int) -> dict[str, frozenset[int]]:
        """The segments that are summed, in order, each with the slots that feed it: `least` of them or more."""
        found: dict[str, frozenset[int]] = {}
        for task in self.shapes if self.version else ():
            for group, name in self.names(task, fed, least).items():
                slots = frozenset(fed[segment_name(task, group)])
                for one in (segment_name(task, name), segment_name(task, DEVICES)):
                    found[one] = found.get(one, frozenset()) | slots
        return dict(sorted(found.items()))

    def size(self, segment: str) -> int:
        """Values of a segment: of both versions, one after the other."""
        task, group = segment_of(segment)
        return 2 * (BINS if group == DEVICES else self.shapes[task].size)

    def width(self, devices: int) -> int:
        """Bytes of a ring element that holds the counts of so many devices."""
        numbers = any(shape.form == "numbers" for shape in self.shapes.values())
        return ring_bytes(devices * (VALUE_LIMIT if numbers else MOST_SAMPLES))


def encode_counts(
    shape: EvaluationShape, sum_layout: SumLayout, tasks: Mapping[str, Sequence[GroupCounts]], names: TaskNames
) -> np.ndarray:
    """Encodes a device's counts as ring elements, uint32 or uint64 [count]; a weight of 1 where it feeds a segment.

    tasks: its groups by task. names: under which each is summed, by task.
    """
    parts: dict[str, list[tuple[int, ...]]] = {}
    for task, groups in tasks.items():
        known = names.get(task, {})
        for group in groups if known else ():
            parts.setdefault(segment_name(task, known[group.group]), []).append((*group.now, *group.before))
        if known:
            parts[segment_name(task, DEVICES)] = [own_bins(shape.shapes[task], groups)]
    sizes = dict(zip(sum_layout.segments, sum_layout.sizes, strict=True))
    values = [np.array(add_counts(parts.get(name, []), size), np.int64) for name, size in sizes.items()]
    weights = np.array([name in parts for name in sizes], np.int64)
    encoded: np.ndarray = np.concatenate([*values, weights]).view(np.uint64).astype(ring_dtype(sum_layout.width))
    return encoded


def own_bins(shape: CountsShape, groups: Sequence[GroupCounts]) -> tuple[int, ...]:
    """The bins that a device adds one to: ten by the newest version, ten by the one before."""
    totals = (add_counts((getattr(group, name) for group in groups), shape.size) for name in ("now", "before"))
    return tuple(int(number == accuracy(shape, total).bin) for total in totals for number in range(BINS))


def read_sum(
    shape: EvaluationShape, values: Mapping[str, np.ndarray]
) -> dict[str, tuple[tuple[int, ...], dict[Group, GroupCounts]]]:
    """By task the twenty bins and the sums by group. values: int64 by segment."""
    found: dict[str, tuple[tuple[int, ...], dict[Group, GroupCounts]]] = {}
    for name, array in sorted(values.items()):
        task, group = segment_of(name)
        bins, groups = found.get(task, ((), {}))
        numbers, half = tuple(array.tolist()), len(array) // 2
        if group == DEVICES:
            bins = numbers
        else:
            groups[group] = GroupCounts(*group, numbers[:half], numbers[half:])
        found[task] = bins, groups
    return {task: (bins, dict(sorted(groups.items(), key=_others_last))) for task, (bins, groups) in found.items()}


def _others_last(item: tuple[Group, GroupCounts]) -> tuple[bool, Group]:
    return item[0] == OTHERS, item[0]
