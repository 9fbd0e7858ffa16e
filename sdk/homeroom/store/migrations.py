"""Brings the tables of an older device.db to those of the next schema version, each step inside one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec

from homeroom.data.samples import StoredSample
from homeroom.store import schema
from homeroom.store.data_keys import DataKeys, content_index
from homeroom.store.master_keys import KeyRing
from homeroom.store.sealed_rows import insert_inputs, open_facts, pack_sample, seal_facts
from homeroom.system.sqlite import Database

OLDEST_SCHEMA_VERSION = 1  # that can still be migrated


def _add_profiles(database: Database, _: KeyRing) -> None:
    """Version 1 to 2: tables for personal theta; lineage knows one kind more."""
    lineage = database.tables["lineage"]
    rows = list(lineage.rows)
    lineage.drop()
    database.tables.executescript(schema.LINEAGE)
    database.tables["lineage"].insert_all(rows)


def _add_quarantine(database: Database, _: KeyRing) -> None:
    """Version 2 to 3: a sample can be quarantined, and found by the fingerprint that near copies share."""
    database.tables.executescript(
        "ALTER TABLE samples ADD COLUMN aside INTEGER NOT NULL DEFAULT 0; ALTER TABLE samples ADD COLUMN near BLOB;"
        "CREATE INDEX samples_by_near ON samples (near)"
    )


def _split_inputs(database: Database, key_ring: KeyRing) -> None:
    """Version 3 to 4: each input has a row of its own, and the facts its digest; one sample in memory at a time."""
    subjects, _ = DataKeys(database, key_ring).sound()
    database.tables.executescript(
        "DROP INDEX samples_by_subject; DROP INDEX samples_by_near; ALTER TABLE samples RENAME TO old"
    )
    database.tables.executescript(schema.SAMPLES)
    for (number,) in database.rows("SELECT number FROM old ORDER BY number"):
        sample_id, owner, facts, inputs, aside, near = database.one(
            "SELECT sample_id, subject_id, facts, inputs, aside, near FROM old WHERE number = ?", (number,)
        )
        database.write("DELETE FROM old WHERE number = ?", (number,))  # its pages are used again: the file hardly grows
        subject, content = subjects[owner], secrets.randbits(63)
        fields = msgspec.msgpack.decode(subject.cipher.open(facts, "samples.facts", sample_id))
        values = msgspec.msgpack.decode(subject.cipher.open(inputs, "samples.inputs", sample_id))
        packed, bodies = pack_sample(StoredSample(inputs=values, **fields))
        sealed = seal_facts(subject, sample_id, content, packed)
        row = (number, sample_id, owner, content, sealed, aside, near)
        database.write("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        insert_inputs(database, subject, content, bodies)
    last = database.one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name IN ('old', 'samples')")
    database.write("DELETE FROM sqlite_sequence WHERE name = 'samples'")
    database.write("INSERT INTO sqlite_sequence VALUES ('samples', ?)", last)
    database.write("DROP TABLE old")


def _index_contents(database: Database, key_ring: KeyRing) -> None:
    """Version 4 to 5: a sample is found by its content; a consent in words becomes unstated, and its words are kept."""
    subjects, _ = DataKeys(database, key_ring).sound()
    database.tables.executescript(schema.CONTENTS)
    for (number,) in database.rows("SELECT number FROM samples"):
        sample_id, owner, content, sealed = database.one(
            "SELECT sample_id, subject_id, content, facts FROM samples WHERE number = ?", (number,)
        )
        subject = subjects[owner]
        facts = open_facts(subject, sample_id, content, sealed)
        found_by = content_index(subject.cipher, facts.content_digest)
        row = (seal_facts(subject, sample_id, content, facts), found_by, number)
        database.write("UPDATE samples SET facts = ?, content_index = ? WHERE number = ?", row)


def _add_statistics(database: Database, _: KeyRing) -> None:
    """Version 5 to 6: a table for each subject's sums."""
    database.tables.executescript(schema.STATISTICS)


def _add_refits(database: Database, _: KeyRing) -> None:
    """Version 6 to 7: a table for the second fits of versions."""
    database.tables.executescript(schema.REFITS)


def _add_local_statistics(database: Database, _: KeyRing) -> None:
    """Version 7 to 8: a table for each subject's sums of labels that this device alone has; facts have such labels."""
    database.tables.executescript(schema.LOCAL_STATISTICS)


# From each older version to the next, after a copy was made.
MIGRATIONS: dict[int, Callable[[Database, KeyRing], None]] = {
    1: _add_profiles,
    2: _add_quarantine,
    3: _split_inputs,
    4: _index_contents,
    5: _add_statistics,
    6: _add_refits,
    7: _add_local_statistics,
}
