"""Masks a random part of the inputs, for objectives that learn without a label.

The graphs hold no randomness: the mask is drawn here, and a graph reads both, the input and its masked copy.
"""

from __future__ import annotations

import numpy as np

MASKED_SHARE = 0.3  # of an input's tokens, or of the values of an input of one token


def augmented(features: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The features with some tokens all zero; at least one token of each input stays.

    Where every input is one token (a table's row), single values are zero instead.

    features: int8 [rows, count, taps, tokens, dim]
    mask: [rows, count, tokens], above 0 where there is a token
    """
    if features.shape[3] == 1:
        return np.asarray(features * (rng.random(features.shape) >= MASKED_SHARE))
    draws = np.where(mask > 0, rng.random(mask.shape), -1.0)
    shown = (draws >= MASKED_SHARE) | (draws == draws.max(-1, keepdims=True))
    return np.asarray(features * shown[:, :, None, :, None])
