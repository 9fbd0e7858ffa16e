"""Adding samples: all or none; a copy is not stored again, a corrected sample replaces its predecessor.

A sample with the same inputs, of the same person and the same author, is a correction if the other came by an earlier
call. Labels that were corrected since do not come back with the file they came with. Two of one call that contradict
each other are no correction: the second is quarantined. Where all that is held of a person is refused or withdrawn, so
are new samples, unless they say given on a later day. Where nobody is named, other labels are none either: pupils
who share the default name may well write the same words. A person's next history is joined with the one that is held.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from homeroom.data.consent import FORBIDDING, Consent, newer_consent
from homeroom.data.histories import join_histories, plain
from homeroom.data.preprocess.sequence import Interaction
from homeroom.data.samples import DEFAULT_SUBJECT, INTERACTION_LIMIT, StoredSample
from homeroom.store import sealed_rows
from homeroom.store.context import StoreContext
from homeroom.store.data_keys import Subject, content_index, near_index
from homeroom.store.erasure import drop_unsent
from homeroom.store.records import AddReport
from homeroom.store.sealed_rows import SampleFacts
from homeroom.store.statistics import drop_local_sums, drop_sums

Fingerprint = Callable[[StoredSample], bytes]
LAST_DAY = "9999-12-31"  # of a word without a day: no later one is known to come after it
STATED_FIELDS = (*sealed_rows.ID_FIELDS, "author", "group", "local_labels")  # what a person says of a sample


def add_samples(
    context: StoreContext,
    samples: Iterable[StoredSample],
    fingerprint: Fingerprint | None,
    report: AddReport | None = None,
    refuse_new: Callable[[StoredSample], object] | None = None,
) -> list[str]:
    """Stores samples and returns their ids; those with `aside` set are quarantined, wholly or in part.

    samples: one at a time in memory; where asking for the next raises, none is stored.
    fingerprint: equal for near copies; asked of samples that may be compared.
    report: what was corrected is counted in it.
    refuse_new: is told of a sample whose consent was refused or withdrawn and which is not held; it is left out.

    A near copy of the same person's is quarantined too if its labels are the same or contradict.
    """
    ids: list[str] = []
    with context.step("add", ids):
        (before,) = context.database.one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'samples'")
        adding = _Adding(context, fingerprint, before, AddReport() if report is None else report, refuse_new)
        added = [sample_id for sample_id in map(adding.add, samples) if sample_id]
        ids.extend(adding.now(sample_id) for sample_id in added)
        adding.report.apart = {name: adding.now(sample_id) for name, sample_id in adding.report.apart.items()}
    context.back_up()
    return ids


@dataclass(frozen=True)
class _Held:
    """A sample that is held: the number of its row, its id, facts, where its inputs lie, and its column `aside`."""

    number: int
    sample_id: str
    content: int
    facts: SampleFacts
    aside: int


@dataclass(frozen=True)
class _Adding:
    """One call. before: the number of the newest row until then."""

    context: StoreContext
    fingerprint: Fingerprint | None
    before: int
    report: AddReport
    refuse_new: Callable[[StoredSample], object] | None
    renamed: dict[str, str] = field(default_factory=dict)  # ids by those that they replaced
    denied: dict[int, Consent | None] = field(default_factory=dict)  # by subject, what `_denial` found

    def now(self, sample_id: str) -> str:
        """The id of a sample after what came later in this call."""
        while (newer := self.renamed.get(sample_id, sample_id)) != sample_id:
            sample_id = newer
        return sample_id

    def add(self, sample: StoredSample) -> str:
        """Stores one sample, or what it changes in one that is held; returns its id, "" where it was refused."""
        keys = self.context.keys
        subject = keys.find_or_make(sample.subject)
        author = keys.find_or_make(sample.author).subject_id if sample.author else None
        near = self.fingerprint(sample) if self.fingerprint and _comparable(sample) else b""
        facts, bodies = sealed_rows.pack_sample(sample, author, near)
        held = list(self._same_content(subject, facts))
        for one in held:
            if _stated(one.facts) == _stated(facts):
                return one.sample_id
        if (slot := _history_slot(sample)) and (found := self._continue(subject, slot, sample, facts)):
            return found
        for one in held:
            is_earlier = one.number <= self.before or _differ_in_consent_alone(one.facts, facts)
            if is_earlier and _is_correction(one.facts, facts, _comparable(sample)):
                return self._correct(subject, one, facts)
        if denial := self._denial(subject):
            consent = newer_consent(denial, sample.consent)
            sample = msgspec.structs.replace(sample, consent=consent)
            facts = msgspec.structs.replace(facts, consent=consent)
        if self.refuse_new and sample.consent_state in FORBIDDING:
            self.refuse_new(sample)
            return ""
        if any(one.number <= self.before and one.facts.every_label != facts.every_label for one in held):
            self.report.other_labels += not _comparable(sample)
        content = secrets.randbits(63)
        facts = self._checked_for_copies(subject, sample, facts)
        sample_id = sealed_rows.insert_sample(self.context.database, subject, content, facts, _aside(facts))
        sealed_rows.insert_inputs(self.context.database, subject, content, bodies)
        return sample_id

    def _denial(self, subject: Subject) -> Consent | None:
        """The newest word by which all that was held of a person before is refused or withdrawn; else None."""
        if subject.name == DEFAULT_SUBJECT:
            return None
        if subject.subject_id not in self.denied:
            held = self._held(subject, "subject_id = ? AND number <= ?", (subject.subject_id, self.before))
            words = [one.facts.consent for one in held]
            denials = [word for word in words if isinstance(word, Consent) and word.state in FORBIDDING]
            every = len(denials) == len(words) > 0
            self.denied[subject.subject_id] = max(denials, key=lambda word: word.on or LAST_DAY) if every else None
        return self.denied[subject.subject_id]

    def _continue(self, subject: Subject, slot: str, sample: StoredSample, new: SampleFacts) -> str:
        """Joins a history with one that is held; the id of what is held then, or "" where it goes on from none.

        An export that holds nothing new to one of them changes what is said of that sample alone; of several that
        others go on from, the newest does: a corrected export lies after the one that it corrects.
        """
        found, apart = list[tuple[_Held, list[Interaction], list[Interaction]]](), ""
        for held in self._held(subject, "subject_id = ?", (subject.subject_id,)):
            if not _same_but(slot, held.facts, new) or not _is_correction(held.facts, new, comparable=True):
                continue
            reference, (history,) = held.facts.inputs[slot][0], sample.inputs[slot]
            known = sealed_rows.sample_of(held.facts, subject.name, sample_id=held.sample_id)
            before = self.context.read_input(known, reference) if reference else None
            if not isinstance(before, list) or not isinstance(history, list):
                continue
            joined = join_histories(before, history)
            if joined is None:
                apart = held.sample_id
            elif joined[-INTERACTION_LIMIT:] == plain(before):
                return self._correct(subject, held, new)
            else:
                found.append((held, before, joined))
        if not found:
            self.report.apart |= {subject.name: apart} if apart else {}
            return ""
        held, before, joined = found[-1]
        self.report.continued += 1
        self.report.interactions += len(joined) - len(before)
        self.report.cut += max(len(joined) - INTERACTION_LIMIT, 0)
        return self._put_history(subject, held, new, slot, joined[-INTERACTION_LIMIT:])

    def _put_history(
        self, subject: Subject, held: _Held, new: SampleFacts, slot: str, history: list[Interaction]
    ) -> str:
        inputs = self.context.with_inputs(sealed_rows.sample_of(held.facts, subject.name, sample_id=held.sample_id))
        assert inputs is not None  # the history was just read
        sample = msgspec.structs.replace(inputs, inputs={**inputs.inputs, slot: [history]})
        packed, bodies = sealed_rows.pack_sample(sample)
        stated = {**corrected(held.facts, new), "replaced": held.facts.replaced, "near": new.near}
        facts, content = msgspec.structs.replace(packed, **stated), secrets.randbits(63)
        sealed_rows.delete_samples(self.context.database, "sample_id", held.sample_id)
        drop_sums(self.context.database, subject.subject_id)
        sample_id = sealed_rows.insert_sample(self.context.database, subject, content, facts, held.aside)
        sealed_rows.insert_inputs(self.context.database, subject, content, bodies)
        self.renamed[held.sample_id] = sample_id
        return sample_id

    def _same_content(self, subject: Subject, facts: SampleFacts) -> Iterator[_Held]:
        found_by = (content_index(subject.cipher, facts.content_digest), subject.subject_id)
        for held in self._held(subject, "content_index = ? AND subject_id = ?", found_by):
            if held.facts.content_digest == facts.content_digest:
                yield held

    def _held(self, subject: Subject, where: str, parameters: tuple[Any, ...]) -> Iterator[_Held]:
        """Samples of a subject that are held, the oldest first."""
        sql = f"SELECT number, sample_id, content, facts, aside FROM samples WHERE {where} ORDER BY number"
        for number, sample_id, content, sealed, aside in self.context.database.rows(sql, parameters):
            facts = sealed_rows.open_facts(subject, sample_id, content, sealed)
            yield _Held(number, sample_id, content, facts, aside)

    def _correct(self, subject: Subject, held: _Held, new: SampleFacts) -> str:
        """Puts what is said anew in place of what is held; the inputs stay where they are."""
        stale = sealed_rows.labels_digest(new.every_label) in held.facts.replaced
        self.report.stale_labels += stale
        unlabelled = msgspec.structs.replace(new, labels={}, local_labels={})
        stated = corrected(held.facts, unlabelled if stale else new)
        if stated == _stated(held.facts):
            return held.sample_id
        facts = sealed_rows.relabelled(held.facts, stated.pop("labels"), stated.pop("local_labels"))
        aside = held.aside
        facts = msgspec.structs.replace(facts, **stated)
        self.report.corrected.update(_changes(held.facts, facts))
        self.report.corrected_samples += 1
        self.context.database.write("DELETE FROM samples WHERE sample_id = ?", (held.sample_id,))
        said = facts.consent
        if isinstance(said, Consent) and said.state in FORBIDDING and said != held.facts.consent:
            drop_unsent(self.context, subject.subject_id)
        if facts.every_label != held.facts.every_label:
            judged = msgspec.structs.replace(
                facts, aside=new.aside, left_out=new.left_out, weighed=new.weighed, near=new.near or facts.near
            )
            released = not held.aside and bool(held.facts.aside) and held.facts.aside == judged.aside
            sample = sealed_rows.sample_of(judged, subject.name)
            facts = self._checked_for_copies(subject, sample, judged)
            aside = 0 if released and facts.aside == judged.aside else _aside(facts)
        drop = drop_local_sums if _teaches_alike(held, facts, aside) else drop_sums
        drop(self.context.database, subject.subject_id)
        sample_id = sealed_rows.insert_sample(self.context.database, subject, held.content, facts, aside)
        self.renamed[held.sample_id] = sample_id
        self.renamed.pop(sample_id, None)  # it may bear an earlier id again
        return sample_id

    def _checked_for_copies(self, subject: Subject, sample: StoredSample, facts: SampleFacts) -> SampleFacts:
        index = near_index(subject.cipher, facts.near)
        why = _why_copy(self.context, subject, index, sample) if index and sample.trainable else ""
        return sealed_rows.with_reason(facts, why) if why else facts


def _history_slot(sample: StoredSample) -> str:
    """The slot of a named person's one history; "" where there is none."""
    slots = [slot for slot, values in sample.inputs.items() if any(isinstance(value, list) for value in values)]
    is_one = len(slots) == 1 and len(sample.inputs[slots[0]]) == 1
    return slots[0] if is_one and sample.subject != DEFAULT_SUBJECT else ""


