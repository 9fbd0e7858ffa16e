"""Preprocessing of interactions (skill, correct, perhaps when): one token each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from homeroom.contract.graph_io import SEQUENCE_STEPS
from homeroom.contract.manifest import SequencePreprocess
from homeroom.data.preprocess.prepared import Prepared

START_COLUMN, GAP_COLUMN, FIRST_SKILL_COLUMN = 0, 1, 2  # of a token; from the last on, wrong and right of each skill
YEAR_S = 365 * 86_400

Interaction = tuple[str, bool, float | None]  # skill, correct, seconds since any fixed moment


def prepare(spec: SequencePreprocess, history: Sequence[Interaction], limit: int) -> Prepared:
    """`steps` float32 [n, width] as in `SequencePreprocess`; of a history beyond `limit` tokens, the last ones."""
    kept = history[-limit:] if len(history) >= limit else history
    start = len(kept) < limit
    steps = np.zeros((len(kept) + start, spec.width), np.float32)
    steps[: int(start), START_COLUMN] = 1.0
    before: float | None = None
    for token, (skill, correct, time_s) in zip(steps[int(start) :], kept, strict=True):
        if time_s is not None and before is not None:
            token[GAP_COLUMN] = min(1.0, math.log1p(max(0.0, time_s - before)) / math.log1p(YEAR_S))
        before = time_s
        token[FIRST_SKILL_COLUMN + 2 * spec.skills.index(skill) + bool(correct)] = 1.0
    return Prepared({SEQUENCE_STEPS: steps}, len(steps))


def collate(prepared: Sequence[Prepared], length: int) -> dict[str, np.ndarray]:
    """`steps` float32 [batch, length, width], padded with zeros."""
    steps = np.zeros((len(prepared), length, prepared[0].arrays[SEQUENCE_STEPS].shape[1]), np.float32)
    for row, item in enumerate(prepared):
        steps[row, : item.tokens] = item.arrays[SEQUENCE_STEPS]
    return {SEQUENCE_STEPS: steps}


def next_answers(steps: np.ndarray) -> np.ndarray:
    """Targets of tracing, float32 [n]: for each token of `steps` [n, width], the skill of the next interaction.

    Its number from 1, negative where the answer is wrong; 0 at the last token, and where the interaction is unknown.
    """
    answered = np.sign(steps[1:, FIRST_SKILL_COLUMN:])
    column = answered.argmax(1)
    targets = np.zeros(len(steps), np.float32)
    targets[:-1] = answered.any(1) * (column // 2 + 1) * np.where(column % 2, 1.0, -1.0)
    return targets


def by_skill(targets: np.ndarray, skills: int) -> np.ndarray:
    """Targets of `next_answers` as graphs before bundle format 3 read them, float32 [n, skills]: 1, -1, or zeros."""
    return np.asarray((np.abs(targets)[:, None] == np.arange(1, skills + 1)) * np.sign(targets)[:, None], np.float32)
