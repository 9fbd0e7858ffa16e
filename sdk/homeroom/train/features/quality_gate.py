"""The quality gate: quarantines poor samples, and leaves out or down-weights poor inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import msgspec

from homeroom.contract.manifest import Manifest, TablePreprocess, Task
from homeroom.data.quality import QualityFinding, far_labels, poor_inputs, table
from homeroom.data.quality.finding import DEFAULT_INPUT_WEIGHT
from homeroom.data.quality.near_duplicates import near_duplicate_digest
from homeroom.data.samples import StoredInput, StoredSample
from homeroom.data.tasks import kind_of, needs_no_label
from homeroom.store import AddReport, Store
from homeroom.train.features.buffer import InputKey
from homeroom.train.features.dataset import fused_slots, needs_all


def add_checked(
    store: Store,
    manifest: Manifest,
    samples: Iterable[StoredSample],
    report: AddReport | None = None,
    refuse_new: Callable[[StoredSample], object] | None = None,
) -> list[str]:
    """Stores samples; quarantines near duplicates and those with poor inputs; returns their ids.

    Of a sample that still teaches something without its poor inputs, only these are left out or down-weighted.
    report, refuse_new: of `Store.add`.
    """
    checked = (check_quality(sample, manifest) for sample in samples)
    return store.add(checked, lambda sample: near_duplicate_digest(sample, manifest), report, refuse_new)


def training_view(sample: StoredSample, manifest: Manifest) -> StoredSample:
    """A stored sample as training sees it: without the inputs left out, nor labels that ask about them."""
    return _teaching(sample, _keys(sample.left_out), manifest)


@dataclass(frozen=True)
class PredictionView:
    """A sample as it is answered.

    note: on its poor inputs
    unsure: by slot, why no answer from it is sure
    poor: by task, the findings where it has no other inputs, or not those that it needs
    unread: tasks whose last slot, or all that they read, has nothing in it to be read
    """

    sample: StoredSample
    note: str = ""
    unsure: Mapping[str, str] = field(default_factory=dict)
    poor: Mapping[str, str] = field(default_factory=dict)
    unread: Collection[str] = ()


def prediction_view(sample: StoredSample, manifest: Manifest, weights: Mapping[str, float]) -> PredictionView:
    """A sample to be answered, without its empty inputs and the cells of tables that are outside their usual range.

    It stays as it is where nothing else would be left. weights: as of `examples`.
    """
    usual, unsure = _with_usual_cells(sample, manifest)
    findings = poor_inputs(usual, manifest)
    left_out, weighed = _by_treatment(findings, manifest)
    kept = msgspec.structs.replace(_without(usual, _keys(left_out)), weighed=weighed)
    poor, unread = _poor_tasks(usual, findings, manifest)
    if not any(value is not None for values in kept.inputs.values() for value in values):
        return PredictionView(sample, unsure=unsure, poor=poor, unread=unread)
    notes = [f"left out {findings[key].reason}" for key in _keys(left_out)]
    for key in _keys(weighed):
        weight = weights.get(manifest.slot(key[0]).modality, DEFAULT_INPUT_WEIGHT)
        notes.append(f"{findings[key].reason}, so it counts {weight:g} times what a good one does")
    return PredictionView(kept, "; ".join(notes), unsure, poor, unread)


def _poor_tasks(
    sample: StoredSample, findings: Mapping[InputKey, QualityFinding], manifest: Manifest
) -> tuple[dict[str, str], set[str]]:
    """`poor` and `unread` of a `PredictionView`."""
    poor, unread = dict[str, str](), set[str]()
    for task in manifest.tasks if findings else ():
        by_slot = [_given(sample, slot) for slot in task.reads]
        whole = needs_all(task, manifest)
        wanted = [keys for keys in by_slot if keys] if whole else [list(chain.from_iterable(by_slot))]
        lost = [keys for keys in wanted if keys and all(key in findings for key in keys)]
        if lost:
            poor[task.name] = "; ".join(findings[key].reason for keys in lost for key in keys)
        asked = by_slot[-1] if whole else wanted[0]  # the last slot is what is judged, such as the answer of a pupil
        if asked and all(key in findings and findings[key].empty for key in asked):
            unread.add(task.name)
    return poor, unread


def _given(sample: StoredSample, slot: str) -> list[InputKey]:
    return [(slot, index) for index, value in enumerate(sample.inputs.get(slot, ())) if value is not None]


def _with_usual_cells(sample: StoredSample, manifest: Manifest) -> tuple[StoredSample, dict[str, str]]:
    """A sample without the cells outside their usual range, and sentences on these by slot."""
    inputs, unsure = dict(sample.inputs), {}
    for slot, values in sample.inputs.items():
        spec = manifest.modality(manifest.slot(slot).modality).preprocess
        if not isinstance(spec, TablePreprocess):
            continue
        unusual = [table.unusual_cells(spec, row) if isinstance(row, dict) else {} for row in values]
        if sentences := [sentence for cells in unusual for sentence in cells.values()]:
            unsure[slot] = f"{slot}: {', '.join(sentences)}"
            inputs[slot] = [_without_cells(row, cells) for row, cells in zip(values, unusual, strict=True)]
    return msgspec.structs.replace(sample, inputs=inputs), unsure


def _without_cells(row: StoredInput | None, names: Collection[str]) -> StoredInput | None:
    if not isinstance(row, dict):
        return row
    kept = {name: None if name in names else cell for name, cell in row.items()}
    return kept if any(cell is not None for cell in kept.values()) else None


def check_quality(sample: StoredSample, manifest: Manifest) -> StoredSample:
    """The sample with what is to be done about its poor inputs; quarantined where it teaches nothing without them.

    Quarantined too where a label is a number far outside what the task was made for: a slip, such as 1250 for 12.50.
    """
    findings = poor_inputs(sample, manifest)
    if far := far_labels(sample, manifest):
        reasons = [*far, *(finding.reason for finding in findings.values())]
        return msgspec.structs.replace(sample, aside="; ".join(reasons))
    if not findings:
        return sample
    flagged = msgspec.structs.replace(sample, aside="; ".join(finding.reason for finding in findings.values()))
    if not _teaches(_teaching(flagged, findings.keys(), manifest), manifest):
        return flagged
    left_out, weighed = _by_treatment(findings, manifest)
    return msgspec.structs.replace(flagged, left_out=left_out, weighed=weighed)


def _by_treatment(
    findings: Mapping[InputKey, QualityFinding], manifest: Manifest
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Slot indexes, by slot, of poor inputs to leave out, and of those to down-weight, which only the fusion can."""
    left_out, weighed, slots = dict[str, list[int]](), dict[str, list[int]](), fused_slots(manifest)
    for slot, slot_index in sorted(findings):
        treated = left_out if findings[slot, slot_index].empty or slot not in slots else weighed
        treated.setdefault(slot, []).append(slot_index)
    return left_out, weighed


