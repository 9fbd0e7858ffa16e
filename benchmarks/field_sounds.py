"""Sounds of the field benchmark: the formats and the damage that phones, browsers and recorders make."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import soundfile

from field_kind import Kind, and_said
from field_media import media

SOUND_RATE = 16_000
M4A = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(range(256)) * 8
WEBM = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm" + bytes(512)
AMR = b"#!AMR\n\x3c"  # cut short in its first frame
sound = partial(media, "speech", "sound")


def word(seconds: float = 0.8, rate: int = SOUND_RATE) -> np.ndarray:
    """float32 [n]: a tone with a soft start, RMS 0.28 of full scale."""
    times = np.arange(int(seconds * rate)) / rate
    return (0.4 * np.sin(2 * math.pi * 440 * times) * np.minimum(1, times * 20)).astype(np.float32)


def written(wave: np.ndarray, kind: str, subtype: str | None = None, rate: int = SOUND_RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def heard(seen: Any) -> bool:
    """Whether the word is heard about as loud as it was spoken."""
    return bool(0.15 < seen["rms"] < 0.4)


def half(kind: str) -> bytes:
    return written(word(), kind)[: len(written(word(), kind)) // 2]


def cut_short() -> list[Kind]:
    names, said = {"WAV": "a.wav", "MP3": "a.mp3", "AIFF": "a.aiff"}, "read to its end, and said"
    each = [sound(f"{kind} cut short", name, partial(half, kind), said, heard) for kind, name in names.items()]
    return [and_said(one, "cut short") for one in each]


def streamed() -> bytes:
    """A WAV whose header says length 0, as recorders write that were switched off."""
    data = bytearray(written(word(), "WAV", "PCM_16"))
    data[4:8], place = bytes(4), data.index(b"data") + 4
    data[place : place + 4] = bytes(4)
    return bytes(data)


def sound_formats() -> list[Kind]:
    wave, loud = word(), "heard as it was spoken"
    files: list[tuple[str, str, Callable[[], bytes]]] = [
        ("WAV, 16 bit", "a.wav", lambda: written(wave, "WAV", "PCM_16")),
        ("WAV, 24 bit", "a.wav", lambda: written(wave, "WAV", "PCM_24")),
        ("WAV, 8 bit", "a.wav", lambda: written(wave, "WAV", "PCM_U8")),
        ("WAV, float", "a.wav", lambda: written(wave, "WAV", "FLOAT")),
        ("WAV of a telephone (u-law, 8 kHz)", "a.wav", lambda: written(word(rate=8000), "WAV", "ULAW", 8000)),
        ("WAV at 96 kHz", "a.wav", lambda: written(word(rate=96_000), "WAV", "PCM_24", 96_000)),
        ("FLAC", "a.flac", lambda: written(wave, "FLAC")),
        ("Ogg Vorbis", "a.ogg", lambda: written(wave, "OGG", "VORBIS")),
        ("Opus", "a.opus", lambda: written(word(rate=48_000), "OGG", "OPUS", 48_000)),
        ("MP3", "a.mp3", lambda: written(wave, "MP3")),
        ("MP3 with a title", "a.mp3", lambda: b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + written(wave, "MP3")),
        ("AIFF", "a.aiff", lambda: written(wave, "AIFF")),
        ("AU of an old recorder", "a.au", lambda: written(wave, "AU")),
        ("CAF of a Mac", "a.caf", lambda: written(wave, "CAF")),
        ("W64 of a studio", "a.w64", lambda: written(wave, "W64")),
        ("WAV called .mp3", "a.mp3", lambda: written(wave, "WAV", "PCM_16")),
    ]
    to_its_end = sound("WAV whose header says length 0", "a.wav", streamed, "read to its end, and said", heard)
    return [*(sound(name, file, make, loud, heard) for name, file, make in files), and_said(to_its_end, "no length")]


def recordings() -> list[Kind]:
    wave = word()
    one_side = np.stack([wave, np.zeros_like(wave)], 1)
    opposite = np.stack([wave, -wave], 1)
    late = np.concatenate([np.zeros(3 * SOUND_RATE, np.float32), wave])
    hours = np.zeros(3_600 * 8_000 * 4, np.int16)
    named = "refused, with its format and the extra that reads it"
    return [
        sound("stereo with one side silent", "a.wav", lambda: written(one_side, "WAV"), "the side that speaks", heard),
        sound("stereo in anti-phase", "a.wav", lambda: written(opposite, "WAV"), "does not cancel", heard),
        sound("three seconds of quiet before the word", "a.wav", lambda: written(late, "WAV"), "the word", heard),
        *cut_short(),
        sound("FLAC cut short", "a.flac", partial(half, "FLAC"), "refused, with what to do", None, "cut short"),
        sound(
            "four hours in 1 MB of FLAC", "a.flac", lambda: written(hours, "FLAC", rate=8_000), "refused", None, "long"
        ),
        sound("m4a, damaged or without the extra `av`", "a.m4a", lambda: M4A, named, None, "m4a", "AAC", "MP4"),
        sound("webm, damaged or without the extra `av`", "a.webm", lambda: WEBM, named, None, "webm"),
        sound("amr, damaged or without the extra `av`", "a.amr", lambda: AMR, named, None, "amr"),
        sound("empty sound file", "a.wav", lambda: b"", "refused", None, "empty", "0 bytes"),
        sound("text called .wav", "a.wav", lambda: b"hello", "refused", None, "not a sound"),
        sound("sound with NaN", "a.wav", lambda: written(wave * np.float32("nan"), "WAV", "FLOAT"), "refused", None),
    ]


def recorded(container: str, codec: str, rate: int) -> bytes:
    """The word in another container, through PyAV."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 12_200 if rate == 8_000 else 64_000
        frame = av.AudioFrame.from_ndarray((word(rate=rate) * 32_767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts = rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()


def by_extras() -> list[Kind]:
    containers = {
        "m4a of a phone": ("a.m4a", "ipod", "aac", 44_100),
        "raw AAC": ("a.aac", "adts", "aac", 44_100),
        "3gp of a phone": ("a.3gp", "3gp", "aac", 32_000),
        "webm of a browser": ("a.webm", "webm", "libopus", 48_000),
        "amr of an old phone": ("a.amr", "amr", "libopencore_amrnb", 8_000),
    }
    each = [
        sound(f"{name}, with the extra `av`", file, partial(recorded, *how), "heard as it was spoken", heard)
        for name, (file, *how) in containers.items()
    ]
    return [replace(one, needs="av") for one in each]


def kinds() -> list[Kind]:
    return [*sound_formats(), *recordings(), *by_extras()]
