"""Interactions, one a row of a sheet, gathered to one sequence a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from homeroom.contract.manifest import Manifest, SequencePreprocess
from homeroom.data.cells import parse_day
from homeroom.data.consent import check_consent, newer_consent
from homeroom.data.ingest.intake import Intake
from homeroom.data.interactions import check_interaction
from homeroom.data.names import check_person
from homeroom.data.preprocess.sequence import Interaction
from homeroom.data.samples import Sample
from homeroom.data.validation import find_slot
from homeroom.errors import InputError

FACTS = ("author", "source", "language")  # one of a history


def gather_interactions(samples: Iterable[Sample], manifest: Manifest, intake: Intake) -> Iterator[Sample]:
    """Yields samples without interactions as they are, then one sample a person, interactions in the order of the rows.

    An interaction that names no subject, and a row that differs from an earlier one of the person in another input, a
    label, author, source or language, become problems of the intake. Of consent and retention each row counts, as if
    it were added by itself: a row that withdraws consent withdraws the history's, even where its interaction is wrong.
    """
    by_subject: dict[str, Sample] = {}
    for sample in samples:
        interactions = {name: value for name, value in sample.inputs.items() if _is_interaction(name, value, manifest)}
        if not interactions:
            yield sample
            continue
        try:
            history = _history_of(by_subject, sample)
            _state(history, sample)
            _gather(history, sample, {n: _checked(n, v, manifest, sample, intake) for n, v in interactions.items()})
        except InputError as problem:
            intake.refuse(problem, str(sample.origin))
    yield from (history for history in by_subject.values() if history.inputs)


def _checked(name: str, value: Any, manifest: Manifest, sample: Sample, intake: Intake) -> Interaction:
    """One row's interaction; InputError names the row, so that a slip is one problem and not the history's."""
    spec = manifest.modality(find_slot(name, manifest).modality).preprocess
    assert isinstance(spec, SequencePreprocess)
    return check_interaction(dict.fromkeys(spec.skills), value, f"{sample.origin} {name}", intake.note)


def _history_of(by_subject: dict[str, Sample], sample: Sample) -> Sample:
    """The sample of a row's person, which is made with the first."""
    subject = check_person(f"{sample.origin} subject", sample.subject)
    if subject is None:
        what = "does not say whose interaction it is"
        raise InputError(what, where=str(sample.origin), remedy="add a column subject")
    if subject not in by_subject:
        by_subject[subject] = Sample(subject=subject)
        by_subject[subject].origin = f"{sample.origin} and on"
    return by_subject[subject]


def _state(history: Sample, row: Sample) -> None:
    """Takes what a row says of consent and retention."""
    said = check_consent(row.consent, f"{row.origin} consent")
    history.consent = newer_consent(check_consent(history.consent), said)
    days = [str(day) for day in (history.retain_until, row.retain_until) if day]
    history.retain_until = min((parse_day(day, f"{row.origin} retain_until") for day in days), default=None)


def _gather(history: Sample, row: Sample, interactions: dict[str, Any]) -> None:
    where = str(row.origin)
    _require_agreement(history.inputs, {n: v for n, v in row.inputs.items() if n not in interactions}, where)
    _require_agreement(history.labels, row.labels, where)
    facts = {name: getattr(history, name) for name in FACTS if getattr(history, name)}
    _require_agreement(facts, {name: getattr(row, name) for name in FACTS if getattr(row, name)}, where)
    history.author, history.source, history.language = (facts.get(name) for name in FACTS)
    for name, value in interactions.items():
        history.inputs.setdefault(name, []).append(value)


def _is_interaction(name: str, value: Any, manifest: Manifest) -> bool:
    return isinstance(value, dict) and find_slot(name, manifest).modality == "sequence"


def _require_agreement(earlier: dict[str, Any], row: dict[str, Any], where: str) -> None:
    for name, value in row.items():
        if earlier.setdefault(name, value) != value:
            raise InputError(f"says {value!r} of {name}, an earlier row {earlier[name]!r}", where=where)
