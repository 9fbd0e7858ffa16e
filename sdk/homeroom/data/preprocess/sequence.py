"""A person's interactions (skill, right or wrong, perhaps when) as one token each; numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from homeroom.contract.manifest import SequencePreprocess
from homeroom.data.preprocess.prepared import Prepared

START_COLUMN, GAP_COLUMN, FIRST_SKILL_COLUMN = (
    0,
    1,
    2,
)  # columns of a token; from the last on, wrong and right of each skill
YEAR_S = 365 * 86_400

Interaction = tuple[str, bool, float | None]  # skill, right, seconds from any moment on


def prepare(spec: SequencePreprocess, history: Sequence[Interaction], limit: int) -> Prepared:
    """`steps` float32 [n, width], as `SequencePreprocess` says; of more than fit in `limit` tokens the last."""
    kept = history[-limit:] if len(history) >= limit else history
    start = len(kept) < limit
    steps = np.zeros((len(kept) + start, spec.width), np.float32)
    steps[: int(start), START_COLUMN] = 1.0
    before: float | None = None
    for token, (skill, right, time_s) in zip(steps[int(start) :], kept, strict=True):
        if time_s is not None and before is not None:
            token[GAP_COLUMN] = min(1.0, math.log1p(max(0.0, time_s - before)) / math.log1p(YEAR_S))
        before = time_s
        token[FIRST_SKILL_COLUMN + 2 * spec.skills.index(skill) + bool(right)] = 1.0
    return Prepared({"steps": steps}, len(steps))


def collate(prepared: Sequence[Prepared], length: int) -> dict[str, np.ndarray]:
    """`steps` float32 [batch, length, width]."""
    steps = np.zeros((len(prepared), length, prepared[0].arrays["steps"].shape[1]), np.float32)
    for row, one in enumerate(prepared):
        steps[row, : one.tokens] = one.arrays["steps"]
    return {"steps": steps}


def next_answers(steps: np.ndarray) -> np.ndarray:
    """float32 [n, skills]: at each token of `steps` [n, width], 1 or -1 for the skill of the next, right or wrong.

    Zeros at the last token, and where an interaction is unknown.
    """
    answered = np.sign(steps[1:, FIRST_SKILL_COLUMN:]).reshape(len(steps) - 1, -1, 2).astype(np.float32)
    found = np.zeros((len(steps), answered.shape[1]), np.float32)
    found[:-1] = answered[:, :, 1] - answered[:, :, 0]
    return found
