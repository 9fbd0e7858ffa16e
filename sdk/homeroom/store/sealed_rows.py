"""Samples as sealed rows: their facts, a row for each input, and the check of every sealed column of device.db."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from homeroom.data.consent import Consent, consent_in_words
from homeroom.data.samples import (
    HeldOutGroup,
    InputReference,
    StoredInput,
    StoredSample,
    digest_of,
    input_kind,
    input_length,
)
from homeroom.store.data_keys import SEALED_TWICE, DataKeys, Subject, content_index, near_index
from homeroom.store.encryption import INDEX_BYTES
from homeroom.system.sqlite import Database

ID_FIELDS = ("labels", "consent", "source", "retain_until", "language")  # they and the inputs make a sample's id
LATER_ID_FIELDS = ("author", "group", "local_labels")  # so do these where there are any; without, ids stay
SAMPLE_COLUMNS = "sample_id, subject_id, content, facts, aside"
SAMPLE_TAG = sha256(b"sample").digest()
GIVEN_FIELDS = (*ID_FIELDS, "group", "local_labels", "aside", "left_out", "weighed")  # which facts have as they stand
INPUT_NAME = "content || '/' || place"
HAS_ID = "SELECT 1 FROM samples WHERE sample_id = ?"
INSERT_SAMPLE = """INSERT INTO samples (sample_id, subject_id, content, facts, aside, near, content_index)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
HAS_TABLE = "SELECT 1 FROM sqlite_schema WHERE name = ?"
SELECT_BODY = "SELECT body FROM inputs WHERE content = ? AND place = ?"


class SampleFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sealed facts about a sample.

    content_digest: SHA-256 of all inputs as one MessagePack document
    inputs: by slot, a reference or None for each input
    consent: of a store before version 5 a text
    author: the number of the subject who wrote it or took it, where that is another than whom it is about
    near: a fingerprint that near copies share
    group, local_labels: as of `StoredSample`
    replaced: digests of the labels that were corrected
    """

    content_digest: bytes
    inputs: dict[str, list[InputReference | None]]
    labels: dict[str, Any] = {}
    consent: Consent | str | None = None
    source: str | None = None
    retain_until: str | None = None
    language: str | None = None
    aside: str = ""
    left_out: dict[str, list[int]] = {}
    weighed: dict[str, list[int]] = {}
    author: int | None = None
    near: bytes = b""
    replaced: tuple[bytes, ...] = ()
    group: HeldOutGroup | None = None
    local_labels: dict[str, Any] = {}

    @property
    def every_label(self) -> dict[str, Any]:
        """By task, the labels of the bundle and those of this device alone."""
        return {**self.labels, **self.local_labels}

    @property
    def places(self) -> set[int]:
        """Of its inputs."""
        return {reference.place for row in self.inputs.values() for reference in row if reference is not None}


DECODER = msgspec.msgpack.Decoder(SampleFacts)


def pack_sample(sample: StoredSample, author: int | None = None, near: bytes = b"") -> tuple[SampleFacts, list[bytes]]:
    """The facts of a sample as a user gave it, and a body for each of its inputs.

    author, near: as in the facts.
    """
    references: dict[str, list[InputReference | None]] = {}
    bodies: list[bytes] = []
    for slot, values in sorted(sample.inputs.items()):
        references[slot] = []
        for value in values:
            reference = None
            if value is not None:
                bodies.append(_pack_input(value))
                size, place = len(bodies[-1]), len(bodies) - 1
                reference = InputReference(place, input_kind(value), digest_of(value), size, input_length(value))
            references[slot].append(reference)
    digest = sha256(msgspec.msgpack.encode(sample.inputs, order="sorted")).digest()
    fields = {name: getattr(sample, name) for name in GIVEN_FIELDS}
    return SampleFacts(digest, references, **fields, author=author, near=near), bodies


def sample_id_of(facts: SampleFacts, subject: Subject) -> str:
    """A keyed digest of content, labels and facts, hexadecimal; the same whether it is quarantined or not."""
    later = [name for name in LATER_ID_FIELDS if getattr(facts, name)]
    fields = {name: getattr(facts, name) for name in (*ID_FIELDS, *later)}
    packed = msgspec.msgpack.encode(fields, order="sorted")
    return subject.cipher.index_of_digests(SAMPLE_TAG, sha256(packed).digest(), facts.content_digest).hex()


def labels_digest(labels: Mapping[str, Any]) -> bytes:
    """By which labels are known again after they were corrected, 8 bytes."""
    return sha256(msgspec.msgpack.encode(labels, order="sorted")).digest()[:8]


def relabelled(facts: SampleFacts, labels: Mapping[str, Any], local_labels: Mapping[str, Any]) -> SampleFacts:
    """The facts with other labels, of the bundle and of this device, which remember those of before."""
    if (facts.labels, facts.local_labels) == (labels, local_labels):
        return facts
    replaced = (*facts.replaced, labels_digest(facts.every_label))
    return msgspec.structs.replace(facts, labels=dict(labels), local_labels=dict(local_labels), replaced=replaced)


def seal_facts(subject: Subject, sample_id: str, content: int, facts: SampleFacts) -> bytes:
    """The facts, sealed for their column."""
    packed = msgspec.msgpack.encode(facts, order="sorted")
    return subject.cipher.seal(packed, "samples.facts", sample_id, content)


def open_facts(subject: Subject, sample_id: str, content: int, facts: bytes) -> SampleFacts:
    """The facts that were sealed; a consent in words alone is unstated, and the words are kept.

    But the very words `refused` and `withdrawn` mean it: only what was given is for a person to say.
    """
    opened = DECODER.decode(subject.cipher.open(facts, "samples.facts", sample_id, content))
    if isinstance(opened.consent, str):
        return msgspec.structs.replace(opened, consent=consent_in_words(opened.consent) if opened.consent else None)
    return opened


def insert_sample(database: Database, subject: Subject, content: int, facts: SampleFacts, aside: int) -> str:
    """Stores the row of a sample whose inputs lie under `content`; returns its id."""
    sample_id = sample_id_of(facts, subject)
    if database.one(HAS_ID, (sample_id,)):  # of one whose facts have changed since
        sample_id = secrets.token_hex(INDEX_BYTES)
    sealed, cipher = seal_facts(subject, sample_id, content, facts), subject.cipher
    found_by = (near_index(cipher, facts.near), content_index(cipher, facts.content_digest))
    database.write(INSERT_SAMPLE, (sample_id, subject.subject_id, content, sealed, aside, *found_by))
    return sample_id


def open_sample(subjects: Mapping[int, Subject], row: Sequence[Any]) -> StoredSample:
    """The sample of a row of SAMPLE_COLUMNS, its inputs as references; one that was released has no reason any more."""
    sample_id, owner, content, sealed, aside = row
    facts = open_facts(subjects[owner], sample_id, content, sealed)
    if not aside:
        facts = without_quarantine(facts)
    author = subjects.get(facts.author) if facts.author else None
    return sample_of(facts, subjects[owner].name, author.name if author else None, sample_id)


def sample_of(facts: SampleFacts, subject: str, author: str | None = None, sample_id: str = "") -> StoredSample:
    """The sample of facts, its inputs as references. subject, author: their names."""
    return StoredSample(
        inputs=facts.inputs,  # type: ignore[arg-type]  # references are inputs
        labels=facts.labels,
        subject=subject,
        consent=facts.consent,  # type: ignore[arg-type]  # no text since it was opened
        source=facts.source,
        retain_until=facts.retain_until,
        language=facts.language,
        aside=facts.aside,
        left_out=facts.left_out,
        weighed=facts.weighed,
        author=author,
        group=facts.group,
        local_labels=facts.local_labels,
        sample_id=sample_id,
    )


def insert_inputs(database: Database, subject: Subject, content: int, bodies: Iterable[bytes]) -> None:
    """Stores the inputs of a sample."""
    seal = subject.cipher.seal
    rows = [(content, place, seal(body, "inputs.body", f"{content}/{place}")) for place, body in enumerate(bodies)]
    database.write_many("INSERT INTO inputs VALUES (?, ?, ?)", rows)


def delete_samples(database: Database, column: str, value: str | int) -> int:
    """Deletes the samples that have this value, with their inputs; returns how many."""
    found = f"(SELECT content FROM samples WHERE {column} = ?)"
    database.write(f"DELETE FROM inputs WHERE content IN {found}", (value,))
    return database.write(f"DELETE FROM samples WHERE {column} = ?", (value,))


def unpack_input(reference: InputReference, body: bytes) -> StoredInput:
    """The input of a body."""
    if reference.kind == "media":
        return body
    return body.decode() if reference.kind == "text" else msgspec.msgpack.decode(body)


def _pack_input(value: StoredInput) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else msgspec.msgpack.encode(value, order="sorted")


def without_quarantine(facts: SampleFacts) -> SampleFacts:
    """The facts as if nothing had been found wrong with the sample."""
    if not (facts.aside or facts.left_out or facts.weighed):
        return facts
    return msgspec.structs.replace(facts, aside="", left_out={}, weighed={})


def with_reason(facts: SampleFacts, reason: str) -> SampleFacts:
    """The facts of the sample quarantined as a whole for a reason."""
    return msgspec.structs.replace(facts, aside=reason, left_out={}, weighed={})


@dataclass(frozen=True)
class BrokenRow:
    """A row that is missing or whose seal does not hold: its table, the column that identifies it, the value there.

    subject: whose input it is
    shown: its name for people
    """

    table: str
    key: str
    name: Any
    subject: Subject | None = None
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or f"{self.table.removesuffix('s')} {self.name}"


def broken_input(subject: Subject, sample_id: str, content: int, place: int) -> BrokenRow:
    """An input whose row is missing or whose seal does not hold."""
    return BrokenRow("inputs", INPUT_NAME, f"{content}/{place}", subject, f"input {place} of sample {sample_id}")


def broken_rows(database: Database, keys: DataKeys, *, bodies: bool) -> Iterator[BrokenRow]:
    """Opens every sealed value, the inputs' too if `bodies`; yields the rows that were altered, and inputs missing."""
    subjects, broken_subjects = keys.sound()
    device = keys.device
    yield from (BrokenRow("subjects", "subject_id", subject_id) for subject_id in broken_subjects)
    for name, body in database.rows("SELECT name, body FROM secrets"):
        if not device.holds(body, "secrets", name):
            yield BrokenRow("secrets", "name", name)
    for name, facts, theta in database.each("SELECT version_id, facts, theta FROM versions"):
        if not (device.holds(facts, "versions.facts", name) and device.holds(theta, "versions.theta", name)):
            yield BrokenRow("versions", "version_id", name)
    if database.one(HAS_TABLE, ("refits",)):  # since version 7
        for name, theta in database.each("SELECT version_id, theta FROM refits"):
            if not device.holds(theta, "refits.theta", name):
                yield BrokenRow("refits", "version_id", name, shown=f"the fit on all samples of version {name}")
    for name, data in database.rows("SELECT update_id, data FROM updates"):
        if not device.holds(data, "updates.data", name):
            yield BrokenRow("updates", "update_id", name)
    for table, key, column, owner in SEALED_TWICE if database.one(HAS_TABLE, ("profiles",)) else ():  # since version 2
        for name, body, subject_id in database.each(f"SELECT {key}, {column}, {owner} FROM {table}"):
            subject, associated_data = subjects.get(subject_id), (f"{table}.{column}", name)
            if subject is None or not (
                device.holds(body, *associated_data)
                and subject.cipher.holds(device.open(body, *associated_data), *associated_data)
            ):
                yield BrokenRow(table, key, name)
    for table in ("statistics", "local_statistics"):
        yield from _broken_sums(database, subjects, table)
    if database.one("SELECT 1 FROM pragma_table_info('samples') WHERE name = 'inputs'"):
        yield from _broken_samples_before_4(database, subjects)
    else:
        yield from _broken_samples(database, subjects, bodies=bodies)


