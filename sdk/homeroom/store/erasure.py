"""`forget` and the end of retention: destroying keys so that no old copy brings a subject back; imports opened only.

The order is what makes it hold through a power cut.
1. The ring gets a second master key and the intention.
2. One step in device.db removes the subject, draws a new device key and index key, and seals all with the new master.
3. The backup is replaced.
4. The ring keeps the new key alone: from now on no copy from before can be read.
Cut short after 1, the next opening finishes it; before, it never happened.
"""

from __future__ import annotations

import contextlib

from homeroom.errors import DiskFullError
from homeroom.store.context import Opened
from homeroom.store.profiles import remove_profile
from homeroom.store.records import ForgetReport


def forget_subject(opened: Opened, name: str) -> ForgetReport:
    found = opened.known(name)
    before = opened.ring
    opened.put_ring(before.next((opened.keys.index(found.name).hex(),)))
    try:
        report = remove_and_rotate(opened)
    except DiskFullError:
        with contextlib.suppress(DiskFullError):  # else the next opening, with space, finishes it
            opened.put_ring(before)
        raise
    finish_rotation(opened)
    return report


def remove_and_rotate(opened: Opened) -> ForgetReport:
    """The one step in device.db: remove the subjects that the ring names and seal the rest anew."""
    database = opened.database
    report = ForgetReport()
    with opened.step("forget", len(opened.ring.forgetting)):
        for index in opened.ring.forgetting:
            row = database.one("SELECT subject_id FROM subjects WHERE name_index = ?", (bytes.fromhex(index),))
            if row is not None:
                report = _remove(opened, row[0])
        opened.keys.rotate(opened.ring)
    opened.reload_keys()
    return report


def finish_rotation(opened: Opened) -> None:
    """After the step: no page, log, cache or copy of before stays, then the old master key goes."""
    opened.cache.keep_only(subject.subject_id for subject in opened.keys.all())
    opened.database.compact()
    try:
        opened.back_up(force=True)
    except DiskFullError:
        opened.backup.discard()  # no copy is better than one that still holds the subject
        opened.back_up()
    opened.put_ring(opened.ring.only(opened.keys.generation))


def _remove(opened: Opened, subject_id: int) -> ForgetReport:
    """Remove a subject's rows, and every version, state and unsent update that it entered; inside a step."""
    database = opened.database

    def entered(kind: str) -> list[str]:
        sql = "SELECT item FROM lineage WHERE subject_id = ? AND kind = ?"
        return [row[0] for row in database.rows(sql, (subject_id, kind))]

    versions, updates = entered("version"), entered("update")
    sent = {row[0] for row in database.rows("SELECT update_id FROM updates WHERE state IN ('sending', 'sent')")}
    unsent = [update_id for update_id in updates if update_id not in sent]
    unlearning = [update_id for update_id in updates if update_id in sent]
    samples = database.write("DELETE FROM samples WHERE subject_id = ?", (subject_id,))
    if entered("state"):
        _drop_state(opened)
    profiles = entered("profile")
    for owner in profiles:
        remove_profile(opened, int(owner))
    for kind, table, key, items in (
        ("version", "versions", "version_id", versions),
        ("update", "updates", "update_id", unsent),
    ):
        for item in items:
            database.write(f"DELETE FROM {table} WHERE {key} = ?", (item,))
            database.write("DELETE FROM lineage WHERE kind = ? AND item = ?", (kind, item))
    # What an update could not carry stands in for its subjects; the update after it has them in its lineage too.
    database.write_many("DELETE FROM secrets WHERE name = 'residual.' || ?", [(u,) for u in updates])
    database.write_many("DELETE FROM secrets WHERE name = 'secure.' || ?", [(u,) for u in updates])
    for update_id in unlearning:  # an upload that was begun may have arrived: it is not tried again, only taken back
        database.write("UPDATE updates SET state = 'sent', data = NULL WHERE update_id = ?", (update_id,))
    database.write_many("INSERT OR IGNORE INTO unlearning VALUES (?, 'pending')", [(u,) for u in unlearning])
    database.write("DELETE FROM lineage WHERE subject_id = ?", (subject_id,))
    database.write("DELETE FROM subjects WHERE subject_id = ?", (subject_id,))
    return ForgetReport(samples, len(versions), len(unsent), tuple(unlearning), len(profiles))


def _drop_state(opened: Opened) -> None:
    opened.database.write("DELETE FROM secrets WHERE name = 'state'")
    opened.database.write("DELETE FROM lineage WHERE kind = 'state'")


def expire(opened: Opened, today: str) -> int:
    """Remove the samples whose retention date is before `today` (ISO 8601); return how many.

    Their subjects get new data keys, so that old copies of the rows cannot be read; a subject with nothing left goes.
    What was learned from them stays until `forget`.
    """
    expired: dict[int, list[str]] = {}
    for subject, sample in opened.each_facts():
        if sample.retain_until is not None and sample.retain_until < today:
            expired.setdefault(subject.subject_id, []).append(sample.sample_id)
    if not expired:
        return 0
    count = sum(map(len, expired.values()))
    before = opened.ring
    opened.put_ring(before.next())
    try:
        with opened.step("retention ended", count):
            _drop_state(opened)
            for subject_id, sample_ids in expired.items():
                _end_retention(opened, subject_id, sample_ids)
            opened.keys.rotate(opened.ring)
        opened.reload_keys()
    except DiskFullError:
        with contextlib.suppress(DiskFullError):
            opened.put_ring(before)
        raise
    opened.cache.forget(expired)
    finish_rotation(opened)
    return count


def _end_retention(opened: Opened, subject_id: int, sample_ids: list[str]) -> None:
    database = opened.database
    database.write_many("DELETE FROM samples WHERE sample_id = ?", [(i,) for i in sample_ids])
    left = [
        database.one(f"SELECT count(*) FROM {table} WHERE subject_id = ?", (subject_id,))[0]
        for table in ("samples", "lineage")
    ]
    if any(left):
        opened.keys.renew(subject_id)
    else:
        database.write("DELETE FROM subjects WHERE subject_id = ?", (subject_id,))
