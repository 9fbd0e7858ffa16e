"""Interactions, one a row of a sheet, gathered to one sequence a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from homeroom.contract.manifest import Manifest, SequencePreprocess
from homeroom.data.ingest.intake import Intake
from homeroom.data.interactions import check_interaction
from homeroom.data.preprocess.sequence import Interaction
from homeroom.data.samples import Sample
from homeroom.data.validation import find_slot
from homeroom.errors import InputError


def gather_interactions(samples: Iterable[Sample], manifest: Manifest, intake: Intake) -> Iterator[Sample]:
    """Yields samples without interactions as they are, then one sample a person, interactions in the order of the rows.

    An interaction that names no subject, and a row that differs from the person's first in another input or label,
    become problems of the intake.
    """
    by_subject: dict[str, Sample] = {}
    for sample in samples:
        interactions = {name: value for name, value in sample.inputs.items() if _is_interaction(name, value, manifest)}
        if not interactions:
            yield sample
            continue
        try:
            _gather(by_subject, sample, {n: _checked(n, v, manifest, sample) for n, v in interactions.items()})
        except InputError as problem:
            intake.refuse(problem, str(sample.origin))
    yield from by_subject.values()


def _checked(name: str, value: Any, manifest: Manifest, sample: Sample) -> Interaction:
    """One row's interaction; InputError names the row, so that a slip is one problem and not the history's."""
    spec = manifest.modality(find_slot(name, manifest).modality).preprocess
    assert isinstance(spec, SequencePreprocess)
    return check_interaction(dict.fromkeys(spec.skills), value, f"{sample.origin} {name}")


def _gather(by_subject: dict[str, Sample], sample: Sample, interactions: dict[str, Any]) -> None:
    where = str(sample.origin)
    if sample.subject is None:
        raise InputError("does not say whose interaction it is", where=where, remedy="add a column subject")
    first = by_subject.get(sample.subject)
    if first is None:
        by_subject[sample.subject] = sample
        sample.origin = f"{where} and on"
        sample.inputs |= {name: [value] for name, value in interactions.items()}
        return
    _require_agreement(first.inputs, {n: v for n, v in sample.inputs.items() if n not in interactions}, where)
    _require_agreement(first.labels, sample.labels, where)
    for name, value in interactions.items():
        first.inputs.setdefault(name, []).append(value)


def _is_interaction(name: str, value: Any, manifest: Manifest) -> bool:
    return isinstance(value, dict) and find_slot(name, manifest).modality == "sequence"


def _require_agreement(earlier: dict[str, Any], row: dict[str, Any], where: str) -> None:
    for name, value in row.items():
        if earlier.setdefault(name, value) != value:
            raise InputError(f"says {value!r} of {name}, an earlier row {earlier[name]!r}", where=where)
