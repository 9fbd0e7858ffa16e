"""How an update's values travel: exact fixed point, so that sums are the same in any order; numpy only.

`fixed32`: int32 = round(value * 2**scale_bits), half to even. Lossy codecs join here and are brought to the same
integers before anything is summed.
"""

from __future__ import annotations

import numpy as np

from homeroom.errors import UpdateError

LIMIT = 1 << 24  # largest magnitude of one encoded value; 2**39 of them fit an int64 sum


def encode_fixed(values: np.ndarray, scale_bits: int) -> np.ndarray:
    """float32 [n] -> int32 [n]; raises UpdateError on values that are not finite or do not fit."""
    scaled = np.rint(np.asarray(values, np.float64) * 2.0**scale_bits)
    if not np.isfinite(scaled).all():
        raise UpdateError("the update holds values that are not finite", code="not_finite", remedy="train again")
    if np.abs(scaled).max(initial=0.0) > LIMIT:
        raise UpdateError(
            f"a value exceeds {LIMIT / 2**scale_bits:g}, the largest that the round's scale can hold", code="too_large"
        )
    return scaled.astype(np.int32)


def decode_fixed(encoded: np.ndarray, scale_bits: int) -> np.ndarray:
    """int32 [n] -> float64 [n], exactly."""
    return encoded.astype(np.float64) * 2.0**-scale_bits
