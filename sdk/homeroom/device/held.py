"""Samples that are given beside those that the device holds: by the same groups, and whether it learns from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from homeroom.contract.manifest import Manifest
from homeroom.data.samples import HeldOutGroup, StoredSample, digest_of
from homeroom.data.tasks.metrics import Score
from homeroom.errors import InputError
from homeroom.store import Store
from homeroom.train.features.examples import group_of

Content = frozenset[tuple[str, int, bytes]]  # slot, place and digest of each input


def grouped_alike(store: Store, samples: Iterable[StoredSample]) -> Iterator[StoredSample]:
    """Yields the samples; InputError at their end, once all are held, where others are grouped by something else."""
    given = set[str]()
    for sample in samples:
        given |= {sample.group.name} if sample.group else set()
        yield sample
    held = {one.group.name for one in store.select(lambda one: one.group is not None) if one.group} if given else set()
    if len(held) > 1:
        others = ", ".join(map(repr, sorted(held - given))) or "several columns"
        raise InputError(
            f"samples are held that are grouped by {others}, these by {', '.join(map(repr, sorted(given)))}",
            where="--group",
            remedy="name the same for all; or add all of them again, by the new one",
        )


@dataclass(frozen=True)
class Learned:
    """Of samples to score a model by: which the device holds to learn from, and what is to be said of them.

    labels: the tasks that label each of those. sentences: on them, and on samples that share their group with such.
    """

    labels: Sequence[Collection[str]]
    sentences: Sequence[str]

    def counted(self, scores: Mapping[str, Score]) -> dict[str, Score]:
        """The scores, each with how many of its samples are held; of a task without labels, all of those."""
        labelled = {name for names in self.labels for name in names}
        return {
            name: msgspec.structs.replace(
                one, learned=sum(name in names or name not in labelled for names in self.labels) if one.n else 0
            )
            for name, one in scores.items()
        }


def learned_of(store: Store, manifest: Manifest, samples: Sequence[StoredSample]) -> Learned:
    """Which samples are held to learn from, by their inputs, whoever they are about."""
    asked, groups, names = [_content(sample) for sample in samples], set[str](), set[str]()
    unseen = set(asked)
    for one in store.select(lambda sample: sample.trainable):
        unseen.discard(_content(one))
        groups.add(group_of(manifest, one))
        names |= {one.group.name} if one.group and not one.group.value else set()
    held = [content not in unseen for content in asked]
    shared = [group_of(manifest, _with_slot(sample, names)) for sample in samples]
    taught = [key for key in shared if key and key in groups]
    said, of_all = [], f"of {len(samples):,} samples"
    if any(held):
        said.append(f"{sum(held):,} {of_all} are held here to learn from: of new ones fewer answers may be right")
    if taught:
        name = " or ".join(sorted({key.rpartition(":")[0] for key in taught}))
        what = f"share their {name} with some that are held here to learn from"
        said.append(f"{len(taught):,} {of_all} {what}: with another {name} fewer answers may be right")
    return Learned([sample.labels.keys() for sample, is_held in zip(samples, held, strict=True) if is_held], said)


def _content(sample: StoredSample) -> Content:
    return frozenset(
        (slot, place, digest_of(value))
        for slot, values in sample.inputs.items()
        for place, value in enumerate(values)
        if value is not None
    )


def _with_slot(sample: StoredSample, names: Iterable[str]) -> StoredSample:
    """The sample grouped by the slot that held ones are grouped by, where it names no group itself."""
    slot = next((name for name in names if name in sample.inputs), None)
    return sample if sample.group or slot is None else msgspec.structs.replace(sample, group=HeldOutGroup(slot))
