"""Interactions, one a row of a sheet, gathered to one sequence a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from homeroom.contract.manifest import Manifest
from homeroom.data.samples import Sample
from homeroom.data.validation import find_slot
from homeroom.errors import InputError


def gather_interactions(samples: Iterable[Sample], manifest: Manifest) -> Iterator[Sample]:
    """Yields samples without interactions as they are, then one sample a person, interactions in the order of the rows.

    Raises InputError where an interaction names no subject, or rows of one person differ in another input or label.
    """
    by_subject: dict[str, Sample] = {}
    for sample in samples:
        interactions = {name: value for name, value in sample.inputs.items() if _is_interaction(name, value, manifest)}
        if not interactions:
            yield sample
            continue
        where = str(sample.origin)
        if sample.subject is None:
            raise InputError("does not say whose interaction it is", where=where, remedy="add a column subject")
        if sample.subject not in by_subject:
            by_subject[sample.subject] = sample
            sample.origin = f"{where} and on"
            sample.inputs |= {name: [value] for name, value in interactions.items()}
            continue
        first = by_subject[sample.subject]
        for name, value in interactions.items():
            first.inputs.setdefault(name, []).append(value)
        _require_agreement(first.inputs, {n: v for n, v in sample.inputs.items() if n not in interactions}, where)
        _require_agreement(first.labels, sample.labels, where)
    yield from by_subject.values()


def _is_interaction(name: str, value: Any, manifest: Manifest) -> bool:
    return isinstance(value, dict) and find_slot(name, manifest).modality == "sequence"


def _require_agreement(earlier: dict[str, Any], row: dict[str, Any], where: str) -> None:
    for name, value in row.items():
        if earlier.setdefault(name, value) != value:
            raise InputError(f"says {value!r} of {name}, an earlier row {earlier[name]!r}", where=where)
