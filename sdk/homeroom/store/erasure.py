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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from homeroom.errors import DiskFullError, InputError
from homeroom.store.context import StoreContext
from homeroom.store.device_state import JUDGED_RECORD, RESIDUAL, SECURE, TAKEN_IN_RECORD
from homeroom.store.local_labels import LocalLabel, dropping_personal
from homeroom.store.outbox import Outbox
from homeroom.store.profiles import read_profile, remove_profile
from homeroom.store.records import ForgetReport, RemoveReport, VoidReport
from homeroom.store.score_history import drop_past_of
from homeroom.store.sealed_rows import delete_samples
from homeroom.store.statistics import drop_sums
from homeroom.store.versions import Versions

LEAST_ID_CHARACTERS = 8  # by which a sample is named


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
    report, dropped = ForgetReport(), list[LocalLabel]()
    with context.step("forget", len(context.key_ring.forgetting)):
        for index in context.key_ring.forgetting:
            row = database.one("SELECT subject_id FROM subjects WHERE name_index = ?", (bytes.fromhex(index),))
            if row is not None:
                with dropping_personal(context, dropped):
                    report = _remove(context, row[0])
        _drop_idle(context)
        _drop_receipts(context)
        context.keys.rotate(context.key_ring)
        context.reload_keys()
    return replace(report, labels=tuple(f"{one.task}: {one.label}" for one in dropped))


def finish_rotation(context: StoreContext) -> None:
    """Removes every page, log, cached row and copy of before the step, then the old master key."""
    context.cache.keep_only(subject.subject_id for subject in context.keys.all())
    context.backup.discard_older()
    emptied = context.database.compact()
    try:
        context.back_up(force=True)
    except DiskFullError:
        context.backup.discard()  # no copy is better than one that still holds the subject
        context.back_up()
    context.put_key_ring(context.key_ring.only(context.keys.generation))
    if not emptied:  # a reader was stopped in the midst: what its log still holds has no key any more
        context.database.empty_log()


def _remove(context: StoreContext, subject_id: int) -> ForgetReport:
    """Removes a subject's rows, and every version, state and unsent update that it entered; inside a step."""
    samples = delete_samples(context.database, "subject_id", subject_id)
    report = _remove_learned(context, subject_id)
    context.database.write("DELETE FROM lineage WHERE subject_id = ?", (subject_id,))
    context.database.write("DELETE FROM subjects WHERE subject_id = ?", (subject_id,))
    return replace(report, samples=samples)


def _remove_learned(context: StoreContext, subject_id: int) -> ForgetReport:
    """Removes what was learned with a subject's samples, and queues the unlearning of sent updates; inside a step."""
    database = context.database
    drop_past_of(context, subject_id)
    versions, profiles = (context.items(subject_id, kind) for kind in ("version", "profile"))
    unsent = drop_unsent(context, subject_id)
    asked = {row[0] for row in database.rows("SELECT update_id FROM unlearning")}
    unlearning = [update_id for update_id in context.items(subject_id, "update") if update_id not in {*unsent, *asked}]
    for owner in profiles:
        remove_profile(context, int(owner))
    for item in versions:
        database.write("DELETE FROM versions WHERE version_id = ?", (item,))
        context.unlink("version", item)
    if versions:
        database.write("DELETE FROM secrets WHERE name = ?", (JUDGED_RECORD,))
    # What an update could not carry stands in for its subjects; the update after it has them in its lineage too.
    for family in (RESIDUAL, SECURE):
        database.write_many("DELETE FROM secrets WHERE name = ?", [(family + u,) for u in unlearning])
    for update_id in unlearning:  # an upload that was begun may have arrived: it is not tried again, only taken back
        database.write("UPDATE updates SET state = 'sent', data = NULL WHERE update_id = ?", (update_id,))
    database.write_many("INSERT OR IGNORE INTO unlearning VALUES (?, 'pending')", [(u,) for u in unlearning])
    return ForgetReport(0, len(versions), len(unsent), tuple(unlearning), len(profiles))


def drop_void(context: StoreContext, is_void: Callable[[int], bool]) -> VoidReport:
    """Removes versions that are void or were trained on one, with their updates, residuals and profiles; in a step.

    A profile stays where the theta that it grew from is known and not void.
    is_void: of the number of a shared version.
    """
    database, versions, outbox = context.database, Versions(context), Outbox(context)
    held = versions.all()
    gone = [one for one in held if is_void(one.base)]
    residuals = [(RESIDUAL + u,) for u, base in database.rows("SELECT update_id, base FROM updates") if is_void(base)]
    database.write_many("DELETE FROM secrets WHERE name = ?", residuals)
    waiting = [update for update in outbox.pending() if is_void(update.base)]
    for update in waiting:
        outbox.call_off(update.update_id)
    if not gone:
        return VoidReport(updates=len(waiting))
    for version in gone:
        database.write("DELETE FROM versions WHERE version_id = ?", (version.version_id,))
        context.unlink("version", version.version_id)
    versions.drop_state()
    database.write("DELETE FROM secrets WHERE name = ?", (JUDGED_RECORD,))
    sound = {"bundle", *(one.version_id for one in held if one not in gone)}
    profiles = 0
    for subject in list(context.keys.sound()[0].values()):
        profile = read_profile(context, subject.name)
        if profile is not None and profile.facts.get("start") not in sound:
            remove_profile(context, subject.subject_id)
            profiles += 1
    return VoidReport(sum(one.kind == "local" for one in gone), len(waiting), profiles)


