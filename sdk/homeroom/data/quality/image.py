"""Quality gate of pictures: too dark, burnt out, without content, or blurred."""

from __future__ import annotations

import numpy as np
from PIL import Image

from homeroom.data.quality.finding import QualityFinding

MEASURED_SIDE_PIXELS = 224  # longer side at which all is measured, about what a backbone sees
DARK_LEVEL = 25.0  # of 255: 99 % of a dark picture's pixels are below
BURNT_OUT_LEVEL = 249.0  # of 255: 99.9 % of a burnt-out or empty picture's pixels reach it
LEAST_SPREAD = 1.5  # standard deviation of the grey levels; below it there is no content
MOST_BLUR_EFFECT = 0.8
BLUR_WINDOW_PIXELS = 11
LEAST_EDGE = 0.15  # share of the contrast by which the steepest edge rises from a pixel to the next, at either size
EDGE_SIDES_PIXELS = (224, 56)  # fine texture shows in the one, edges that only look soft when enlarged in the other
EDGE_SHARE = 0.001  # of the pixels, or steps, that are brighter, darker or steeper: single ones tell nothing


def assess(picture: Image.Image) -> QualityFinding | None:
    """Returns why a picture is poor, or None."""
    grey = _greyscale(picture)
    empty = float(grey.std()) < LEAST_SPREAD
    if float(np.quantile(grey, 0.99)) < DARK_LEVEL:
        return QualityFinding(f"too dark (99 % of the pixels are below {DARK_LEVEL:g} of 255)", empty)
    if float(np.quantile(grey, 0.001)) >= BURNT_OUT_LEVEL:
        return QualityFinding(
            f"burnt out or empty (99.9 % of the pixels are at {BURNT_OUT_LEVEL:g} of 255 or above)", empty=True
        )
    if empty:
        return QualityFinding(f"without content (its grey levels spread by less than {LEAST_SPREAD:g} of 255)", empty)
    effect = blur_effect(grey)
    if effect > MOST_BLUR_EFFECT:
        return QualityFinding(f"blurred (blur effect {effect:.2f}, over {MOST_BLUR_EFFECT:g})")
    steepest = max(edge_steepness(grey, side) for side in EDGE_SIDES_PIXELS)
    if steepest < LEAST_EDGE:
        return QualityFinding(f"blurred (no edge rises by {LEAST_EDGE:.0%} of the contrast within a pixel)")
    return None


def edge_steepness(grey: np.ndarray, side: int) -> float:
    """Steepest rise between neighbouring pixels, as a share of the contrast; 0 where there is none.

    It sees what the blur effect does not: in a picture that is very blurred whole numbers make steps of the slopes,
    which a further blur takes away. grey: float32 [height, width]. side: to which the longer side is reduced, pixels.
    """
    factor = max(1, min(round(max(grey.shape) / side), *grey.shape))
    height, width = (size // factor for size in grey.shape)
    cut = grey[: height * factor, : width * factor].astype(np.float64)
    small = cut.reshape(height, factor, width, factor).mean((1, 3))
    contrast = float(np.quantile(small, 1 - EDGE_SHARE) - np.quantile(small, EDGE_SHARE))
    rises = [np.abs(np.diff(small, axis=axis)) for axis in (0, 1) if small.shape[axis] > 1]
    return (
        max((float(np.quantile(rise, 1 - EDGE_SHARE)) for rise in rises), default=0.0) / contrast if contrast else 0.0
    )


def blur_effect(grey: np.ndarray) -> float:
    """Share of neighbouring differences that survives a further blur, 0 (sharp) to 1, the worse of both directions.

    Crete et al. 2007, "The Blur Effect: Perception and Estimation with a New No-Reference Perceptual Blur Metric",
    equations 1 to 6. grey: float32 [height, width], 0 to 255.
    """
    worst = 0.0
    for axis in (0, 1):
        if grey.shape[axis] <= BLUR_WINDOW_PIXELS:
            continue
        before = np.abs(np.diff(grey, axis=axis))
        after = np.abs(np.diff(_running_mean(grey, axis), axis=axis))
        total = float(before.sum())
        lost = float(np.maximum(0.0, before - after).sum())
        worst = max(worst, (total - lost) / total if total else 1.0)
    return worst


def _running_mean(grey: np.ndarray, axis: int) -> np.ndarray:
    """Running mean over BLUR_WINDOW_PIXELS along an axis, edges repeated."""
    half = BLUR_WINDOW_PIXELS // 2
    padding = [(half + 1, half) if a == axis else (0, 0) for a in (0, 1)]
    sums = np.cumsum(np.pad(grey.astype(np.float64), padding, mode="edge"), axis=axis)
    ahead = np.take(sums, np.arange(BLUR_WINDOW_PIXELS, sums.shape[axis]), axis=axis)
    behind = np.take(sums, np.arange(sums.shape[axis] - BLUR_WINDOW_PIXELS), axis=axis)
    return np.asarray((ahead - behind) / BLUR_WINDOW_PIXELS)


def _greyscale(picture: Image.Image) -> np.ndarray:
    """Grey levels float32 [height, width], 0 to 255; a smaller picture is not enlarged, since that would blur it."""
    scale = MEASURED_SIDE_PIXELS / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture.convert("L"), np.float32)
