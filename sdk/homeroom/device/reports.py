"""The report of a training, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeroom.device.profiles import Profile
from homeroom.device.resources.plan import TrainingPlan
from homeroom.federation.make_update import UpdateCode
from homeroom.train.judged import Judged


@dataclass(frozen=True)
class TrainReport:
    """One call of `train`. `scores` are on the validation subjects, if any; `left_out` samples lack features.

    `finished` is False where the budget ended first: the best so far is in use, and the next call goes on from there;
    `stopped` then says which limit it was. `megabytes` is the most memory that was in use; `plan` predicted it.
    `solved_weights`: of solved heads beside theta by task, from 0 to 1; they answered `solved_seconds` after the start.
    """

    version_id: str
    samples: int
    left_out: int
    epochs: int
    best_epoch: int
    finished: bool
    seconds: float
    feature_seconds: float
    scores: Mapping[str, Any] = field(default_factory=dict)
    update: str = "not enrolled"  # "queued", or why there is none
    update_code: UpdateCode = "not_enrolled"
    resumed: bool = False
    stopped: str = ""
    megabytes: float = 0.0
    plan: TrainingPlan | None = None
    by_language: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # scores, where there are several
    profile: Profile | None = None  # of a training for one person; nothing else changed then
    worse: bool = False  # clearly worse on the validation subjects than the version in use before
    settled_after: int | None = None  # epochs, after which the heads alone moved
    solved_weights: Mapping[str, float] = field(default_factory=dict)
    solved_seconds: float | None = None
    worse_tasks: Mapping[str, str] = field(default_factory=dict)  # what one part alone answers clearly better, and how
    unsolved: str = ""  # why no heads are solved, where the bundle has statistics
    judged: Mapping[str, Judged] = field(default_factory=dict)  # by task, the samples behind its figures
    by_input: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # scores of theta by task and single slot
    # theta alone on validation samples by task and label, beside the version before; LabelScore
    by_label: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fitted: str = ""  # from how many samples the theta that answers was fitted, in words
    notes: Sequence[str] = ()  # what the figures do not say: one label alone, too few samples, a training cut short
