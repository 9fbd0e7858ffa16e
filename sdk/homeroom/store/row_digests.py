"""Keyed digests of the rows of device.db, one a table, kept up to date by temporary triggers.

A table's digest is the sum of keyed BLAKE2b (RFC 7693) over its rows, modulo 2^256: an incremental multiset hash
(Clarke et al. 2003), so a change costs the rows that it changes. The triggers see every statement that changes a row.
A sealed value counts by its nonce, which is drawn anew for each sealing. Inputs do not count: the facts of their
sample, which do, name them, and a row is sealed once and for its sample.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from homeroom.store.device_state import SECURE, msgpack_record
from homeroom.system.sqlite import Database

ROWS = {  # what counts of a row; @ stands for it
    "store": "@store_id, @generation, substr(@device_key, 1, 12), substr(@index_key, 1, 12)",
    "subjects": "@subject_id, @name_index, substr(@data_key, 1, 12), substr(@name, 1, 12)",
    "samples": "@sample_id, @subject_id, @content, substr(@facts, 1, 12), @aside, @near, @content_index",
    "versions": "@number, @version_id, @kind, @base, substr(@facts, 1, 12)",  # theta is sealed once under its id
    "refits": "@version_id, substr(@theta, 1, 12)",
    "updates": "@update_id, @bundle_id, @base, @state, @data IS NULL",
    "unlearning": "@update_id, @state",
    "lineage": "@subject_id, @kind, @item",
    "profiles": "@subject_id, substr(@facts, 1, 12)",
    "segments": "@owner, @segment_id, substr(@body, 1, 12)",
    "statistics": "@subject_id, @sums_id, substr(@body, 1, 12)",
    "local_statistics": "@subject_id, @sums_id, substr(@body, 1, 12)",
    "secrets": "@name, substr(@body, 1, 12)",
    "audit": "@number, @at, @event, @count",
    "damage": "@number, @at, @what",
}
SAMPLES_OF_4 = ROWS["samples"].removesuffix(", @content_index")  # of a store of version 4
DIGESTS = "digests"  # the record of the sums, which does not count itself
SECURE_SECRETS = "secrets of secure rounds"  # apart from the others: the copy lacks them
MODULUS = 1 << 256
SIGNS = (("NEW.", 1), ("OLD.", -1))

Sums = dict[str, bytes]  # 32 bytes by table


class StoredDigests(msgspec.Struct, frozen=True):
    """The digests by table, and the session of writing that stored them."""

    session: int
    sums: Sums


STORED = msgpack_record(DIGESTS, StoredDigests, made_again=True)


class RowDigests:
    """The digests of an open store. `save` is called before each commit that changes a row, with the sums before it.

    follow: whether rows change here; of a store that is only read they do not.
    """

    def __init__(self, database: Database, key: bytes, *, follow: bool = True) -> None:
        self.save: Callable[[Sums], None] | None = None
        self._hash = keyed_hash(key)
        self._sums = dict.fromkeys([*ROWS, SECURE_SECRETS], 0)
        self._before: dict[str, int] | None = None  # this transaction, once it has changed a row
        for table, columns in ROWS.items():
            for row in database.each(f"SELECT {columns.replace('@', '')} FROM {table}"):
                self._change(1, table, *row)
        self._before = None
        if follow:
            self._follow(database)

    def _follow(self, database: Database) -> None:
        database.connection.create_function("row_changed", -1, self._change)
        database.rows("PRAGMA recursive_triggers = ON")  # a row that another replaces is removed too
        for table, columns in ROWS.items():
            added, removed = (f"SELECT row_changed({n}, '{table}', {columns.replace('@', at)});" for at, n in SIGNS)
            for event, body in (("INSERT", added), ("DELETE", removed), ("UPDATE", removed + added)):
                trigger = f"{table}_{event} AFTER {event} ON main.{table} BEGIN {body} END"
                database.rows(f"CREATE TEMP TRIGGER {trigger}")
        database.before_commit, database.after_transaction = self._save, self._end

    def _change(self, sign: int, table: str, *row: Any) -> None:
        if table == "secrets":
            if row[0] == DIGESTS:
                return
            table = SECURE_SECRETS if row[0].startswith(SECURE) else table
        if self._before is None:
            self._before = self._sums.copy()
        self._sums[table] += sign * int.from_bytes(self._digest(table, row), "big")

    def _digest(self, name: str, value: object) -> bytes:
        return _digest(self._hash, name, value)

    def _save(self) -> None:
        if self._before is not None and self.save is not None:
            self.save(_packed(self._before))

    def _end(self, committed: bool) -> None:
        if self._before is not None and not committed:
            self._sums = self._before
        self._before = None

    @property
    def sums(self) -> Sums:
        """The digest of each table that is not empty."""
        return _packed(self._sums)

    def state(self, sums: Sums | None = None) -> str:
        """One keyed digest of all sums, hexadecimal: of the present ones, or of these."""
        return state_of(self._hash, self.sums if sums is None else sums)


def keyed_hash(key: bytes) -> blake2b:
    """The hash of a digest key."""
    return blake2b(key=key, digest_size=32)


def state_of(keyed: blake2b, sums: Sums) -> str:
    """One keyed digest of all sums, hexadecimal."""
    return _digest(keyed, "state", sums).hex()


def sum_of(keyed: blake2b, database: Database, table: str, columns: str) -> Sums:
    """The digest of these columns of one table, where it is not empty."""
    rows = database.each(f"SELECT {columns.replace('@', '')} FROM {table}")
    return _packed({table: sum(int.from_bytes(_digest(keyed, table, tuple(row)), "big") for row in rows)})


def _digest(keyed: blake2b, name: str, value: object) -> bytes:
    keyed = keyed.copy()
    keyed.update(msgspec.msgpack.encode((name, value), order="sorted"))
    return keyed.digest()


def _packed(sums: dict[str, int]) -> Sums:
    return {table: (number % MODULUS).to_bytes(32, "big") for table, number in sums.items() if number}
