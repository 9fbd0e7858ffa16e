"""Digests of the rows across a migration, which changes rows of `samples` before edits are looked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import msgspec

from homeroom.errors import BrokenSealError
from homeroom.store.data_keys import DataKeys
from homeroom.store.master_keys import KeyRing
from homeroom.store.row_digests import DIGESTS, ROWS, SAMPLES_OF_4, STORED, StoredDigests, keyed_hash, state_of, sum_of
from homeroom.system.sqlite import Database


@contextlib.contextmanager
def carried_digests(database: Database, key_ring: KeyRing, put_key_ring: Callable[[KeyRing], None]) -> Iterator[None]:
    """Inside a transaction: stores the digest of the samples as they are afterwards, as a session of writing would.

    What was edited before is not covered up: where the digests are of another state than the key ring knows, or the
    samples of another than the digests, they stay as they are, and the opening that follows finds it.
    """
    stored = _read(database, key_ring)
    if stored is None or not key_ring.digest_key:
        yield
        return
    keyed = keyed_hash(bytes.fromhex(key_ring.digest_key))
    in_session = key_ring.writing and stored.session == key_ring.session
    holds = in_session or state_of(keyed, stored.sums) == key_ring.digest_state
    before = sum_of(keyed, database, "samples", SAMPLES_OF_4)
    yield
    if not holds or stored.sums.get("samples") != before.get("samples"):
        return
    if not key_ring.writing:
        key_ring = msgspec.structs.replace(key_ring, session=key_ring.session + 1, writing=True)
        put_key_ring(key_ring)
    sums = {table: digest for table, digest in stored.sums.items() if table != "samples"}
    body = STORED.encode(StoredDigests(key_ring.session, sums | sum_of(keyed, database, "samples", ROWS["samples"])))
    sealed = DataKeys(database, key_ring).device.seal(body, "secrets", DIGESTS)
    database.write("INSERT OR REPLACE INTO secrets VALUES (?, ?)", (DIGESTS, sealed))


def _read(database: Database, key_ring: KeyRing) -> StoredDigests | None:
    row = database.one("SELECT body FROM secrets WHERE name = ?", (DIGESTS,))
    with contextlib.suppress(BrokenSealError, ValueError):
        return STORED.decode(DataKeys(database, key_ring).device.open(row[0], "secrets", DIGESTS)) if row else None
    return None
