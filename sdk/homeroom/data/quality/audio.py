"""Quality gate of sounds: too short, silent, of too low a rate, or clipped."""

from __future__ import annotations

import numpy as np

from homeroom.contract.manifest import AudioPreprocess
from homeroom.data.preprocess.audio import window
from homeroom.data.quality.finding import QualityFinding

FRAME_S = 0.05  # window of a loudness measurement
SILENT_DB = -50.0  # relative to full scale, of the loudest frame
CLIPPING_LEVEL = 0.985  # of full scale, from which a sample counts as clipped
# Recordings for classrooms are often mixed so loud that a tenth of their samples is clipped, and are understood.
MOST_CLIPPED_SHARE = 0.25
SHORTEST_S = 0.1
LEAST_RATE_SHARE = 0.45  # of the model's rate; below it most of speech is missing


def assess(wave: np.ndarray, rate: int, spec: AudioPreprocess) -> QualityFinding | None:
    """Returns why a sound is poor, or None; wave: float32 [n] in [-1, 1]."""
    if len(wave) < SHORTEST_S * rate:
        return QualityFinding(f"only {len(wave) / rate:.2f} s long", empty=True)
    start, end = window(spec, wave, rate)
    loudest = loudest_db(wave[start:end], rate)
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
    """Share of samples in runs of at least three at full scale; wave: float32 [n] in [-1, 1]."""
    clipped = np.abs(wave) >= CLIPPING_LEVEL
    if len(clipped) < 3:
        return 0.0
    starts = clipped[:-2] & clipped[1:-1] & clipped[2:]
    in_run = np.zeros(len(clipped), bool)
    for shift in range(3):
        in_run[shift : shift + len(starts)] |= starts
    return float(in_run.mean())
