"""Clone detection: notices a cloned card, a replaced disk, or an older copy of a device directory put back.

Two devices must not share one identity, and an update must not count in a global version twice. Two witnesses stand
outside the directory: the machine with its disk, and the key ring, which notes for each bundle the newest base whose
update was begun to be sent.
"""

from __future__ import annotations

from homeroom.errors import StoreError
from homeroom.store import repair
from homeroom.store.context import StoreContext
from homeroom.store.device_state import IDENTITY, RESIDUAL, SECURE, bytes_record, deletion

MACHINE, DISK = bytes_record("machine"), bytes_record("disk")  # keyed digests of where this device is at home
OLDER_COPY_DAMAGE = "an older copy of this directory was put in place: what it had sent since is not sent again"


def detect_clones(context: StoreContext) -> None:
    """Detects that the directory was moved, cloned or put back, and makes it a device of its own."""
    _detect_move(context)
    _detect_older_copy(context)


def begin_sending(context: StoreContext, update_id: str) -> None:
    """Notes in the key ring that an update is on its way, before its first byte leaves.

    StoreError where a copy of this directory, open at the same time, has answered that base.
    """
    row = context.database.one("SELECT bundle_id, base, state FROM updates WHERE update_id = ?", (update_id,))
    if row is None or row[2] != "pending":
        return
    key_ring = context.master_keys.read(context.store_id) or context.key_ring
    base, other = key_ring.begun.get(row[0], (-1, ""))
    if base >= row[1] and other != update_id:
        raise StoreError(
            f"a copy of this directory has answered global version {base}",
            where=str(context.directory),
            remedy="use one of the two only",
        )
    if base < row[1]:
        context.put_key_ring(key_ring.with_begun(row[0], row[1], update_id))


def note_charge(context: StoreContext, noise: str, update_id: str) -> None:
    """Counts a private update in the key ring, so that an older copy does not spend its privacy budget again.

    The same update noted twice in a row, after a power cut, counts once.
    """
    key_ring = context.master_keys.read(context.store_id) or context.key_ring
    count, last = key_ring.charged.get(noise, (0, ""))
    if last != update_id:
        context.change_key_ring(charged={**key_ring.charged, noise: (count + 1, update_id)})


def _detect_move(context: StoreContext) -> None:
    """A clone on another machine or disk loses its signing key and what waits, and must join again.

    An upload that was begun may have arrived: its base counts as answered here too.
    """
    here = {MACHINE: context.key_ring.machine, DISK: context.key_ring.disk(context.directory)}
    before = {record: record.read(context) for record in here}
    fresh = {record: body for record, body in here.items() if body and body != before[record]}
    if not fresh:
        return
    moved = any(before[record] for record in fresh)
    with context.step("opened on this machine"):
        for record, body in fresh.items():
            record.write(context, body)
        if moved:
            context.database.write(deletion(IDENTITY, RESIDUAL, SECURE))
            _drop_waiting(context, "state = 'pending'")
            context.database.write("UPDATE updates SET state = 'sent', data = NULL WHERE state = 'sending'")
            context.moved = True


def _detect_older_copy(context: StoreContext) -> None:
    """In a copy of before the last upload, the bases answered since are answered, whatever it still holds for them."""
    database = context.database
    for bundle_id, (base, update_id) in context.key_ring.begun.items():
        row = database.one("SELECT state FROM updates WHERE update_id = ?", (update_id,))
        if row is not None and row[0] != "pending":
            continue
        if row is not None:  # the power went after the note was made, or the copy is of that moment
            database.write("UPDATE updates SET state = 'sending' WHERE update_id = ?", (update_id,))
            continue
        with context.step("an older copy"):
            _drop_waiting(context, "state = 'pending' AND bundle_id = ? AND base <= ?", bundle_id, base)
            sql = "INSERT INTO updates (update_id, bundle_id, base, state, data) VALUES (?, ?, ?, 'sent', NULL)"
            database.write(sql, (update_id, bundle_id, base))
            # Who was in it is not known here: whoever is forgotten from now on has it unlearned.
            sql = "INSERT INTO lineage (subject_id, kind, item) SELECT subject_id, 'update', ? FROM subjects"
            database.write(sql, (update_id,))
            database.write(deletion(RESIDUAL, SECURE))
            repair.note_damage(database, [OLDER_COPY_DAMAGE])


def _drop_waiting(context: StoreContext, where: str, *values: str | int) -> None:
    items = f"(SELECT update_id FROM updates WHERE {where})"
    context.database.write(f"DELETE FROM lineage WHERE kind = 'update' AND item IN {items}", values)
    context.database.write(f"DELETE FROM updates WHERE {where}", values)
