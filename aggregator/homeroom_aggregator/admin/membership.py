"""Membership test of two versions: whether the loss tells withdrawn samples from ones that taught nobody."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from homeroom.contract import envelope
from homeroom.contract.layout import Layout
from homeroom.contract.signing import fingerprint
from homeroom.contract.version import VERSION_LIMIT_BYTES, VERSION_MAGIC, VersionHeader, read_version
from homeroom.data.ingest import read_samples
from homeroom.data.samples import StoredSample, digest_of
from homeroom.errors import InputError, StoreError
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, install
from homeroom.runtime.graphs import Graphs
from homeroom.system.printable import counted
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.features.quality_gate import check_quality, training_view
from homeroom.train.membership import LEAST_OF_A_SIDE, Area, SampleLosses, area_of, by_subject, sample_losses
from homeroom_aggregator.admin.folder import BACKUP_FILE, LOG_FILE, open_log, read_facts

Verdict = Literal["too_few", "not_shown_before", "shown_still", "not_shown_after"]


@dataclass(frozen=True)
class SampleSet:
    """Samples of one side, and how many rows of the file are not among them since they would teach nothing."""

    data: Dataset
    left_out: int


@dataclass(frozen=True)
class Areas:
    """On the two versions; `change`: of the attack by how far the loss rose from one to the other."""

    before: Area
    after: Area
    change: Area


@dataclass(frozen=True)
class TaskResult:
    """The attack on one task; without areas where there are too few samples.

    withdrawn, others: labelled samples; withdrawn_subjects, others_subjects: whose they are.
    by_subject: whether the intervals take the samples of one subject as dependent.
    """

    task: str
    withdrawn: int
    others: int
    withdrawn_subjects: int
    others_subjects: int
    verdict: Verdict
    by_subject: bool = False
    areas: Areas | None = None


@dataclass(frozen=True)
class MembershipResult:
    """Results by task. before, after: numbers of the versions. root: fingerprint of the key that both trust.

    left_out: rows of the two files, the withdrawn's first, that a device would not train on.
    """

    before: int
    after: int
    root: str
    left_out: tuple[int, int]
    tasks: tuple[TaskResult, ...]


def compare(
    source: Path, before: str, after: str, withdrawn: Path, others: Path, scratch: Path, root: str | None = None
) -> MembershipResult:
    """Attack two versions of a bundle's theta.

    source: the bundle; `scratch` is where it is installed. before, after: a version's signed file, or FOLDER:NUMBER of
    an aggregator's folder or backup. withdrawn, others: files or folders of samples. root: fingerprint that must have
    signed; None for whichever did.
    Raises InputError where versions or samples cannot be compared, TrustError where a signature does not hold.
    """
    bundle, precision = golden.with_precision(install(source, scratch, root=root), source)
    versions = [_version(bundle, one, root) for one in (before, after)]
    (first, _, signer), (second, _, other_signer) = versions
    if signer != other_signer:
        raise InputError("the two versions are of two institutions", where=after)
    if first == second:
        raise InputError(f"version {first} is named twice", where=after, remedy="name the version from after it")
    graphs = Graphs(bundle, precision)
    stored = [_samples(bundle, path) for path in (withdrawn, others)]
    _refuse_shared([kept for kept, _ in stored], others)
    sets = [SampleSet(Dataset(bundle.manifest, examples(None, bundle, graphs, kept)), out) for kept, out in stored]
    by_version = [[sample_losses(graphs, one.data, theta) for one in sets] for _, theta, _ in versions]
    tasks = [_judge(name, *(losses[name] for pair in by_version for losses in pair)) for name in by_version[0][0]]
    labelled = tuple(one for one in tasks if one.withdrawn)
    if not labelled:
        raise InputError("no sample has a label, so none has a loss", where=str(withdrawn))
    return MembershipResult(first, second, signer, (sets[0].left_out, sets[1].left_out), labelled)


def _judge(
    task: str, members: SampleLosses, others: SampleLosses, members_after: SampleLosses, others_after: SampleLosses
) -> TaskResult:
    told: dict[str, Any] = {
        "task": task,
        "withdrawn": len(members.losses),
        "others": len(others.losses),
        "withdrawn_subjects": len(set(members.subjects)),
        "others_subjects": len(set(others.subjects)),
    }
    if min(told["withdrawn"], told["others"]) < LEAST_OF_A_SIDE:
        return TaskResult(**told, verdict="too_few")
    before, after = area_of(members, others), area_of(members_after, others_after)
    fallen = [
        SampleLosses(first.losses - second.losses, first.subjects)  # a low one: the loss rose
        for first, second in ((members, members_after), (others, others_after))
    ]
    verdict: Verdict = "not_shown_after" if before.low > 0.5 else "not_shown_before"
    told |= {"areas": Areas(before, after, area_of(*fallen)), "by_subject": by_subject(members, others)}
    return TaskResult(**told, verdict="shown_still" if after.low > 0.5 else verdict)


def _samples(bundle: Bundle, path: Path) -> tuple[list[StoredSample], int]:
    """Samples as a device would train on them, whatever their consent says now; how many it would not."""
    manifest = bundle.manifest
    checked = [check_quality(sample, manifest) for sample in read_samples(path, manifest)]
    kept = [one for one in checked if not one.aside or one.left_out or one.weighed]
    return [training_view(sample, manifest) for sample in kept], len(checked) - len(kept)


def _refuse_shared(sides: list[list[StoredSample]], where: Path) -> None:
    keys = [{_content(sample) for sample in side} for side in sides]
    if shared := len(keys[0] & keys[1]):
        what = f"{counted(shared, 'sample')} among the withdrawn ones too, which tells nothing"
        raise InputError(what, where=str(where), remedy="name samples that taught nobody")


def _content(sample: StoredSample) -> tuple[object, ...]:
    slots = sorted(sample.inputs.items())
    return tuple((slot, tuple(value and digest_of(value) for value in values)) for slot, values in slots)


def _version(bundle: Bundle, name: str, root: str | None) -> tuple[int, np.ndarray, str]:
    """Number, theta float32 [P] and root of a version, its signature checked."""
    data = _read(name)
    header, _, _ = envelope.unpack(
        data, VERSION_MAGIC, "version", VersionHeader, limit_bytes=VERSION_LIMIT_BYTES, where=name, error=InputError
    )
    signer = root or fingerprint(header.certificate.root)
    layout: Layout = bundle.manifest.layout
    header, theta = read_version(data, layout, bundle_id=bundle.bundle_id, root_fingerprint=signer)
    return header.version, theta, signer


def _read(name: str) -> bytes:
    """The signed bytes of a version: of a file, or of FOLDER:NUMBER."""
    folder, colon, number = name.rpartition(":")
    if Path(name).is_file() or not (colon and number.isascii() and number.isdigit()):
        try:
            with Path(name).open("rb") as file:
                return file.read(VERSION_LIMIT_BYTES + 1)
        except OSError as problem:
            remedy = "name a version's signed file, or FOLDER:NUMBER of an aggregator's folder or backup"
            raise InputError(f"cannot be read: {problem.strerror}", where=name, remedy=remedy) from None
    if read_facts(Path(folder)).configuration.by_school:
        says = "schools' own segments are not in the folder's version"
        raise InputError(says, where=name, remedy="name the file of the version that a device of the school gets")
    body = _kept(Path(folder), int(number)) if len(number) < 19 else None
    if body is None:
        raise InputError("holds no such version", where=name, remedy="a void one is only in backups of before")
    return body


def _kept(folder: Path, number: int) -> bytes | None:
    """A version in a folder's log, served or not, or in a backup, no byte of which changes; None if it is not there."""
    if not (folder / BACKUP_FILE).exists():
        with contextlib.closing(open_log(folder)) as log:
            return log.version(number)
    address = f"{(folder / LOG_FILE).resolve().as_uri()}?immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as log:
            row = log.execute("SELECT body FROM versions WHERE version = ?", (number,)).fetchone()
    except sqlite3.DatabaseError as problem:
        raise StoreError(f"cannot be read: {problem}", where=str(folder / LOG_FILE)) from None
    return bytes(row[0]) if row else None