def _same_but(slot: str, held: SampleFacts, new: SampleFacts) -> bool:
    """Whether two samples have a history in this slot, and are alike in all other inputs."""

    def others(facts: SampleFacts) -> dict[str, list[bytes | None]]:
        rows = ((name, row) for name, row in facts.inputs.items() if name != slot)
        return {name: [one.digest if one else None for one in row] for name, row in rows}

    return slot in held.inputs and len(held.inputs[slot]) == 1 and others(held) == others(new)


def corrected(held: SampleFacts, new: SampleFacts) -> dict[str, Any]:
    """What holds of a sample after it was added again: the newer word on each point, but no later end of retention.

    Consent that was refused or withdrawn stays so, unless the newer word is dated after it. An older word on consent
    than the one that is held changes nothing, and who, when and why stay where the newer one does not say it.
    """
    ends = [day for day in (held.retain_until, new.retain_until) if day]
    return {
        "labels": _without(held.labels, new.local_labels) | new.labels,
        "local_labels": _without(held.local_labels, new.labels) | new.local_labels,
        "consent": newer_consent(held.consent, new.consent),
        "source": new.source or held.source,
        "retain_until": min(ends, default=None),
        "language": new.language or held.language,
        "author": new.author or held.author,
        "group": new.group or held.group,
    }


