"""Each subject's sums in the store, sealed under the subject's data key: what heads are solved from, exactly unlearned.

A row is never stale. It goes with its subject's key; and where a sample that is in it goes, is corrected or relabelled,
is quarantined, or may no longer be used. The next training computes it again. So does one after a change of bundle:
`sums_id` says what the sums mean, and rows of another meaning count as none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Literal, get_args

from homeroom.contract.statistics.encoding import encode, read
from homeroom.contract.statistics.sums import NOTHING, Statistics, add, merge
from homeroom.errors import BrokenSealError
from homeroom.store.context import StoreContext
from homeroom.store.data_keys import Subject
from homeroom.system.sqlite import Database

Table = Literal["statistics", "local_statistics"]  # the latter: of labels that this device alone has, never sent


def put_sums(
    context: StoreContext, sums_id: str, sums: Iterable[tuple[str, Statistics]], table: Table = "statistics"
) -> Statistics:
    """Stores the sums of all subjects in place of those before, all or none; returns their total.

    sums_id: what they mean, as `train.solve.vectors.samples.sums_id` says.
    sums: subjects by name, one in memory at a time. UpdateError where one is too large to be stored.
    """
    database, total = context.database, NOTHING
    with context.step("statistics"):
        database.write(f"DELETE FROM {table}")
        for name, statistics in sums:
            subject = context.keys.find(name)
            if subject is not None and statistics.cells:  # else forgotten meanwhile: nothing to keep
                sealed = subject.cipher.seal(encode(statistics), f"{table}.body", subject.subject_id, sums_id)
                database.write(f"INSERT INTO {table} VALUES (?, ?, ?)", (subject.subject_id, sums_id, sealed))
                total = add(total, statistics)
    return total


def each_subjects_sums(
    context: StoreContext, sums_id: str, table: Table = "statistics"
) -> Iterator[tuple[str, Statistics]]:
    """Subjects by name and their sums, in the order the subjects came, one in memory at a time.

    A damaged row is mended first, or removed and listed; a snapshot passes over it.
    """
    subjects = context.keys.sound()[0]
    for (subject_id,) in context.database.rows(
        f"SELECT subject_id FROM {table} WHERE sums_id = ? ORDER BY subject_id", (sums_id,)
    ):
        body = _open(context, subjects.get(subject_id), subject_id, sums_id, table)
        if body is None and not context.is_snapshot:
            context.mend()
            subjects = context.keys.sound()[0]
            body = _open(context, subjects.get(subject_id), subject_id, sums_id, table)
        if body is not None:
            yield subjects[subject_id].name, read(body)


def _open(context: StoreContext, subject: Subject | None, subject_id: int, sums_id: str, table: Table) -> bytes | None:
    """The bytes of a subject's sums; None where they are gone, or do not open."""
    row = context.database.one(f"SELECT body FROM {table} WHERE subject_id = ?", (subject_id,))
    with contextlib.suppress(BrokenSealError):
        if subject is not None and row is not None:
            return subject.cipher.open(row[0], f"{table}.body", subject_id, sums_id)
    return None


def own_total(context: StoreContext, sums_id: str, table: Table = "statistics") -> Statistics:
    """The sums of all subjects together; those of none where nothing of this meaning is stored."""
    return merge(statistics for _, statistics in each_subjects_sums(context, sums_id, table))


def summed_subjects(context: StoreContext, sums_id: str) -> int:
    """How many subjects have sums of this meaning."""
    return int(context.database.one("SELECT count(*) FROM statistics WHERE sums_id = ?", (sums_id,))[0])


def sums_mark(context: StoreContext, table: Table = "statistics") -> bytes:
    """A digest of the rows' nonces: bytes that change with them; empty where there are none."""
    rows = context.database.rows(f"SELECT subject_id, sums_id, substr(body, 1, 12) FROM {table} ORDER BY subject_id")
    return sha256(repr(rows).encode()).digest() if rows else b""


def drop_sums(database: Database, subject_id: int) -> None:
    """Removes a subject's sums, which no longer hold; inside a step."""
    for table in get_args(Table):
        database.write(f"DELETE FROM {table} WHERE subject_id = ?", (subject_id,))


def drop_local_sums(database: Database, subject_id: int) -> None:
    """Removes a subject's sums of labels that this device alone has, where no other label changed; inside a step."""
    database.write("DELETE FROM local_statistics WHERE subject_id = ?", (subject_id,))


def drop_all_sums(database: Database) -> None:
    """Removes the sums of every subject; inside a step."""
    for table in get_args(Table):
        database.write(f"DELETE FROM {table}")
