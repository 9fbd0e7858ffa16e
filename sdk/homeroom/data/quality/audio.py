"""Quality gate of sounds: too short, silent, quiet, of too low a rate, clipped, or drowned in noise."""

from __future__ import annotations

import numpy as np

from homeroom.contract.manifest import AudioPreprocess
from homeroom.data.preprocess.audio import window
from homeroom.data.quality.finding import QualityFinding

FRAME_S = 0.05  # window of a loudness measurement
SILENT_DB = -50.0  # relative to full scale, of the loudest frame
CLIPPING_LEVEL = 0.985  # of full scale, from which a sample counts as clipped
QUIET_DB = -38.0  # as SILENT_DB; speech of 500 recordings for lessons lies at -31 and above
LEAST_NOISE_RATIO_DB = 1.5  # of all that is no even noise over that noise
SPECTRUM_S = 0.064  # window of a spectrum: harmonics of a voice stand apart in it
NOISE_SHARE = 0.3  # of the time, at least, nobody speaks at a frequency
NEIGHBOURS = 12  # bins to each side, over which noise is even and a tone is not
# Recordings for classrooms are often mixed so loud that a tenth of their samples is clipped, and are understood.
MOST_CLIPPED_SHARE = 0.25
SHORTEST_S = 0.1
LEAST_RATE_SHARE = 0.45  # of the model's rate; below it most of speech is missing


def assess(wave: np.ndarray, rate: int, spec: AudioPreprocess) -> QualityFinding | None:
    """Returns why a sound is poor, or None; wave: float32 [n] in [-1, 1]."""
    if len(wave) < SHORTEST_S * rate:
        return QualityFinding(f"only {len(wave) / rate:.2f} s long", empty=True)
    start, end = window(spec, wave, rate)
    heard = wave[start:end] - wave[start:end].mean()  # a constant level, as of some microphones, is no sound
    loudest = loudest_db(heard, rate)
    if loudest < SILENT_DB:
        return QualityFinding(f"silent (at most {loudest:.0f} dB of full scale)", empty=True)
    if rate < LEAST_RATE_SHARE * spec.rate:
        return QualityFinding(f"recorded at {rate} Hz, while the model listens at {spec.rate} Hz")
    if (share := clipped_share(wave)) > MOST_CLIPPED_SHARE:
        return QualityFinding(f"clipped ({share:.0%} of it at full scale)")
    if loudest < QUIET_DB and not spec.normalize:  # else the model hears every sound equally loud
        return QualityFinding(f"quiet (at most {loudest:.0f} dB of full scale)")
    if (ratio := noise_ratio_db(heard, rate)) < LEAST_NOISE_RATIO_DB:
        return QualityFinding(f"drowned in noise (the rest is at {ratio:+.0f} dB of it)")
    return None


def noise_ratio_db(wave: np.ndarray, rate: int) -> float:
    """Power of all that is no even noise over that noise's, in decibels, -30 to 300; wave: float32 [n] in [-1, 1].

    The noise of a frequency is told by a low quantile of its power over time (as in minimum statistics, Martin 2001),
    and of these by the median over its neighbours, which leaves tones and voices out. It holds for noise that lasts
    and has no pitch; of other people's speech it sees little.
    """
    size = min(len(wave), 1 << (int(SPECTRUM_S * rate) - 1).bit_length())
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), size)[:: max(1, size // 4)]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)))
    usual = np.pad(np.quantile(power, NOISE_SHARE, axis=0), NEIGHBOURS, mode="edge")
    noise = np.median(np.lib.stride_tricks.sliding_window_view(usual, 2 * NEIGHBOURS + 1), axis=1).sum()
    # The power of noise is exponentially distributed: so far below its mean lies that quantile.
    ratio = power.mean(0).sum() * -np.log(1 - NOISE_SHARE) / max(float(noise), 1e-30) - 1
    return float(10 * np.log10(np.clip(ratio, 1e-3, 1e30)))


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
