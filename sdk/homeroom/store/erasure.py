"""Erasure: `forget` and the end of retention destroy keys, so that no old copy brings a subject back.

The order makes it hold through a power cut.
1. The key ring gets a second master key and the intention.
2. One step in device.db removes the subject, draws a new device key and index key, and seals all with the new master.
3. The backup is replaced.
4. The ring keeps the new key alone: from now on no copy from before can be read.
Cut short after 1, the next opening finishes it; before, it never happened.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from homeroom.errors import DiskFullError
from homeroom.store.context import StoreContext
from homeroom.store.device_state import RESIDUAL, SECURE
from homeroom.store.profiles import remove_profile
from homeroom.store.records import ForgetReport
from homeroom.store.sealed_rows import delete_samples
from homeroom.store.versions import Versions


def forget_subject(context: StoreContext, name: str) -> ForgetReport:
    """Removes a subject and all that stems from it; InputError if the store does not know the name."""
    index = context.keys.index(context.known(name).name).hex()
    with _second_master_key(context, index):
        report = remove_and_rotate(context)
    finish_rotation(context)
    return report


@contextlib.contextmanager
def _second_master_key(context: StoreContext, *forgetting: str) -> Iterator[None]:
    """Puts a second master key in the ring for a step that rotates keys; takes it out again if the disk is full."""
    before = context.key_ring
    context.put_key_ring(before.next(forgetting))
    try:
        yield
    except DiskFullError:
        with contextlib.suppress(DiskFullError):  # else the next opening, with space, finishes it
            context.put_key_ring(before)
        raise


def remove_and_rotate(context: StoreContext) -> ForgetReport:
    """Removes the subjects that the key ring names, and seals the rest anew: one step in device.db."""
    database = context.database
    report = ForgetReport()
    with context.step("forget", len(context.key_ring.forgetting)):
        for index in context.key_ring.forgetting:
            row = database.one("SELECT subject_id FROM subjects WHERE name_index = ?", (bytes.fromhex(index),))
            if row is not None:
                report = _remove(context, row[0])
        context.keys.rotate(context.key_ring)
        context.reload_keys()
    return report


def finish_rotation(context: StoreContext) -> None:
    """Removes every page, log, cached row and copy of before the step, then the old master key."""
    context.cache.keep_only(subject.subject_id for subject in context.keys.all())
    context.backup.discard_older()
    context.database.compact()
    try:
        context.back_up(force=True)
    except DiskFullError:
        context.backup.discard()  # no copy is better than one that still holds the subject
        context.back_up()
    context.put_key_ring(context.key_ring.only(context.keys.generation))


def _remove(context: StoreContext, subject_id: int) -> ForgetReport:
    """Removes a subject's rows, and every version, state and unsent update that it entered; inside a step."""
    database = context.database
    versions, updates, profiles = (context.items(subject_id, kind) for kind in ("version", "update", "profile"))
    sent = {row[0] for row in database.rows("SELECT update_id FROM updates WHERE state IN ('sending', 'sent')")}
    unsent = [update_id for update_id in updates if update_id not in sent]
    unlearning = [update_id for update_id in updates if update_id in sent]
    samples = delete_samples(database, "subject_id", subject_id)
    if context.items(subject_id, "state"):
        Versions(context).drop_state()
    for owner in profiles:
        remove_profile(context, int(owner))
    for kind, table, key, items in (
        ("version", "versions", "version_id", versions),
        ("update", "updates", "update_id", unsent),
    ):
        for item in items:
            database.write(f"DELETE FROM {table} WHERE {key} = ?", (item,))
            context.unlink(kind, item)
    # What an update could not carry stands in for its subjects; the update after it has them in its lineage too.
    for family in (RESIDUAL, SECURE):
        database.write_many("DELETE FROM secrets WHERE name = ?", [(family + u,) for u in updates])
    for update_id in unlearning:  # an upload that was begun may have arrived: it is not tried again, only taken back
        database.write("UPDATE updates SET state = 'sent', data = NULL WHERE update_id = ?", (update_id,))
    database.write_many("INSERT OR IGNORE INTO unlearning VALUES (?, 'pending')", [(u,) for u in unlearning])
    database.write("DELETE FROM lineage WHERE subject_id = ?", (subject_id,))
    database.write("DELETE FROM subjects WHERE subject_id = ?", (subject_id,))
    return ForgetReport(samples, len(versions), len(unsent), tuple(unlearning), len(profiles))


def expire(context: StoreContext, today: str) -> int:
    """Removes the samples whose retention date is before `today` (ISO 8601); returns how many.

    Their subjects get new data keys, so that old copies of the rows cannot be read; a subject with nothing left goes.
    Versions of theta trained on them stay until `forget`.
    """
    expired: dict[int, list[str]] = {}
    for subject, sample in context.each_without_inputs():
        if sample.retain_until is not None and sample.retain_until < today:
            expired.setdefault(subject.subject_id, []).append(sample.sample_id)
    if not expired:
        return 0
    count = sum(map(len, expired.values()))
    context.mend(bodies=True)  # what stays is sealed anew
    with _second_master_key(context), context.step("retention ended", count):
        Versions(context).drop_state()
        for subject_id, sample_ids in expired.items():
            _end_retention(context, subject_id, sample_ids)
        context.keys.rotate(context.key_ring)
        context.reload_keys()
    context.cache.forget(expired)
    finish_rotation(context)
    return count


def _end_retention(context: StoreContext, subject_id: int, sample_ids: list[str]) -> None:
    database = context.database
    for sample_id in sample_ids:
        delete_samples(database, "sample_id", sample_id)
    counts = (f"SELECT count(*) FROM {table} WHERE subject_id = ?" for table in ("samples", "lineage"))
    if any(database.one(sql, (subject_id,))[0] for sql in counts):
        context.keys.renew(subject_id)
    else:
        database.write("DELETE FROM subjects WHERE subject_id = ?", (subject_id,))