def _broken_sums(database: Database, subjects: Mapping[int, Subject], table: str) -> Iterator[BrokenRow]:
    there = database.one(HAS_TABLE, (table,))  # since versions 6 and 8
    for owner, sums_id, body in database.each(f"SELECT subject_id, sums_id, body FROM {table}") if there else ():
        subject = subjects.get(owner)
        if subject is None or not subject.cipher.holds(body, f"{table}.body", owner, sums_id):
            yield BrokenRow(table, "subject_id", owner, shown=f"the statistics of subject {owner}")


def _broken_samples(database: Database, subjects: Mapping[int, Subject], *, bodies: bool) -> Iterator[BrokenRow]:
    counted = "(SELECT count(*) FROM inputs WHERE inputs.content = samples.content)"
    for sample_id, owner, content, sealed, count in database.each(
        f"SELECT sample_id, subject_id, content, facts, {counted} FROM samples"
    ):
        subject = subjects.get(owner)
        if subject is None or not subject.cipher.holds(sealed, "samples.facts", sample_id, content):
            yield BrokenRow("samples", "sample_id", sample_id)
            continue
        places = open_facts(subject, sample_id, content, sealed).places
        for place in sorted(places) if bodies or count != len(places) else ():
            row = database.one(SELECT_BODY, (content, place))
            if row is None or (bodies and not subject.cipher.holds(row[0], "inputs.body", f"{content}/{place}")):
                yield broken_input(subject, sample_id, content, place)


def _broken_samples_before_4(database: Database, subjects: Mapping[int, Subject]) -> Iterator[BrokenRow]:
    for name, owner, facts, inputs in database.each("SELECT sample_id, subject_id, facts, inputs FROM samples"):
        subject = subjects.get(owner)
        if subject is None or not (
            subject.cipher.holds(facts, "samples.facts", name) and subject.cipher.holds(inputs, "samples.inputs", name)
        ):
            yield BrokenRow("samples", "sample_id", name)