def drop_unsent(context: StoreContext, subject_id: int) -> list[str]:
    """Drops the state of a training and the unsent updates that a subject entered; their ids. Inside a step."""
    database = context.database
    sent = {row[0] for row in database.rows("SELECT update_id FROM updates WHERE state IN ('sending', 'sent')")}
    unsent = [update_id for update_id in context.items(subject_id, "update") if update_id not in sent]
    if context.items(subject_id, "state"):
        Versions(context).drop_state()
    for update_id in unsent:
        database.write("DELETE FROM updates WHERE update_id = ?", (update_id,))
        context.unlink("update", update_id)
        database.write_many("DELETE FROM secrets WHERE name = ?", [(RESIDUAL + update_id,), (SECURE + update_id,)])
    return unsent


def remove_samples(context: StoreContext, sample_ids: Sequence[str]) -> RemoveReport:
    """Removes samples, all or none, and all that was learned with their subjects' samples, as `forget_subject` does.

    The lineage tells whose samples entered something, not which. Their subjects get new data keys, so that old copies
    of the rows cannot be read; one with nothing left goes.

    sample_ids: or the beginnings of ids, where they are clear; InputError where one is not.
    """
    rows = {_find(context, sample_id) for sample_id in sample_ids}
    owners = sorted({owner for _, owner in rows})
    reports: list[ForgetReport] = []
    context.mend(bodies=True)  # what stays is sealed anew
    with _second_master_key(context), context.step("remove", len(rows)):
        for sample_id, _ in rows:
            delete_samples(context.database, "sample_id", sample_id)
        reports += [_remove_learned(context, owner) for owner in owners]
        _renew_or_drop(context, owners)
        context.keys.rotate(context.key_ring)
        context.reload_keys()
    context.cache.forget(owners)
    finish_rotation(context)
    unlearning = dict.fromkeys(update_id for report in reports for update_id in report.unlearning)
    return RemoveReport(
        samples=len(rows),
        subjects=len(owners),
        versions=sum(report.versions for report in reports),
        unsent_updates=sum(report.unsent_updates for report in reports),
        profiles=sum(report.profiles for report in reports),
        unlearning=tuple(unlearning),
    )


def _find(context: StoreContext, sample_id: str) -> tuple[str, int]:
    """Id and subject's number of the one sample whose id is this, or begins so."""
    remedy = "`homeroom device subjects DIR --samples PERSON` lists ids"
    text = sample_id.strip().rstrip("\u2026.").lower()
    if len(text) < LEAST_ID_CHARACTERS or text.strip("0123456789abcdef"):
        raise InputError("is no id of a sample, nor its first 8 characters", where=sample_id, remedy=remedy)
    sql = "SELECT sample_id, subject_id FROM samples WHERE sample_id LIKE ? || '%'"
    found: list[tuple[str, int]] = context.database.rows(sql, (text,))
    if len(found) != 1:
        what = f"{len(found)} samples begin so" if found else "there is no such sample"
        raise InputError(what, where=sample_id, remedy=remedy)
    return found[0]


def expire(context: StoreContext, today: str) -> int:
    """Removes the samples whose retention date is before `today` (ISO 8601); returns how many.

    Their subjects get new data keys, so that old copies of the rows cannot be read; a subject with nothing left goes.
    Versions of theta trained on them stay until `forget`.
    """
    expired: dict[int, list[str]] = {}
    for subject, sample in context.each_without_inputs():
        if sample.is_over(today):
            expired.setdefault(subject.subject_id, []).append(sample.sample_id)
    if not expired:
        return 0
    count = sum(map(len, expired.values()))
    context.mend(bodies=True)  # what stays is sealed anew
    with _second_master_key(context), context.step("retention ended", count):
        Versions(context).drop_state()
        for sample_id in (one for sample_ids in expired.values() for one in sample_ids):
            delete_samples(context.database, "sample_id", sample_id)
        _renew_or_drop(context, expired)
        context.keys.rotate(context.key_ring)
        context.reload_keys()
    context.cache.forget(expired)
    finish_rotation(context)
    return count


def _drop_receipts(context: StoreContext) -> None:
    """Erases what the inbox's receipts say: they may name whoever goes. Inside a step."""
    context.database.write("DELETE FROM secrets WHERE name = ?", (TAKEN_IN_RECORD,))


def _renew_or_drop(context: StoreContext, subject_ids: Iterable[int]) -> None:
    """Gives subjects of which a sample was removed new data keys; one with nothing left goes. Inside a step."""
    gone = _drop_idle(context)
    _drop_receipts(context)
    for subject_id in subject_ids:
        drop_sums(context.database, subject_id)
        if subject_id not in gone:
            context.keys.renew(subject_id)


def _drop_idle(context: StoreContext) -> set[int]:
    """Removes the people of whom nothing is held any more, authors of samples that went among them; their numbers."""
    authors = {sample.author for _, sample in context.each_without_inputs()}
    sql = "SELECT subject_id FROM samples UNION SELECT subject_id FROM lineage"
    held = {row[0] for row in context.database.rows(sql)}
    known = context.keys.sound()[0].values()
    idle = {one.subject_id for one in known if one.subject_id not in held and one.name not in authors}
    for subject_id in sorted(idle):
        drop_sums(context.database, subject_id)
        context.database.write("DELETE FROM subjects WHERE subject_id = ?", (subject_id,))
    return idle
