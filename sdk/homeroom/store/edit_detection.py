"""Edit detection: notices rows that were removed, replaced or put back by somebody without the key ring.

The digests of all rows are stored in the transaction that changes them. Their key is in the key ring, outside the
directory, with the state of the digests at the last close; a session of writing is noted there before its first commit.
So a power cut is no alarm: the store is then in the state from before the session, or in one of that session. Every
older state is one, and every edit.
"""

from __future__ import annotations

import contextlib
import secrets

from homeroom.errors import BrokenSealError, EditedError
from homeroom.store import repair
from homeroom.store.context import StoreContext
from homeroom.store.row_digests import ROWS, SECURE_SECRETS, STORED, RowDigests, StoredDigests, Sums
from homeroom.store.statistics import drop_all_sums

# An edit of any other table stops sending.
LISTED = {"samples", "subjects", "profiles", "segments", "statistics", "local_statistics", "audit", "damage"}
CHANGED = "were removed or replaced without the key"
CHANGED_OR_LOST = f"{CHANGED}, or were damaged and are lost, as the copy does not have them either"
OLDER = "older"  # in place of tables
OLDER_STORE = "an older copy of the store was put in its place, or its digests were removed"


def detect_edits(context: StoreContext, *, restored: bool) -> None:
    """Compares the rows with what the key ring knows of them, and keeps their digests from now on.

    An edit of a row that decides over sending (a policy, a ledger, a pin, an agreement, an update, a version or its
    lineage) stops sending until someone accepts the store as it is; an edit of another is listed as damage. A store
    from before there were digests is taken as it is, and its audit log says so.

    restored: whether this opening restored the store from its copy.
    """
    is_new = not context.key_ring.digest_key
    if is_new:
        context.change_key_ring(digest_key=secrets.token_hex(32))
    context.digests = digests = RowDigests(context.database, bytes.fromhex(context.key_ring.digest_key))
    stored, ring = _read(context), context.key_ring
    if not is_new and digests.state() != ring.digest_state and (stored or ring.session):
        edited, damaged = _edited_tables(context, digests, stored)
        if restored:
            edited.discard(SECURE_SECRETS)
        _judge(context, digests, edited, CHANGED_OR_LOST if damaged else CHANGED, restored)
    digests.save = lambda before: _save(context, before)
    if is_new:
        with context.step("edits are noticed from now on"):
            pass


def edits_of_snapshot(context: StoreContext) -> str:
    """What was edited in a store that is only read, in words, as the next opening finds it; empty if nothing was."""
    ring = context.key_ring
    if ring.edited or not ring.digest_key:
        return ring.edited
    stored, digests = _read(context), RowDigests(context.database, bytes.fromhex(ring.digest_key), follow=False)
    if context.master_keys.read(context.store_id) != ring:
        return ""  # a session of writing began or ended meanwhile: the ring is not of this state
    if stored is None:
        return "" if digests.state() == ring.digest_state or (ring.writing and ring.session == 1) else OLDER_STORE
    if not (ring.writing and stored.session == ring.session) and digests.state(stored.sums) != ring.digest_state:
        return OLDER_STORE
    sums = digests.sums
    edited = [t for t in (*ROWS, SECURE_SECRETS) if t not in LISTED and sums.get(t) != stored.sums.get(t)]
    return f"rows of {', '.join(edited)} {CHANGED}" if edited else ""


def _edited_tables(context: StoreContext, digests: RowDigests, stored: StoredDigests | None) -> tuple[set[str], bool]:
    """The tables with edited rows, after damage was mended, and whether there was any.

    OLDER stands in place of tables where the digests are of another state.
    """
    ring = context.key_ring
    if stored is None:  # none yet, after a power cut before the first commit
        return set() if ring.writing and ring.session == 1 else {OLDER}, False
    if not (ring.writing and stored.session == ring.session) and digests.state(stored.sums) != ring.digest_state:
        return {OLDER}, False

    def differing() -> set[str]:
        sums = digests.sums
        return {table for table in (*ROWS, SECURE_SECRETS) if sums.get(table) != stored.sums.get(table)}

    edited, logs, damaged = differing(), {"audit", "damage"}, False
    if edited - logs:
        damaged = context.mend()
        edited &= differing() | logs
    return edited, damaged


def _judge(context: StoreContext, digests: RowDigests, edited: set[str], how: str, restored: bool) -> None:
    stops, listed = sorted(edited - LISTED), sorted(edited & LISTED)
    what = f"rows of {', '.join(stops)} {how}" if stops else context.key_ring.edited
    what = OLDER_STORE if OLDER in edited else what
    context.change_key_ring(edited=what, writing=False, digest_state=digests.state())
    digests.save = lambda before: _save(context, before)
    if {"statistics", "local_statistics"} & {*listed}:  # an older row would answer with what was corrected since
        drop_all_sums(context.database)
    if listed and not restored:
        repair.note_damage(context.database, [f"rows of {', '.join(listed)} {how}"])


def _save(context: StoreContext, before: Sums) -> None:
    """Stores the digests before a commit; before the first one, the key ring notes that a session of writing begins."""
    digests, ring = context.digests, context.key_ring
    assert digests is not None  # it calls this
    if not ring.writing:
        context.change_key_ring(session=ring.session + 1, writing=True, digest_state=digests.state(before))
    STORED.write(context, StoredDigests(context.key_ring.session, digests.sums))


def _read(context: StoreContext) -> StoredDigests | None:
    with contextlib.suppress(BrokenSealError):
        return STORED.read(context)
    return None


def check_unedited(context: StoreContext) -> None:
    """Raises EditedError while an edit is not accepted."""
    if context.key_ring.edited:
        raise EditedError(context.key_ring.edited, str(context.directory))


def keep(context: StoreContext, name: str, is_there: bool) -> None:
    """Notes in the key ring that a record is there; raises EditedError where one that was noted is gone."""
    noted = name in context.key_ring.kept
    if noted and not is_there:
        raise EditedError(f"its record {name!r} was removed", str(context.directory))
    if is_there and not noted and not context.is_snapshot:
        context.change_key_ring(kept=(*context.key_ring.kept, name))


def accept_edits(context: StoreContext) -> str:
    """Accepts the store as it is; returns what had been noticed, empty if nothing was.

    Nothing tells which of the requests to unlearn were truly sent, so that all are asked again.
    """
    edited = context.key_ring.edited
    if edited:
        with context.step("accepted as it is"):
            context.database.write("UPDATE unlearning SET state = 'pending'")
        context.change_key_ring(edited="", kept=())
    return edited
