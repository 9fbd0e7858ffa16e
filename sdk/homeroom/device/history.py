"""The history of a device: past installs and trainings, with the scores by task of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from homeroom.data.tasks.metrics import Score
from homeroom.store import Store
from homeroom.store.score_history import KEPT_ENTRIES, past_trainings

EVENTS = {"train": "trained", "bundle": "installed"}  # of the audit log, which earlier releases wrote too


@dataclass(frozen=True)
class HistoryEntry:
    """A training or an install.

    at: when, ISO 8601. what: "trained" or "installed". bundle: in words; empty where that is not kept.
    samples: that it learned from or kept to judge by; None of an install. base: the global version it began from.
    scores: by task, on the samples that it kept to judge by, which differ from one training to another.
    in_use: whether it answers now. held: whether its theta is still here.
    """

    at: str
    what: str
    bundle: str = ""
    samples: int | None = None
    base: int | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)
    in_use: bool = False
    held: bool = False


@dataclass(frozen=True)
class History:
    """The newest entries, the oldest first. since: from when on scores are kept, ISO 8601; empty where none are yet."""

    entries: Sequence[HistoryEntry]
    since: str


def device_history(store: Store) -> History:
    """What is known of past installs and trainings; of those before scores were kept, what the audit log says."""
    with store.at_rest():
        known, current = past_trainings(store), store.versions.current()
        held = {version.version_id for version in store.versions.all()}
        audit = store.audit()
    since = known[0].at if known else ""
    entries = [
        HistoryEntry(row["at"], EVENTS[row["event"]], samples=row["count"])
        for row in audit
        if row["event"] in EVENTS and (not since or row["at"] < since)
    ]
    for one in known:
        trained = one.kind == "training"
        entries.append(
            HistoryEntry(
                at=one.at,
                what="trained" if trained else "installed",
                bundle=one.bundle,
                samples=one.samples if trained else None,
                base=one.base if trained else None,
                scores=one.scores,
                in_use=bool(current and one.version_id and one.version_id == current.version_id),
                held=one.version_id in held,
            )
        )
    return History(entries[-KEPT_ENTRIES:], since)
