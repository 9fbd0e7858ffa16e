"""Preprocessing of sounds: a waveform, or Whisper's log-mel spectrogram.

Log-mel: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", as its reference code does.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np

from homeroom.contract.graph_io import AUDIO, MEL_BANDS, MEL_HOP
from homeroom.contract.manifest import AudioPreprocess
from homeroom.data.preprocess import recordings
from homeroom.data.preprocess.file_kind import not_read
from homeroom.data.preprocess.prepared import Prepared
from homeroom.errors import Code, InputError

LENGTH_LIMIT_S = 600.0
CHANNEL_LIMIT = 16
SOUND_LIMIT_BYTES = 240_000_000  # decoded: ten minutes in stereo at 48 kHz
AUDIO_SAMPLE_BYTES = 4
LEAST_RATE_HZ, MOST_RATE_HZ = 1_000, 384_000
N_FFT = 400
CHUNK_SAMPLES = 1 << 20  # measured at once
LEAST_MIXED = 0.6  # of the loudest side's level: where the mean of all sides is lower, that side is taken instead
FRAME_S = 0.02  # of a measurement of loudness
QUIET_DB = -40.0  # relative to the loudest frame; from there on, what comes first is trimmed
KEPT_QUIET_S = 0.1  # before the first frame that is not quiet
FULL_SCALE = 32_767  # loudness is measured in integers, so that every machine chooses the same
MOST_LEVEL = 1 << 17  # of a sample in them: sums of ten minutes fit in 64 bits
NORMAL_EPSILON = np.float32(1e-7)


def decode(
    data: bytes, where: str = "sound", *, version: int = 1, limit_bytes: int | None = SOUND_LIMIT_BYTES
) -> tuple[np.ndarray, int]:
    """Mono float32 [n] in [-1, 1] and its rate in Hz; InputError if it is no sound, damaged, empty or too long.

    version: of the preprocessing; from 2 on, sides that are silent or cancel are not mixed in (`_mixed`).
    limit_bytes: of all channels, by the header, before anything is decoded.
    """
    import soundfile

    data = recordings.readable(data, where)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if not LEAST_RATE_HZ <= file.samplerate <= MOST_RATE_HZ or file.channels > CHANNEL_LIMIT:
                raise InputError(f"{file.samplerate} Hz with {file.channels} channels is not read", where=where)
            if file.frames > LENGTH_LIMIT_S * file.samplerate:
                raise InputError(f"is longer than {LENGTH_LIMIT_S / 60:.0f} minutes", where=where, remedy="cut it")
            if limit_bytes is not None and file.frames * file.channels * AUDIO_SAMPLE_BYTES > limit_bytes:
                needed = file.frames * file.channels * AUDIO_SAMPLE_BYTES
                raise InputError(
                    f"{file.frames:,} samples of {file.channels} channels would take {needed / 1e6:,.0f} MB to decode, "
                    f"more than {limit_bytes / 1e6:.0f}",
                    code=Code.TOO_LARGE,
                    where=where,
                    remedy="cut it, or save it with fewer channels at a lower rate",
                )
            wave = file.read(frames=int(LENGTH_LIMIT_S * file.samplerate), dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except soundfile.LibsndfileError:
        remedy = "use WAV, MP3, OGG or FLAC"
        if data.startswith((b"fLaC", b"OggS", b"caff")) or data[8:12] == b"WAVE":
            remedy = "it may be cut short or damaged: record or copy it again"
        raise not_read(data, "sound", where, remedy) from None
    except (RuntimeError, TypeError, ValueError, MemoryError) as problem:
        raise InputError(f"the sound is damaged: {problem}", where=where, remedy="record or copy it again") from None
    if not len(wave):
        raise InputError("the sound is empty", where=where, remedy="record it again")
    mono = wave.mean(1, dtype=np.float32) if version == 1 else _mixed(wave)
    if not np.isfinite(mono).all():
        raise InputError("the sound holds values that are not finite", where=where, remedy="record it again")
    return mono, rate


def decode_stored(data: bytes, version: int = 1) -> tuple[np.ndarray, int]:
    """Decodes a sound of the store, which an earlier version may have taken under its wider bounds."""
    return decode(data, version=version, limit_bytes=None)


def _mixed(wave: np.ndarray) -> np.ndarray:
    """The mean of all sides, float32 [n], or the loudest of them where the mean loses much of it.

    So one silent side does not halve the other, and sides in anti-phase do not cancel. wave: float32 [n, sides].
    """
    mean = np.asarray(wave.mean(1, dtype=np.float32))
    if wave.shape[1] == 1:
        return mean
    levels = [float(wave[:, side].std(dtype=np.float64)) for side in range(wave.shape[1])]
    loudest = int(np.argmax(levels))
    if float(mean.std(dtype=np.float64)) >= LEAST_MIXED * levels[loudest]:
        return mean
    return np.array(wave[:, loudest])


def window(spec: AudioPreprocess, wave: np.ndarray, rate: int) -> tuple[int, int]:
    """The samples [start, end) of a sound that the model hears; wave: float32 [n] at `rate` Hz.

    From version 2 on, leading quiet is left out, and of a longer sound the loudest part is heard, else the first.
    """
    length = min(len(wave), math.ceil(spec.samples * rate / spec.rate))
    if spec.version == 1:
        return 0, length
    size = max(1, round(FRAME_S * rate))
    energy = _energies(wave, size)
    loud = np.flatnonzero(energy > energy.max(initial=0) * 10 ** (QUIET_DB / 10))
    first = max(0, int(loud[0]) - round(KEPT_QUIET_S / FRAME_S)) if len(loud) else 0
    frames, start = length // size, first * size
    if start + length < len(wave) and len(energy) - first > frames > 0:
        sums = np.cumsum(np.concatenate([[0], energy[first:]]))
        start += int(np.argmax(sums[frames:] - sums[:-frames])) * size
        start = min(start, len(wave) - length)
    return start, min(len(wave), start + length)


def _energies(wave: np.ndarray, size: int) -> np.ndarray:
    """int64 [frames]: the sum of squares of each frame of `size` samples."""
    rows = max(1, CHUNK_SAMPLES // size) * size
    energies = [np.zeros(0, np.int64)]
    for start in range(0, len(wave) - size + 1, rows):
        part = wave[start : start + rows]
        levels = np.clip(part[: len(part) // size * size] * FULL_SCALE, -MOST_LEVEL, MOST_LEVEL)
        energies.append((np.rint(levels).astype(np.int64).reshape(-1, size) ** 2).sum(1))
    return np.concatenate(energies)


def prepare(spec: AudioPreprocess, wave: np.ndarray, rate: int, tokens: int) -> Prepared:
    """`audio` float32 [samples], or [80, samples / 160] of log-mel.

    wave: float32 [n] at `rate` Hz. tokens: of a clip of full length; the prepared input's own shrink with its length.
    """
    import soxr

    if spec.version > 1:
        start, end = window(spec, wave, rate)
        wave = wave[start:end]
    if rate != spec.rate:
        wave = soxr.resample(wave, rate, spec.rate).astype(np.float32)
    wave = wave[: spec.samples]
    valid = min(tokens, max(1, math.ceil(tokens * len(wave) / spec.samples)))
    if spec.normalize:
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + NORMAL_EPSILON)
    wave = np.pad(wave, (0, spec.samples - len(wave)))
    audio = log_mel(wave) if spec.form == "whisper-mel" else wave * np.float32(spec.gain)
    return Prepared({AUDIO: audio}, valid)


def log_mel(wave: np.ndarray) -> np.ndarray:
    """float32 [n] at 16 kHz -> float32 [80, n // 160]: centred frames, power, mel, log10, floor at max - 8."""
    padded = np.pad(wave.astype(np.float64), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::MEL_HOP][: len(wave) // MEL_HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    mel = np.log10(np.maximum(power @ _filters(), 1e-10)).T
    return np.asarray((np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0, np.float32)


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    """Triangular mel filters, slaney scale and norm (librosa's default), float64 [201, 80] for 16 kHz."""

    def to_mel(hertz: np.ndarray) -> np.ndarray:
        return np.where(
            hertz >= 1000.0, 15.0 + np.log(np.maximum(hertz, 1e-9) / 1000.0) * 27.0 / np.log(6.4), 3.0 * hertz / 200.0
        )

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel >= 15.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)), 200.0 * mel / 3.0)

    edges = to_hertz(np.linspace(to_mel(np.array(0.0)), to_mel(np.array(8000.0)), MEL_BANDS + 2))
    bins = np.linspace(0.0, 8000.0, N_FFT // 2 + 1)
    slopes = edges[None, :] - bins[:, None]
    widths = np.diff(edges)
    down, up = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return np.asarray(np.maximum(0.0, np.minimum(down, up)) * (2.0 / (edges[2:] - edges[:-2])))
