"""Samples as sealed rows, and the check of every other sealed column; imports vault, samples and the key book."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from homeroom.data.samples import StoredSample
from homeroom.store.data_keys import PERSONAL, KeyBook, Subject
from homeroom.store.encryption import Cipher
from homeroom.system.sqlite import Database


def pack_sample(sample: StoredSample) -> tuple[bytes, bytes]:
    """Facts (labels, consent, dates) and inputs (text, media) as MessagePack, apart so that facts are quick to read."""
    facts = {name: getattr(sample, name) for name in FACTS}
    facts |= {name: getattr(sample, name) for name in WHY if getattr(sample, name)}
    return msgspec.msgpack.encode(facts, order="sorted"), msgspec.msgpack.encode(sample.inputs, order="sorted")


def seal_sample(cipher: Cipher, sample_id: str, facts: bytes, inputs: bytes) -> tuple[bytes, bytes]:
    return cipher.seal(facts, "samples.facts", sample_id), cipher.seal(inputs, "samples.inputs", sample_id)


def open_sample(subject: Subject, sample_id: str, facts: bytes, inputs: bytes | None = None) -> StoredSample:
    """The sample as it was stored; without `inputs`, only what is said about it."""
    known = msgspec.msgpack.decode(subject.cipher.open(facts, "samples.facts", sample_id))
    media = {} if inputs is None else msgspec.msgpack.decode(subject.cipher.open(inputs, "samples.inputs", sample_id))
    return StoredSample(inputs=media, subject=subject.name, sample_id=sample_id, **known)


FACTS = ("labels", "consent", "source", "retain_until", "language")
WHY = ("aside", "left_out", "weighed")  # only of samples that were found poor
# Of one that was put back; also what an id is made of.
AS_IT_IS: dict[str, Any] = {
    "aside": "",
    "left_out": {},
    "weighed": {},
}


@dataclass(frozen=True)
class Broken:
    """A row whose seal does not hold: its table, the column that names it, and that name."""

    table: str
    key: str
    name: Any


def broken_rows(database: Database, keys: KeyBook) -> Iterator[Broken]:
    """Open every sealed value; yield the rows that were altered."""
    good, broken = keys.sound()
    device = keys.device
    yield from (Broken("subjects", "subject_id", subject_id) for subject_id in broken)
    for name, body in database.rows("SELECT name, body FROM secrets"):
        if not device.holds(body, "secrets", name):
            yield Broken("secrets", "name", name)
    for name, facts, theta in database.each("SELECT version_id, facts, theta FROM versions"):
        if not (device.holds(facts, "versions.facts", name) and device.holds(theta, "versions.theta", name)):
            yield Broken("versions", "version_id", name)
    for name, data in database.rows("SELECT update_id, data FROM updates"):
        if not device.holds(data, "updates.data", name):
            yield Broken("updates", "update_id", name)
    for table, key, column, owner in PERSONAL:
        for name, body, subject_id in database.each(f"SELECT {key}, {column}, {owner} FROM {table}"):
            subject, place = good.get(subject_id), (f"{table}.{column}", name)
            if subject is None or not (
                device.holds(body, *place) and subject.cipher.holds(device.open(body, *place), *place)
            ):
                yield Broken(table, key, name)
    for name, subject_id, facts, media in database.each("SELECT sample_id, subject_id, facts, inputs FROM samples"):
        subject = good.get(subject_id)
        if subject is None or not (
            subject.cipher.holds(facts, "samples.facts", name) and subject.cipher.holds(media, "samples.inputs", name)
        ):
            yield Broken("samples", "sample_id", name)
