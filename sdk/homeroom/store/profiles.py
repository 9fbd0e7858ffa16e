"""Personal theta in the store: by (segment, owner), under the owner's key and then the device's; imports opened only.

The owner's key, so that forgetting the owner destroys it whatever copies there are. The device's key on top, because
what it was trained from may hold others too: forgetting one of them removes the profile and draws a new device key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from homeroom.store.context import Opened
from homeroom.store.encryption import open_twice, seal_twice
from homeroom.store.records import StoredProfile


def put_profile(
    opened: Opened, name: str, facts: Mapping[str, Any], segments: Mapping[str, np.ndarray], subjects: Iterable[str]
) -> None:
    """Store a person's facts and float32 [size] by segment_id, in place of what was there; subjects: who entered it."""
    database, device = opened.database, opened.keys.device
    with opened.step("profile", len(segments)):
        owner = opened.keys.find_or_make(name)
        remove_profile(opened, owner.subject_id)
        known = msgspec.json.encode({**facts, "segments": sorted(segments)})
        sealed = seal_twice(device, owner.cipher, known, "profiles.facts", owner.subject_id)
        database.write("INSERT INTO profiles VALUES (?, ?)", (owner.subject_id, sealed))
        for segment_id, values in segments.items():
            data = np.ascontiguousarray(values, np.float32).tobytes()
            sealed = seal_twice(device, owner.cipher, data, "segments.body", f"{owner.subject_id}/{segment_id}")
            database.write("INSERT INTO segments VALUES (?, ?, ?)", (owner.subject_id, segment_id, sealed))
        rows = [(subject_id, str(owner.subject_id)) for subject_id in opened.keys.ids({name, *subjects})]
        database.write_many("INSERT OR IGNORE INTO lineage VALUES (?, 'profile', ?)", rows)


def read_profile(opened: Opened, name: str) -> StoredProfile | None:
    """A person's profile; None if there is none, or a part of it was lost to damage."""
    owner, device, database = opened.keys.find(name), opened.keys.device, opened.database
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
    sql = "SELECT subject_id FROM lineage WHERE kind = 'profile' AND item = ?"
    entered = {found[0] for found in database.rows(sql, (str(owner.subject_id),))}
    subjects = tuple(subject.name for subject in opened.keys.all() if subject.subject_id in entered)
    return StoredProfile(name, facts, segments, subjects)


def remove_profile(opened: Opened, owner: int) -> None:
    """Inside a step."""
    for sql in REMOVE:
        opened.database.write(sql, (str(owner),))


REMOVE = (
    "DELETE FROM segments WHERE owner = ?",
    "DELETE FROM profiles WHERE subject_id = ?",
    "DELETE FROM lineage WHERE kind = 'profile' AND item = ?",
)
