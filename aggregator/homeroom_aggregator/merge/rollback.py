"""Rollback: a new version whose theta is that of an older one.

A version number never falls, since devices refuse an older one than they have seen. The entry's body holds the theta,
for a replay that begins after the older version; one that passes it takes what it computed there itself, so that an
update that is unlearned later is not in the newer version either.
"""

from __future__ import annotations

import struct

import numpy as np

from homeroom.contract.names import check_name
from homeroom.errors import InputError, StoreError
from homeroom.system.sqlite import Database
from homeroom_aggregator.state import rewinds, secure_sum
from homeroom_aggregator.state.schema import newest_version


def pack(to: int, theta: np.ndarray) -> bytes:
    """8 bytes: the older version, little-endian; then its theta, float32 [P]."""
    return struct.pack("<Q", to) + np.ascontiguousarray(theta, "<f4").tobytes()


def unpack(body: bytes, size: int) -> tuple[int, np.ndarray]:
    """The older version and its theta float32 [size]; StoreError if it does not fit."""
    if len(body) != 8 + 4 * size:
        raise StoreError("a rollback is damaged", where="log.db", remedy="restore the last backup")
    return struct.unpack("<Q", body[:8])[0], np.frombuffer(body, "<f4", offset=8).astype(np.float32)


def targets(database: Database) -> frozenset[int]:
    """The versions that were ever rolled back to: a replay remembers their theta."""
    sql = "SELECT substr(body, 1, 8) FROM log JOIN bodies USING (number) WHERE kind = 'rollback' AND body != x''"
    return frozenset(struct.unpack("<Q", head)[0] for (head,) in database.rows(sql))


def check_target(database: Database, to: int) -> None:
    """InputError unless one may go back to version `to`."""
    newest, where = newest_version(database), f"version {to}"
    if not 0 <= to < newest:
        raise InputError(f"is not older than version {newest}, the newest", where=where)
    if any(first <= to <= last for first, last in rewinds.void_versions(database)):
        raise InputError("is void: it held an update that was unlearned", where=where, remedy="go back to another one")
    if to and not database.one("SELECT 1 FROM versions WHERE version = ?", (to,)):
        raise InputError("is not kept any more", where=where, remedy="go back to a newer one")
    if holds_withdrawn(database, to):
        raise InputError(
            "may hold an update that was unlearned since",
            where=where,
            remedy="go back to one from before that update came, or from after it was unlearned",
        )


def check_reason(by: str, why: str) -> None:
    """InputError unless a name and a reason are given, each on one line and not too long."""
    check_name(by, "who goes back")
    check_name(why, "the reason")


def holds_withdrawn(database: Database, version: int) -> bool:
    """Whether an update that had come when `version` was released was withdrawn afterwards.

    Going back there would bring it back; leaving it out would show it, since the older version is known.
    """
    found = database.one("SELECT number FROM versions WHERE version = ?", (version,))
    released = int(found[0]) if found else 0
    sql = """SELECT gone.update_id, came.number FROM log AS gone
             LEFT JOIN log AS came ON came.kind = 'update' AND came.update_id = gone.update_id
             WHERE gone.kind = 'withdraw' AND gone.number > ?"""
    gone = dict(database.rows(sql, (released,)))
    if any(number is not None and number < released for number in gone.values()):
        return True
    unseen = {update_id for update_id, number in gone.items() if number is None}
    return bool(unseen) and any(unseen & header.updates.keys() for header in secure_sum.headers(database, 0, released))