def _keys(indexes: Mapping[str, Sequence[int]]) -> list[InputKey]:
    return [(slot, slot_index) for slot, in_slot in indexes.items() for slot_index in in_slot]


def _teaching(sample: StoredSample, removed: Collection[InputKey], manifest: Manifest) -> StoredSample:
    """A sample without some inputs, and without the labels that ask about them."""
    if not removed:
        return sample
    kept = _without(sample, removed)
    labels = {name: label for name, label in kept.labels.items() if _has_answer(manifest.task(name), kept)}
    return msgspec.structs.replace(kept, labels=labels)


def _without(sample: StoredSample, removed: Collection[InputKey]) -> StoredSample:
    inputs: dict[str, list[StoredInput | None]] = {
        slot: [None if (slot, slot_index) in removed else value for slot_index, value in enumerate(values)]
        for slot, values in sample.inputs.items()
    }
    return msgspec.structs.replace(sample, inputs=inputs)


def _teaches(sample: StoredSample, manifest: Manifest) -> bool:
    """Whether one of its labels, or an objective without labels, can be learned from its inputs."""
    tasks = [manifest.task(name) for name in sample.labels]
    if any((all if needs_all(task, manifest) else any)(_has(sample, slot) for slot in task.reads) for task in tasks):
        return True
    return needs_no_label(manifest) and any(_has(sample, slot) for slot in sample.inputs)


def _has_answer(task: Task, sample: StoredSample) -> bool:
    """Whether the input that a label asks about, such as the right option of a choice, is among the inputs."""
    asked = kind_of(task).asked_input(task, sample.labels[task.name])
    return asked is None or sample.inputs[asked[0]][asked[1]] is not None


def _has(sample: StoredSample, slot: str) -> bool:
    return any(value is not None for value in sample.inputs.get(slot, ()))
