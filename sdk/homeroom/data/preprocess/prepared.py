"""Prepared inputs: one input's arrays and the number of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prepared:
    """One input. `arrays`: by the graph's input name, without batch axis, texts unpadded. `tokens`: without padding."""

    arrays: Mapping[str, np.ndarray]
    tokens: int


def smallest_bucket(buckets: Sequence[int], length: int) -> int:
    """The smallest bucket of at least `length` tokens, else the largest; buckets: ascending."""
    return next((size for size in buckets if size >= length), buckets[-1])
