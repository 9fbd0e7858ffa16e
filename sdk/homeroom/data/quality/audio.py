"""Sounds: silent, clipped, too short, or of too low a rate; numpy and the decoder of `preprocess`."""

from __future__ import annotations

import numpy as np

from homeroom.contract.manifest import AudioPreprocess
from homeroom.data.preprocess.audio import decode
from homeroom.data.quality.finding import QualityFinding

FRAME_S = 0.05  # over which loudness is measured
SILENT_DB = -50.0  # relative to full scale: the loudest frame of a silent clip is below
CLIPPING_LEVEL = 0.985  # of full scale: where a sample counts as clipped
# Share of samples at full scale, in runs of three and more, of a clipped clip. Recordings for classrooms are often
# mixed so loud that a tenth of them is there, and are understood.
MOST_CLIPPED_SHARE = 0.25
SHORTEST_S = 0.1
LEAST_RATE_SHARE = 0.45  # share of the rate that the model listens at: below, most of speech is missing


def assess(data: bytes, spec: AudioPreprocess) -> QualityFinding | None:
    wave, rate = decode(data)
    if len(wave) < SHORTEST_S * rate:
        return QualityFinding(f"only {len(wave) / rate:.2f} s long", empty=True)
    loudest = loudest_db(wave[: int(spec.samples / spec.rate * rate)], rate)
    if loudest < SILENT_DB:
        return QualityFinding(f"silent (at most {loudest:.0f} dB of full scale)", empty=True)
    if rate < LEAST_RATE_SHARE * spec.rate:
        return QualityFinding(f"recorded at {rate} Hz, while the model listens at {spec.rate} Hz")
    if (share := clipped_share(wave)) > MOST_CLIPPED_SHARE:
        return QualityFinding(f"clipped ({share:.0%} of it at full scale)")
    return None


def loudest_db(wave: np.ndarray, rate: int) -> float:
    """Root mean square of the loudest frame, in decibels relative to full scale; wave: float32 [n] in [-1, 1]."""
    size = max(1, min(len(wave), int(FRAME_S * rate)))
    frames = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    return float(10 * np.log10(max(np.square(frames).mean(1).max(), 1e-12)))


def clipped_share(wave: np.ndarray) -> float:
    """Share of samples that lie in runs of at least three at full scale."""
    full = np.abs(wave) >= CLIPPING_LEVEL
    if len(full) < 3:
        return 0.0
    middle = full[:-2] & full[1:-1] & full[2:]
    inside = np.zeros(len(full), bool)
    for shift in range(3):
        inside[shift : shift + len(middle)] |= middle
    return float(inside.mean())