def _without(labels: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The labels of tasks that have no other one."""
    return {task: label for task, label in labels.items() if task not in other}


def _stated(facts: SampleFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in STATED_FIELDS}


def _teaches_alike(held: _Held, facts: SampleFacts, aside: int) -> bool:
    """Whether a correction changed at most labels that this device alone has, and the sample teaches all else still."""
    before, after = (_stated(one) | {"local_labels": None} for one in (held.facts, facts))
    judged = ((one.aside, one.left_out, one.weighed) for one in (held.facts, facts))
    return before == after and held.aside == aside and next(judged) == next(judged)


def _differ_in_consent_alone(held: SampleFacts, new: SampleFacts) -> bool:
    """Of one call too, such as a sheet that is only added to, the later word on consent counts."""
    return _stated(held) | {"consent": None} == _stated(new) | {"consent": None}


def _is_correction(held: SampleFacts, new: SampleFacts, comparable: bool) -> bool:
    if held.author and new.author and held.author != new.author:
        return False
    if comparable:
        return True
    return all(getattr(held, name) == getattr(new, name) for name in ("every_label", "source", "language"))


def _changes(held: SampleFacts, facts: SampleFacts) -> Iterator[str]:
    """Sentences about what is another than before."""
    before = held.every_label
    for task, label in facts.every_label.items():
        if task not in before:
            yield f"{task}: now {label!r}"
        elif before[task] != label:
            yield f"{task}: {before[task]!r}, now {label!r}"
    if held.consent != facts.consent:
        states = [one.state if isinstance(one, Consent) else "unstated" for one in (held.consent, facts.consent)]
        yield f"consent: {states[0]}, now {states[1]}" if states[0] != states[1] else "consent: who, when or why"
    if held.author != facts.author:
        yield "author: now known"
    if facts.group and held.group != facts.group:
        yield f"group: now its {facts.group.name}"
    for name in ("source", "retain_until", "language"):
        if (new := getattr(facts, name)) != getattr(held, name):
            yield f"{name}: now {new}"


def _aside(facts: SampleFacts) -> int:
    """The column `aside`."""
    return 0 if not facts.aside else 2 if facts.left_out or facts.weighed else 1


def _why_copy(context: StoreContext, subject: Subject, index: bytes, sample: StoredSample) -> str:
    """Why a near copy is to be quarantined: its labels repeat the other's or contradict them; empty if neither."""
    where, subjects = "WHERE near = ? AND aside != 1", {subject.subject_id: subject}
    for other in context.open_samples(subjects, where, (index,)):
        own, others = sample.every_label, other.every_label
        shared_tasks = own.keys() & others.keys()
        if any(own[task] != others[task] for task in shared_tasks):
            return f"contradicts sample {other.sample_id[:8]}, which is the same with other labels"
        if shared_tasks == own.keys():
            return f"a near copy of sample {other.sample_id[:8]}"
    return ""


def _comparable(sample: StoredSample) -> bool:
    """Whether a copy of it is a mistake: pupils who share the default name may well write the same words."""
    media = any(isinstance(value, bytes) for values in sample.inputs.values() for value in values)
    return media or sample.subject != DEFAULT_SUBJECT
