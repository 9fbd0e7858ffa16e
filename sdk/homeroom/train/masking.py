"""Inputs with a random part hidden, for objectives that learn without a label; numpy only.

The graphs hold no randomness: what is hidden is drawn here, and the graph sees both, the whole and the rest.
"""

from __future__ import annotations

import numpy as np

MASKED_SHARE = 0.3  # share of an input's tokens, or of the values of an input of one token


def augmented(features: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """features int8 [rows, count, taps, tokens, dim] with some tokens all zero; at least one of each input stays.

    Where every input is one token (a table's row), single values of it are zero instead. mask: [rows, count, tokens].
    """
    if features.shape[3] == 1:
        return np.asarray(features * (rng.random(features.shape) >= MASKED_SHARE))
    chance = np.where(mask > 0, rng.random(mask.shape), -1.0)
    shown = (chance >= MASKED_SHARE) | (chance == chance.max(-1, keepdims=True))
    return np.asarray(features * shown[:, :, None, :, None])
