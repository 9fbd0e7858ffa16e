"""The starter lesson's sounds: what may be heard where a kind of thing is, synthesised. Imports numpy and soundfile.

Made by this project and under its licence: a chirp for animals, drops of water for plants, an engine for vehicles,
a bell at home.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

RATE, SECONDS = 16_000, 1.2
Wave = NDArray[np.float64]


def recording(kind: str, variant: int) -> bytes:
    """A WAV file of a kind of things, mono at RATE. variant: 0 and up; decides pitch and pace."""
    import soundfile

    chance = np.random.default_rng([variant, len(kind)])
    time = np.arange(round(RATE * SECONDS)) / RATE
    wave = SOUNDS[kind](time, 1 + 0.12 * (variant % 5 - 2), chance)
    wave = 0.6 * wave / np.abs(wave).max() + 0.0005 * chance.standard_normal(len(time))
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _chirp(time: Wave, pitch: float, _: np.random.Generator) -> Wave:
    beat = (time * 3.5 * pitch) % 1
    sweep = 2400 * pitch * beat - 900 * beat**2
    return np.sin(2 * np.pi * sweep * 0.3) * np.exp(-6 * beat)


def _drops(time: Wave, pitch: float, _: np.random.Generator) -> Wave:
    wave = np.zeros_like(time)
    for number, start in enumerate((0.0, 0.28, 0.47, 0.85)):
        since = np.maximum(time - start, 0)
        wave += (time >= start) * np.sin(2 * np.pi * (900 + 140 * number) * pitch * since) * np.exp(-22 * since)
    return wave


def _engine(time: Wave, pitch: float, _: np.random.Generator) -> Wave:
    phase = 2 * np.pi * 70 * pitch * time
    return sum((np.sin(phase * n) / n for n in range(1, 9)), np.zeros_like(time)) * (1 + 0.3 * np.sin(phase / 4))


def _bell(time: Wave, pitch: float, _: np.random.Generator) -> Wave:
    beat = time % 0.6
    partials = ((1.0, 1.0), (2.76, 0.6), (5.4, 0.25))
    return sum((a * np.sin(2 * np.pi * 620 * pitch * f * beat) for f, a in partials), np.zeros_like(time)) * np.exp(
        -5 * beat
    )


SOUNDS = {"animals": _chirp, "plants": _drops, "vehicles": _engine, "home": _bell}