def result_document(result: MembershipResult) -> dict[str, Any]:
    """A result as JSON has it."""
    return dict(msgspec.to_builtins(result))


SENTENCES: dict[Verdict, str] = {
    "too_few": f"Too few samples to tell: the attack needs {LEAST_OF_A_SIDE} on either side.",
    "not_shown_before": "The attack tells nothing on the version before either: it says nothing of what was unlearned.",
    "shown_still": "The version after answers the withdrawn samples better than the others: they show still, or are "
    "easier than the others.",
    "not_shown_after": "The version before told the withdrawn samples from the others; the version after does not.",
}


def lines(result: MembershipResult) -> list[str]:
    """A result in sentences."""
    said = [f"signed under root {result.root}"]
    for side, count in zip(("withdrawn", "other"), result.left_out, strict=True):
        said += [f"left out, since a device would not train on it: {counted(count, f'{side} sample')}"] if count else []
    for one in result.tasks:
        said.append(
            f"task {one.task}: {counted(one.withdrawn, 'withdrawn sample')} of "
            f"{counted(one.withdrawn_subjects, 'subject')}, {counted(one.others, 'other')} of {one.others_subjects}"
        )
        if one.areas:
            names = f"version {result.before}, before", f"version {result.after}, after", "loss that rose between"
            areas = one.areas.before, one.areas.after, one.areas.change
            unit = "subject" if one.by_subject else "sample, so too narrow where one subject has several"
            said.append("  area under the curve, 0.5 is chance; 95 % interval by " + unit)
            said += [f"    {name:24} {_shown(area)}" for name, area in zip(names, areas, strict=True)]
        said.append(f"  {SENTENCES[one.verdict]}")
    return said


def _shown(area: Area) -> str:
    return f"{area.area:.3f} ({area.low:.3f} to {area.high:.3f})"
