"""Twins of a device directory: a cloned card, a replaced disk, an older copy put back; imports opened and repair.

Two devices must not share one identity, and what one of them contributed to a global version must not count again.
Two witnesses stand outside the directory: the machine and its disk, and the ring of master keys, which notes for each
bundle the newest base whose update was begun to be sent.
"""

from __future__ import annotations

import msgspec

from homeroom.errors import StoreError
from homeroom.store import repair
from homeroom.store.context import Opened

OLDER = "an older copy of this directory was put in place: what it had sent since is not sent again"


def notice(opened: Opened) -> None:
    """See whether the directory was moved, cloned or put back, and make it a device of its own where it was."""
    _notice_move(opened)
    _notice_older(opened)


def begin_sending(opened: Opened, update_id: str) -> None:
    """Note outside the directory that an update is on its way, before its first byte leaves.

    StoreError where a copy of this directory, open at the same time, has answered that base.
    """
    row = opened.database.one("SELECT bundle_id, base, state FROM updates WHERE update_id = ?", (update_id,))
    if row is None or row[2] != "pending":
        return
    ring = opened.places.read(opened.store_id) or opened.ring
    base, other = ring.begun.get(row[0], (-1, ""))
    if base >= row[1] and other != update_id:
        raise StoreError(
            f"a copy of this directory has answered global version {base}",
            where=str(opened.directory),
            remedy="use one of the two only",
        )
    if base < row[1]:
        opened.put_ring(ring.with_begun(row[0], row[1], update_id))


def note_charge(opened: Opened, noise: str, update_id: str) -> None:
    """Count a private update outside the directory, so that an older copy does not spend its budget again.

    The same update noted twice in a row, after a power cut, counts once.
    """
    ring = opened.places.read(opened.store_id) or opened.ring
    count, last = ring.charged.get(noise, (0, ""))
    if last != update_id:
        opened.put_ring(msgspec.structs.replace(ring, charged={**ring.charged, noise: (count + 1, update_id)}))


def _notice_move(opened: Opened) -> None:
    """A clone on another machine or disk loses its signing key and what waits, and must join again.

    An upload that was begun may have arrived: its base counts as answered here too.
    """
    here = {"machine": opened.ring.machine, "disk": opened.ring.disk(opened.directory)}
    before = {name: _secret(opened, name) for name in here}
    fresh = {name: body for name, body in here.items() if body and body != before[name]}
    if not fresh:
        return
    moved = any(before[name] for name in fresh)
    with opened.step("opened on this machine"):
        for name, body in fresh.items():
            sealed = opened.keys.device.seal(body, "secrets", name)
            opened.database.write("INSERT OR REPLACE INTO secrets VALUES (?, ?)", (name, sealed))
        if moved:
            for kind in ("identity", "residual", "secure"):
                opened.database.write(f"DELETE FROM secrets WHERE name LIKE '{kind}.%'")
            _drop_waiting(opened, "state = 'pending'")
            opened.database.write("UPDATE updates SET state = 'sent', data = NULL WHERE state = 'sending'")
            opened.moved = True


def _notice_older(opened: Opened) -> None:
    """A copy of before the last upload: the bases answered since are answered, whatever it still holds for them."""
    database = opened.database
    for bundle_id, (base, update_id) in opened.ring.begun.items():
        row = database.one("SELECT state FROM updates WHERE update_id = ?", (update_id,))
        if row is not None and row[0] != "pending":
            continue
        if row is not None:  # the power went after the note was made, or the copy is of that moment
            database.write("UPDATE updates SET state = 'sending' WHERE update_id = ?", (update_id,))
            continue
        with opened.step("an older copy"):
            _drop_waiting(opened, "state = 'pending' AND bundle_id = ? AND base <= ?", bundle_id, base)
            sql = "INSERT INTO updates (update_id, bundle_id, base, state, data) VALUES (?, ?, ?, 'sent', NULL)"
            database.write(sql, (update_id, bundle_id, base))
            # Who was in it is not known here: whoever is forgotten from now on has it unlearned.
            sql = "INSERT INTO lineage (subject_id, kind, item) SELECT subject_id, 'update', ? FROM subjects"
            database.write(sql, (update_id,))
            database.write("DELETE FROM secrets WHERE name LIKE 'residual.%' OR name LIKE 'secure.%'")
            repair.note(database, [OLDER])


def _drop_waiting(opened: Opened, where: str, *values: str | int) -> None:
    items = f"(SELECT update_id FROM updates WHERE {where})"
    opened.database.write(f"DELETE FROM lineage WHERE kind = 'update' AND item IN {items}", values)
    opened.database.write(f"DELETE FROM updates WHERE {where}", values)


def _secret(opened: Opened, name: str) -> bytes | None:
    row = opened.database.one("SELECT body FROM secrets WHERE name = ?", (name,))
    return None if row is None else opened.keys.device.open(row[0], "secrets", name)
