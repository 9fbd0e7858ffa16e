"""Records that the store returns, as frozen data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class StoredVersion:
    """One theta in the store. `base`: the global version it is (global) or was trained from (local)."""

    version_id: str
    kind: Literal["local", "global"]
    base: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class StoredUpdate:
    """An update as it was signed; `base` is the global version that it answers."""

    update_id: str
    base: int
    data: bytes


@dataclass
class AddReport:
    """What adding did beside storing.

    corrected: by what changed, how many of the `corrected_samples` that were held.
    continued, interactions: how many histories went on, and by how many interactions. cut: how many of the oldest
    interactions of joined histories went, beyond what one holds.
    apart: by whose history did not go on, the id of the sample that it lies beside.
    stale_labels: how many came with labels that were corrected since, which hold no more.
    other_labels: how many were stored beside one with the same inputs and other labels, as nobody is named.
    """

    corrected: Counter[str] = field(default_factory=Counter)
    corrected_samples: int = 0
    continued: int = 0
    interactions: int = 0
    cut: int = 0
    apart: dict[str, str] = field(default_factory=dict)
    stale_labels: int = 0
    other_labels: int = 0


@dataclass(frozen=True)
class ConsentReport:
    """Samples whose consent was set; where it was refused or withdrawn, unsent updates with their subjects dropped."""

    samples: int
    subjects: int
    unsent_updates: int = 0


@dataclass(frozen=True)
class ForgetReport:
    """What `forget` removed, counted; `unlearning`: ids of updates already sent, whose removal is now asked for.

    labels: this device's own personal labels that no sample has any more, "task: label", which went too.
    subtracting: whether statistics that were sent hold the subject, and are taken away with a sync to come.
    """

    samples: int = 0
    versions: int = 0
    unsent_updates: int = 0
    unlearning: tuple[str, ...] = ()
    profiles: int = 0  # the subject's own, and those of others that grew from a theta with the subject in it
    subtracting: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoveReport:
    """What removing samples removed, counted; versions, updates and profiles are those that their subjects entered."""

    samples: int
    subjects: int
    versions: int = 0
    unsent_updates: int = 0
    profiles: int = 0
    unlearning: tuple[str, ...] = ()


@dataclass(frozen=True)
class VoidReport:
    """What went since it was learned on versions that are void, counted: trainings, unsent updates, profiles."""

    trainings: int = 0
    updates: int = 0
    profiles: int = 0

    def plus(self, other: VoidReport) -> VoidReport:
        """Both together."""
        trainings, updates = self.trainings + other.trainings, self.updates + other.updates
        return VoidReport(trainings, updates, self.profiles + other.profiles)


@dataclass(frozen=True)
class StoredProfile:
    """One person's own theta. `segments`: float32 [size] by segment_id; `subjects`: who entered it, the owner too."""

    subject: str
    facts: dict[str, Any]
    segments: dict[str, np.ndarray]
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Export:
    """All that is held about one subject. `authored`: how many samples about others they wrote."""

    subject: str
    samples: tuple[Any, ...]
    versions: tuple[str, ...]
    updates: tuple[str, ...]
    cached_features: int
    profile: StoredProfile | None = None
    authored: int = 0
