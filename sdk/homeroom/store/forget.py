"""`forget` and the end of retention: destroying keys so that no old copy can bring a subject back; imports opening's parts.

The order is what makes it hold through a power cut. (1) The ring gets a second master key and the intention. (2) One
step in device.db removes the subject, draws a new device key and index key, and seals everything with the new master key.
(3) The backup is replaced. (4) The ring keeps the new key alone: from now on no copy from before can be read. If it is cut
short after (1), the next opening finishes it; before, it never happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeroom.errors import DiskFullError
from homeroom.store.records import ForgetReport

if TYPE_CHECKING:
    from homeroom.store.opening import Opened


def forget_subject(opened: Opened, name: str) -> ForgetReport:
    found = opened.known(name)
    before = opened.ring
    opened.put_ring(before.next((opened.keys.index(found.name).hex(),)))
    try:
        report = remove_and_rotate(opened)
    except DiskFullError:
        opened.keys.reset()
        opened.put_ring(before.only(opened.keys.generation))
        raise
    finish_rotation(opened)
    return report


def remove_and_rotate(opened: Opened) -> ForgetReport:
    """The one step in device.db: remove the subjects that the ring names and seal the rest anew."""
    keys, database = opened.keys, opened.database
    with opened.step("forget", len(opened.ring.forgetting)):
        report = ForgetReport()
        for index in opened.ring.forgetting:
            row = database.one("SELECT subject_id FROM subjects WHERE name_index = ?", (bytes.fromhex(index),))
            if row is not None:
                report = _remove(opened, row[0])
        keys.rotate(opened.ring)
    return report


def finish_rotation(opened: Opened) -> None:
    """After the step: no page, log, cache or copy of before stays, then the old master key goes."""
    opened.cache.keep_only(subject.subject_id for subject in opened.keys.all())
    opened.database.compact()
    opened.back_up(force=True)
    opened.put_ring(opened.ring.only(opened.keys.generation))


def _remove(opened: Opened, subject_id: int) -> ForgetReport:
    """Remove a subject's rows, and every version, state and unsent update that it entered; inside a step."""
    database = opened.database

    def entered(kind: str) -> list[str]:
        sql = "SELECT item FROM lineage WHERE subject_id = ? AND kind = ?"
        return [row[0] for row in database.rows(sql, (subject_id, kind))]

    versions, updates = entered("version"), entered("update")
    unsent, unlearning = [], []
    for update_id in updates:
        row = database.one("SELECT state FROM updates WHERE update_id = ?", (update_id,))
        (unlearning if row and row[0] == "sent" else unsent).append(update_id)
    samples = database.write("DELETE FROM samples WHERE subject_id = ?", (subject_id,))
    if entered("state"):
        database.write("DELETE FROM secrets WHERE name = 'state'")
        database.write("DELETE FROM lineage WHERE kind = 'state'")
    for kind, table, key, items in (
        ("version", "versions", "version_id", versions),
        ("update", "updates", "update_id", unsent),
    ):
        for item in items:
            database.write(f"DELETE FROM {table} WHERE {key} = ?", (item,))
            database.write("DELETE FROM lineage WHERE kind = ? AND item = ?", (kind, item))
    database.write_many("INSERT OR IGNORE INTO unlearning VALUES (?, 'pending')", [(u,) for u in unlearning])
    database.write("DELETE FROM lineage WHERE subject_id = ?", (subject_id,))
    database.write("DELETE FROM subjects WHERE subject_id = ?", (subject_id,))
    return ForgetReport(samples, len(versions), len(unsent), tuple(unlearning))


def expire(opened: Opened, today: str) -> int:
    """Remove the samples whose retention date is before `today` (ISO); return how many.

    Their subjects get new data keys, so that old copies of the rows cannot be read; a subject with nothing left goes.
    What was learned from them stays until `forget`.
    """
    expired: dict[int, list[str]] = {}
    for subject, sample in opened.each_facts():
        if sample.retain_until is not None and sample.retain_until < today:
            expired.setdefault(subject.subject_id, []).append(sample.sample_id)
    if not expired:
        return 0
    before = opened.ring
    opened.put_ring(before.next())
    try:
        with opened.step("retention ended", sum(map(len, expired.values()))):
            for subject_id, sample_ids in expired.items():
                _end_retention(opened, subject_id, sample_ids)
            opened.keys.rotate(opened.ring)
    except DiskFullError:
        opened.keys.reset()
        opened.put_ring(before.only(opened.keys.generation))
        raise
    opened.cache.forget(expired)
    finish_rotation(opened)
    return sum(map(len, expired.values()))


def _end_retention(opened: Opened, subject_id: int, sample_ids: list[str]) -> None:
    database = opened.database
    database.write_many("DELETE FROM samples WHERE sample_id = ?", [(i,) for i in sample_ids])
    database.write("DELETE FROM secrets WHERE name = 'state'")
    database.write("DELETE FROM lineage WHERE kind = 'state'")
    left = database.one(
        "SELECT (SELECT count(*) FROM samples WHERE subject_id = ?1) + (SELECT count(*) FROM lineage WHERE subject_id = ?1)",
        (subject_id,),
    )[0]
    if left:
        opened.keys.renew(subject_id)
    else:
        database.write("DELETE FROM subjects WHERE subject_id = ?", (subject_id,))
