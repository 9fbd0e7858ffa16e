"""Reads manifest.json and checks it: names, references, sizes and file names."""

from __future__ import annotations

from pathlib import PurePosixPath

import msgspec

from homeroom.contract.canonical_json import decode
from homeroom.contract.layout import FULL_TIER, narrower
from homeroom.contract.manifest import MANIFEST_FORMAT, SLOT_LIMIT, THETA_LIMIT, Manifest
from homeroom.errors import BundleError

OLDEST_MANIFEST_FORMAT = 1
MANIFEST_LIMIT_BYTES = 4 << 20


class FormatOnly(msgspec.Struct, frozen=True):
    """The one field that is read before the rest: a newer format may have changed any other."""

    format: int


def read_manifest(data: bytes) -> Manifest:
    """Parses and checks manifest.json; raises BundleError with the field at fault."""
    where, limit_bytes = "manifest.json", MANIFEST_LIMIT_BYTES
    _check_format(decode(data, FormatOnly, limit_bytes=limit_bytes, where=where, error=BundleError).format)
    manifest = decode(data, Manifest, limit_bytes=limit_bytes, where=where, error=BundleError)
    for check in (
        _check_names,
        _check_slots,
        _check_tasks,
        _check_objectives,
        _check_segments,
        _check_graphs,
        _check_tiers,
        _check_runtimes,
        _check_files_are_listed,
        _check_file_names,
    ):
        check(manifest)
    return manifest


def _refusal(what: str, remedy: str = "export the bundle again") -> BundleError:
    return BundleError(what, where="manifest.json", remedy=remedy)


def _check_format(number: int) -> None:
    if number > MANIFEST_FORMAT:
        raise _refusal(
            f"bundle format {number} is newer than {MANIFEST_FORMAT}, the newest known here", "update homeroom"
        )
    if number < OLDEST_MANIFEST_FORMAT:
        raise _refusal(f"bundle format {number} is older than {OLDEST_MANIFEST_FORMAT}, the oldest read here")


def _check_names(manifest: Manifest) -> None:
    for kind, parts in (
        ("modality", manifest.modalities),
        ("slot", manifest.slots),
        ("task", manifest.tasks),
        ("segment", manifest.segments),
    ):
        names = [part.name for part in parts]
        if len(set(names)) != len(names) or not names:
            raise _refusal(f"needs at least one {kind}, each with a name of its own")


def _check_slots(manifest: Manifest) -> None:
    if sum(slot.count for slot in manifest.slots) > SLOT_LIMIT:
        raise _refusal(f"more than {SLOT_LIMIT} inputs")
    modalities = {modality.name for modality in manifest.modalities}
    for slot in manifest.slots:
        if slot.modality not in modalities:
            raise _refusal(f"slot {slot.name} has no backbone for {slot.modality}")


def _check_tasks(manifest: Manifest) -> None:
    slots = {slot.name for slot in manifest.slots}
    for task in manifest.tasks:
        if unknown := [name for name in task.reads if name not in slots]:
            raise _refusal(f"task {task.name} reads unknown slots {unknown}")


def _check_objectives(manifest: Manifest) -> None:
    slots = {slot.name for slot in manifest.slots}
    for objective in manifest.objectives:
        if unknown := [name for name in objective.reads if name not in slots]:
            raise _refusal(f"objective {objective.name} reads unknown slots {unknown}")


def _check_segments(manifest: Manifest) -> None:
    for segment in manifest.segments:
        if any(length < 1 for parameter in segment.parameters for length in parameter.shape):
            raise _refusal(f"segment {segment.name} has an empty parameter")
        if narrower(segment.scope, segment.widest) != segment.scope:
            raise _refusal(f"segment {segment.name} is wider than its widest scope")
    if manifest.layout.size > THETA_LIMIT:
        raise _refusal(f"theta has more than {THETA_LIMIT:,} values")


def _check_graphs(manifest: Manifest) -> None:
    modalities = {modality.name for modality in manifest.modalities}
    for graph in manifest.every_graph:
        if graph.role == "features" and graph.modality not in modalities:
            raise _refusal(f"{graph.file} is for an unknown modality")
        if graph.role != "features" and graph.batch < 1:
            raise _refusal(f"{graph.file} does not state its batch")


def _check_tiers(manifest: Manifest) -> None:
    names = {FULL_TIER, *(tier.name for tier in manifest.tiers)}
    sizes = [*(tier.size for tier in manifest.tiers), manifest.layout.size]
    if sorted(set(sizes)) != sizes or len(names) != len(sizes):
        raise _refusal("tiers need names of their own and rising sizes below theta's")
    for graph in manifest.every_graph:
        if graph.tier not in names:
            raise _refusal(f"{graph.file} is for an unknown tier")
    if manifest.tiers and manifest.tier_index not in manifest.files:
        raise _refusal("has tiers, but no file that says which values are theirs")


def _check_runtimes(manifest: Manifest) -> None:
    if any(graph.runtime != "onnx" for graph in (*manifest.graphs, *manifest.settled)):
        raise _refusal("lists a graph of another runtime among those of onnxruntime")


def _check_files_are_listed(manifest: Manifest) -> None:
    for name in (manifest.theta, *(graph.file for graph in manifest.every_graph)):
        if name not in manifest.files:
            raise _refusal(f"{name} is named but not listed among the files")


def _check_file_names(manifest: Manifest) -> None:
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or str(path) != name:
            raise _refusal(f"file name {name!r} leads outside the bundle", "do not use this bundle")
