"""What preprocessing hands on: one input's arrays and how many tokens of its features count; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prepared:
    """`arrays` by the name of the graph's input, no batch axis (text unpadded); `tokens` that are not padding."""

    arrays: Mapping[str, np.ndarray]
    tokens: int


def smallest_bucket(buckets: Sequence[int], length: int) -> int:
    """The smallest bucket that holds `length`, else the largest."""
    return next((size for size in buckets if size >= length), buckets[-1])
