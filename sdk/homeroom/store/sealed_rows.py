"""Samples as sealed rows, and the check of every sealed column of device.db."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from homeroom.data.samples import StoredSample
from homeroom.store.data_keys import SEALED_TWICE, DataKeys, Subject
from homeroom.store.encryption import Cipher
from homeroom.system.sqlite import Database

FACT_FIELDS = ("labels", "consent", "source", "retain_until", "language")
QUARANTINE_FIELDS = ("aside", "left_out", "weighed")  # only of samples that were found poor


def pack_sample(sample: StoredSample) -> tuple[bytes, bytes]:
    """Facts (labels, consent, dates) and inputs (text, media) as MessagePack, apart so that facts are quick to read."""
    facts = {name: getattr(sample, name) for name in FACT_FIELDS}
    facts |= {name: getattr(sample, name) for name in QUARANTINE_FIELDS if getattr(sample, name)}
    return msgspec.msgpack.encode(facts, order="sorted"), msgspec.msgpack.encode(sample.inputs, order="sorted")


def seal_sample(cipher: Cipher, sample_id: str, facts: bytes, inputs: bytes) -> tuple[bytes, bytes]:
    """Facts and inputs of a sample, sealed for their columns."""
    return cipher.seal(facts, "samples.facts", sample_id), cipher.seal(inputs, "samples.inputs", sample_id)


def open_sample(subject: Subject, sample_id: str, facts: bytes, inputs: bytes | None = None) -> StoredSample:
    """The sample as it was stored; without `inputs`, its facts only."""
    fields = msgspec.msgpack.decode(subject.cipher.open(facts, "samples.facts", sample_id))
    media = {} if inputs is None else msgspec.msgpack.decode(subject.cipher.open(inputs, "samples.inputs", sample_id))
    return StoredSample(inputs=media, subject=subject.name, sample_id=sample_id, **fields)


def without_quarantine(sample: StoredSample) -> StoredSample:
    """The sample as if nothing had been found wrong with it."""
    return msgspec.structs.replace(sample, aside="", left_out={}, weighed={})


def with_reason(sample: StoredSample, reason: str) -> StoredSample:
    """The sample, quarantined as a whole for a reason."""
    return msgspec.structs.replace(sample, aside=reason, left_out={}, weighed={})


def sample_id_of(sample: StoredSample, subject: Subject) -> str:
    """A keyed digest of content, labels and facts, hexadecimal; the same whether it is quarantined or not."""
    return subject.cipher.index("sample", *pack_sample(without_quarantine(sample))).hex()


@dataclass(frozen=True)
class BrokenRow:
    """A row whose seal does not hold: its table, the column that identifies it, and the value there."""

    table: str
    key: str
    name: Any


def broken_rows(database: Database, keys: DataKeys) -> Iterator[BrokenRow]:
    """Opens every sealed value; yields the rows that were altered."""
    subjects, broken_subjects = keys.sound()
    device = keys.device
    yield from (BrokenRow("subjects", "subject_id", subject_id) for subject_id in broken_subjects)
    for name, body in database.rows("SELECT name, body FROM secrets"):
        if not device.holds(body, "secrets", name):
            yield BrokenRow("secrets", "name", name)
    for name, facts, theta in database.each("SELECT version_id, facts, theta FROM versions"):
        if not (device.holds(facts, "versions.facts", name) and device.holds(theta, "versions.theta", name)):
            yield BrokenRow("versions", "version_id", name)
    for name, data in database.rows("SELECT update_id, data FROM updates"):
        if not device.holds(data, "updates.data", name):
            yield BrokenRow("updates", "update_id", name)
    for table, key, column, owner in SEALED_TWICE:
        for name, body, subject_id in database.each(f"SELECT {key}, {column}, {owner} FROM {table}"):
            subject, associated_data = subjects.get(subject_id), (f"{table}.{column}", name)
            if subject is None or not (
                device.holds(body, *associated_data)
                and subject.cipher.holds(device.open(body, *associated_data), *associated_data)
            ):
                yield BrokenRow(table, key, name)
    for name, subject_id, facts, media in database.each("SELECT sample_id, subject_id, facts, inputs FROM samples"):
        subject = subjects.get(subject_id)
        if subject is None or not (
            subject.cipher.holds(facts, "samples.facts", name) and subject.cipher.holds(media, "samples.inputs", name)
        ):
            yield BrokenRow("samples", "sample_id", name)
