"""Samples as sealed rows, and the check of every other sealed column; imports vault, samples and the key book."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from homeroom.samples import StoredSample
from homeroom.store.database import Database
from homeroom.store.keybook import KeyBook, Subject
from homeroom.vault import BrokenSealError, Cipher


def pack_sample(sample: StoredSample) -> tuple[bytes, bytes]:
    """Facts (labels, consent, dates) and inputs (text, media) as MessagePack, apart so that facts stay quick to read."""
    facts = {name: getattr(sample, name) for name in FACTS}
    return msgspec.msgpack.encode(facts, order="sorted"), msgspec.msgpack.encode(sample.inputs, order="sorted")


def seal_sample(cipher: Cipher, sample_id: str, facts: bytes, inputs: bytes) -> tuple[bytes, bytes]:
    return cipher.seal(facts, "samples.facts", sample_id), cipher.seal(inputs, "samples.inputs", sample_id)


def open_sample(subject: Subject, sample_id: str, facts: bytes, inputs: bytes | None = None) -> StoredSample:
    """The sample as it was stored; without `inputs`, only what is said about it."""
    known = msgspec.msgpack.decode(subject.cipher.open(facts, "samples.facts", sample_id))
    media = {} if inputs is None else msgspec.msgpack.decode(subject.cipher.open(inputs, "samples.inputs", sample_id))
    return StoredSample(inputs=media, subject=subject.name, sample_id=sample_id, **known)


FACTS = ("labels", "consent", "source", "retain_until", "language")


@dataclass(frozen=True)
class Broken:
    """A row whose seal does not hold: its table, the column that names it, and that name."""

    table: str
    key: str
    name: Any


def broken_rows(database: Database, keys: KeyBook, *, inputs: bool) -> Iterator[Broken]:
    """Open every sealed value; yield the rows that were altered. `inputs`: the samples' media too."""
    good, broken = keys.sound()
    yield from (Broken("subjects", "subject_id", subject_id) for subject_id in broken)
    for name, body in database.rows("SELECT name, body FROM secrets"):
        if _fails(lambda: keys.device.open(body, "secrets", name)):
            yield Broken("secrets", "name", name)
    for version_id, facts, theta in database.each("SELECT version_id, facts, theta FROM versions"):
        if _fails(
            lambda: (
                keys.device.open(facts, "versions.facts", version_id),
                keys.device.open(theta, "versions.theta", version_id),
            )
        ):
            yield Broken("versions", "version_id", version_id)
    for update_id, data in database.rows("SELECT update_id, data FROM updates WHERE state = 'pending'"):
        if _fails(lambda: keys.device.open(data, "updates.data", update_id)):
            yield Broken("updates", "update_id", update_id)
    columns = "facts, inputs" if inputs else "facts, NULL"
    for sample_id, subject_id, facts, media in database.each(f"SELECT sample_id, subject_id, {columns} FROM samples"):
        subject = good.get(subject_id)
        if subject is None or _fails(lambda: _open_parts(subject, sample_id, facts, media)):
            yield Broken("samples", "sample_id", sample_id)


def _open_parts(subject: Subject, sample_id: str, facts: bytes, media: bytes | None) -> None:
    subject.cipher.open(facts, "samples.facts", sample_id)
    if media is not None:
        subject.cipher.open(media, "samples.inputs", sample_id)


def _fails(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except BrokenSealError:
        return True
    return False
