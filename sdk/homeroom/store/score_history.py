"""What was trained and installed here, with the scores of each training: figures that outlive their versions of theta.

A training's figures go with what `forget` or `remove` takes of any subject that entered it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from homeroom.data.tasks.metrics import Score
from homeroom.store.context import StoreContext
from homeroom.store.device_state import RecordStore, msgpack_record
from homeroom.system import clock

KEPT_ENTRIES = 100


class PastTraining(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A training, or an install of a bundle.

    at: when, ISO 8601. bundle: its name and version, in words. version_id: of theta; empty of an install.
    base: the global version that it was trained from. samples: that it learned from or kept to judge by.
    scores: by task, on the samples that it kept to judge by. subjects: numbers of those whose samples entered.
    """

    at: str
    kind: Literal["training", "install"]
    bundle: str
    version_id: str = ""
    base: int = 0
    samples: int = 0
    scores: dict[str, Score] = {}
    subjects: tuple[int, ...] = ()


PAST = msgpack_record("past_trainings", tuple[PastTraining, ...])


def past_trainings(store: RecordStore) -> tuple[PastTraining, ...]:
    """Those that are kept, the oldest first."""
    return PAST.read(store) or ()


def note_past(context: StoreContext, entry: PastTraining, subjects: Iterable[str] = ()) -> None:
    """Keeps an entry, with its time; in place of the one of the same version. Inside a step. subjects: by name."""
    parts = {name: msgspec.structs.replace(one, parts=msgspec.UNSET) for name, one in entry.scores.items()}
    numbers = tuple(context.keys.ids(subjects))
    entry = msgspec.structs.replace(entry, at=clock.timestamp(), scores=parts, subjects=numbers)
    others = [one for one in past_trainings(context) if not entry.version_id or one.version_id != entry.version_id]
    PAST.write(context, tuple([*others, entry][-KEPT_ENTRIES:]))


def drop_past_of(context: StoreContext, subject_id: int) -> None:
    """Removes the trainings that a subject entered; inside a step."""
    known = past_trainings(context)
    kept = tuple(one for one in known if subject_id not in one.subjects)
    if kept != known:
        PAST.write(context, kept or None)
