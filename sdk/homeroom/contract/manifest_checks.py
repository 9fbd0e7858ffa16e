"""Reads manifest.json and checks it: names, references, sizes and file names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import msgspec

from homeroom.contract.canonical_json import decode
from homeroom.contract.continuation import MASKED_FORMAT, label_columns
from homeroom.contract.layout import FULL_TIER, narrower
from homeroom.contract.manifest import SLOT_LIMIT, THETA_LIMIT, Manifest, Objective, Task
from homeroom.contract.statistics.section import OF_TWO_TEXTS, PAIR_KINDS
from homeroom.errors import BundleError

OLDEST_MANIFEST_FORMAT = 1
BLOCK_MODALITIES = {"taps": ("image", "audio"), "text": ("text",), "table": ("table",)}
MANIFEST_LIMIT_BYTES = 4 << 20


class FormatOnly(msgspec.Struct, frozen=True):
    """The one field that is read before the rest: a newer format may have changed any other."""

    format: int


def read_manifest(data: bytes) -> Manifest:
    """Parses and checks manifest.json; raises BundleError with the field at fault."""
    where, limit_bytes = "manifest.json", MANIFEST_LIMIT_BYTES
    _check_format(decode(data, FormatOnly, limit_bytes=limit_bytes, where=where, error=BundleError).format)
    manifest = decode(data, Manifest, limit_bytes=limit_bytes, where=where, error=BundleError)
    for what in chain(*(check(manifest) for check in FAULTS)):
        raise _refusal(what)
    for name in manifest.every_file:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or str(path) != name:
            raise _refusal(f"file name {name!r} leads outside the bundle", "do not use this bundle")
    return manifest


def _refusal(what: str, remedy: str = "export the bundle again") -> BundleError:
    return BundleError(what, where="manifest.json", remedy=remedy)


def _check_format(number: int) -> None:
    if number > MASKED_FORMAT:
        raise _refusal(
            f"bundle format {number} is newer than {MASKED_FORMAT}, the newest known here", "update homeroom"
        )
    if number < OLDEST_MANIFEST_FORMAT:
        raise _refusal(f"bundle format {number} is older than {OLDEST_MANIFEST_FORMAT}, the oldest read here")


def _faults_of_parts(manifest: Manifest) -> Iterator[str]:
    """What is wrong with names, inputs, tasks, objectives and segments."""
    parts: dict[str, tuple[Any, ...]] = {"modality": manifest.modalities, "slot": manifest.slots}
    parts |= {"task": manifest.tasks, "segment": manifest.segments}
    for kind, named in parts.items():
        if len({part.name for part in named}) != len(named) or not named:
            yield f"needs at least one {kind}, each with a name of its own"
    if sum(slot.count for slot in manifest.slots) > SLOT_LIMIT:
        yield f"more than {SLOT_LIMIT} inputs"
    modalities, slots = ({part.name for part in parts[kind]} for kind in ("modality", "slot"))
    for slot in manifest.slots:
        if slot.modality not in modalities:
            yield f"slot {slot.name} has no backbone for {slot.modality}"
    readers: tuple[Task | Objective, ...] = (*manifest.tasks, *manifest.objectives)
    for reader in readers:
        if unknown := [name for name in reader.reads if name not in slots]:
            yield f"{type(reader).__name__.lower()} {reader.name} reads unknown slots {unknown}"
    for task in manifest.tasks:
        if task.unreadable is not msgspec.UNSET and task.unreadable not in task.labels:
            yield f"task {task.name} gives what cannot be read a label that it does not have"
        if task.group is not msgspec.UNSET and task.group not in slots:
            yield f"task {task.name} is judged by whole groups of an unknown slot {task.group}"
    for segment in manifest.segments:
        if any(length < 1 for parameter in segment.parameters for length in parameter.shape):
            yield f"segment {segment.name} has an empty parameter"
        if narrower(segment.scope, segment.widest) != segment.scope:
            yield f"segment {segment.name} is wider than its widest scope"
    if manifest.layout.size > THETA_LIMIT:
        yield f"theta has more than {THETA_LIMIT:,} values"


def _faults_of_graphs(manifest: Manifest) -> Iterator[str]:
    modalities = {modality.name for modality in manifest.modalities}
    tiers = {FULL_TIER, *(tier.name for tier in manifest.tiers)}
    for graph in manifest.every_graph:
        if graph.role == "features" and graph.modality not in modalities:
            yield f"{graph.file} is for an unknown modality"
        if graph.role != "features" and graph.batch < 1:
            yield f"{graph.file} does not state its batch"
        if graph.tier not in tiers:
            yield f"{graph.file} is for an unknown tier"
    sizes = [*(tier.size for tier in manifest.tiers), manifest.layout.size]
    if sorted(set(sizes)) != sizes or len(tiers) != len(sizes):
        yield "tiers need names of their own and rising sizes below theta's"
    if any(graph.runtime != "onnx" for graph in (*manifest.graphs, *manifest.settled)):
        yield "lists a graph of another runtime among those of onnxruntime"


def _faults_of_files(manifest: Manifest) -> Iterator[str]:
    if manifest.tiers and manifest.tier_index not in manifest.files:
        yield "has tiers, but no file that says which values are theirs"
    for name in (manifest.theta, *(graph.file for graph in manifest.every_graph)):
        if name not in manifest.every_file:
            yield f"{name} is named but not listed among the files"
    if twice := manifest.files.keys() & manifest.fallback_files.keys():
        yield f"{min(twice)} is listed for the bundle and for its second file"
    if set(manifest.fallback_files) != {graph.file for graph in manifest.fallback_graphs}:
        yield "its second file holds something else than backbones"
    listed = (*manifest.graphs, *manifest.converted)
    lower = {(graph.modality, graph.runtime) for graph in listed if graph.role == "features"}
    for graph in manifest.fallback_graphs:
        if graph.role != "features" or (graph.modality, graph.runtime) not in lower:
            yield f"{graph.file} is in the second file, and is no backbone that the bundle has in a lower precision"


def _faults_of_statistics(manifest: Manifest) -> Iterator[str]:
    section = manifest.statistics
    if section is msgspec.UNSET:
        return
    if section.file not in manifest.files:
        yield f"{section.file} is named but not listed among the files"
    modalities = {slot.name: slot.modality for slot in manifest.slots}
    kinds = {task.name: task.kind for task in manifest.tasks}
    for name in section.letter_tasks:
        if kinds.get(name) not in PAIR_KINDS:
            yield f"{name} of statistics is no task that letters serve"
    if section.letters_alone is not msgspec.UNSET and not {*section.letters_alone} <= {*section.letter_tasks}:
        yield "a task of statistics reads letters alone that reads none"
    for name in {} if section.components is msgspec.UNSET else section.components:
        if kinds.get(name) not in PAIR_KINDS:
            yield f"{name} of statistics is no task whose head reads fewer components"
    names = [block.name for block in section.blocks]
    if len(set(names)) != len(names) or len({block.statistics_id for block in section.blocks}) != len(names):
        yield "two blocks of statistics are the same"
    for block in section.blocks:
        wanted, number = BLOCK_MODALITIES.get(block.kind, ("text",)), 1 + (block.kind in OF_TWO_TEXTS)
        if len(block.slots) != number or any(modalities.get(slot) not in wanted for slot in block.slots):
            yield f"block {block.name} of statistics does not read what its kind reads"
        elif any(manifest.slot(slot).count != block.inputs for slot in block.slots):
            yield f"block {block.name} of statistics has another number of inputs than its slot"


def _faults_of_continuation(manifest: Manifest) -> Iterator[str]:
    if manifest.continues is msgspec.UNSET:
        return
    heads = {f"head.{task.name}": task for task in manifest.tasks}
    segments = {segment.name for segment in manifest.segments}
    for growth in manifest.continues.grown:
        if growth.segment not in heads.keys() & segments:
            yield f"says how {growth.segment} goes on, which is no task's head"
    for name, labels in manifest.continues.masked.items():
        head = f"head.{name}"
        known = heads[head].labels if head in heads.keys() & segments else ()
        if not {*labels} <= {*known} or (known and len(label_columns(manifest.layout, head)) != len(known)):
            yield f"masks a label that task {name} does not have"


FAULTS = (
    _faults_of_parts,
    _faults_of_graphs,
    _faults_of_files,
    _faults_of_statistics,
    _faults_of_continuation,
)
