"""Personal theta in the store, by segment and owner, sealed with the owner's key and then with the device's.

Forgetting the owner destroys it whatever copies there are. Others may have entered the theta it was trained from:
forgetting one of them removes the profile and draws a new device key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from homeroom.store.context import StoreContext
from homeroom.store.encryption import open_twice, seal_twice
from homeroom.store.records import StoredProfile


def put_profile(
    context: StoreContext,
    name: str,
    facts: Mapping[str, Any],
    segments: Mapping[str, np.ndarray],
    subjects: Iterable[str],
) -> None:
    """Stores a person's profile in place of the one before.

    name: the person, who is a subject.
    facts: anything that JSON can hold.
    segments: float32 [size] by segment_id.
    subjects: whose samples entered it.
    """
    database, device = context.database, context.keys.device
    with context.step("profile", len(segments)):
        owner = context.keys.find_or_make(name)
        remove_profile(context, owner.subject_id)
        encoded = msgspec.json.encode({**facts, "segments": sorted(segments)})
        sealed = seal_twice(device, owner.cipher, encoded, "profiles.facts", owner.subject_id)
        database.write("INSERT INTO profiles VALUES (?, ?)", (owner.subject_id, sealed))
        for segment_id, values in segments.items():
            data = np.ascontiguousarray(values, np.float32).tobytes()
            sealed = seal_twice(device, owner.cipher, data, "segments.body", f"{owner.subject_id}/{segment_id}")
            database.write("INSERT INTO segments VALUES (?, ?, ?)", (owner.subject_id, segment_id, sealed))
        context.link("profile", str(owner.subject_id), {name, *subjects})


def read_profile(context: StoreContext, name: str) -> StoredProfile | None:
    """A person's profile; None if there is none, or a part of it was lost to damage."""
    owner, device, database = context.keys.find(name), context.keys.device, context.database
    if owner is None:
        return None
    row = database.one("SELECT facts FROM profiles WHERE subject_id = ?", (owner.subject_id,))
    if row is None:
        return None
    facts = msgspec.json.decode(open_twice(device, owner.cipher, row[0], "profiles.facts", owner.subject_id))
    segments = {}
    for segment_id, body in database.rows("SELECT segment_id, body FROM segments WHERE owner = ?", (owner.subject_id,)):
        data = open_twice(device, owner.cipher, body, "segments.body", f"{owner.subject_id}/{segment_id}")
        segments[segment_id] = np.frombuffer(data, np.float32).copy()
    if sorted(segments) != facts.pop("segments"):
        return None
    return StoredProfile(name, facts, segments, context.linked("profile", str(owner.subject_id)))


def remove_profile(context: StoreContext, owner: int) -> None:
    """Removes a person's profile; inside a step."""
    for sql in DELETE_PROFILE:
        context.database.write(sql, (str(owner),))


DELETE_PROFILE = (
    "DELETE FROM segments WHERE owner = ?",
    "DELETE FROM profiles WHERE subject_id = ?",
    "DELETE FROM lineage WHERE kind = 'profile' AND item = ?",
)
