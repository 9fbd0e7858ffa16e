"""Recordings that libsndfile does not read as they are: of telephones and browsers, and WAV files without a length.

AAC (m4a, mp4, 3gp), WebM, AMR and Windows Media are decoded through PyAV (extra `av`), each by the demuxer of its own
format alone: FFmpeg's others open playlists, files and addresses that a file names.
"""

from __future__ import annotations

import io
import struct
from importlib.util import find_spec
from typing import Any

import numpy as np

from homeroom.data.preprocess.file_kind import AAC_KIND, AMR_KIND, MP4_KIND, WEBM_KIND, WMA_KIND, file_kind
from homeroom.errors import InputError
from homeroom.system.installation import how_to_install

DEMUXERS = {MP4_KIND: "mov", WEBM_KIND: "matroska", AMR_KIND: "amr", AAC_KIND: "aac", WMA_KIND: "asf"}
AV_SUFFIXES = (".m4a", ".aac", ".mp4", ".3gp", ".webm", ".amr", ".wma", ".mov")
RIFF_HEADER, CHUNK_HEADER = 12, 8  # bytes
UNKNOWN_LENGTHS = (0, 0xFFFFFFFF)  # as programs leave them that were ended while they recorded
SIDES_LIMIT = 16
BYTES_LIMIT = 120_000_000  # of 16-bit samples: ten minutes in stereo at 48 kHz


def reads_av() -> bool:
    """Whether the extra is installed."""
    return find_spec("av") is not None


def how_to_read_av() -> str:
    """What to do where the extra is missing."""
    return f"{how_to_install('av')}, or save the sound as MP3 or WAV"


def readable(data: bytes, where: str) -> bytes:
    """The sound as libsndfile reads it: itself, with its length filled in, or as a WAV file of 16 bits.

    Raises InputError where the extra is missing, or it cannot be decoded.
    """
    kind = file_kind(data)
    if kind in DEMUXERS:
        if not reads_av():
            raise InputError(f"is {kind}, which the extra `av` reads", where=where, remedy=how_to_read_av())
        return _decode(data, kind, where)
    start, stated = _samples_of_wav(data)
    if start and stated in UNKNOWN_LENGTHS and len(data) > start:
        return data[: start - 4] + struct.pack("<I", len(data) - start) + data[start:]
    return data


def length_note(data: bytes, where: str) -> str:
    """What a person must know where a WAV file's header does not state its length; empty where it does."""
    start, stated = _samples_of_wav(data)
    if not start or stated == len(data) - start or len(data) == start:
        return ""
    if stated in UNKNOWN_LENGTHS:
        return f"{where}: its header states no length, so it was read to its end"
    if stated > len(data) - start:
        return f"{where}: is cut short: {len(data) - start:,} of {stated:,} bytes of sound are there, and were read"
    return ""


def _samples_of_wav(data: bytes) -> tuple[int, int]:
    """Where the samples of a WAV file begin, and their stated bytes; zeros where it is none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return 0, 0
    at = RIFF_HEADER
    while at + CHUNK_HEADER <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"data":
            return at + CHUNK_HEADER, size
        at += CHUNK_HEADER + size + size % 2
    return 0, 0


def _decode(data: bytes, kind: str, where: str) -> bytes:
    import av
    import soundfile

    parts: list[np.ndarray] = []
    rate = total = 0
    try:
        with av.open(io.BytesIO(data), format=DEMUXERS[kind], metadata_errors="replace") as file:
            if not file.streams.audio:
                raise InputError(f"is {kind} without a sound", where=where, remedy="record it again")
            rate = int(file.streams.audio[0].codec_context.sample_rate)
            sides = int(file.streams.audio[0].codec_context.channels)
            if sides > SIDES_LIMIT:
                raise InputError(f"{sides} channels are not read", where=where)
            for frame in _frames(file):
                parts.append(frame.reshape(-1, sides))
                total += frame.nbytes
                if total > BYTES_LIMIT:
                    raise InputError("is longer than 10 minutes", where=where, remedy="cut it")
    except (av.error.FFmpegError, ValueError, IndexError) as problem:
        if not parts:
            what = f"is {kind} that cannot be decoded: {problem}"
            raise InputError(what, where=where, remedy="record it again, or save it as MP3 or WAV") from None
    if not parts:
        raise InputError("the sound is empty", where=where, remedy="record it again")
    written = io.BytesIO()
    soundfile.write(written, np.concatenate(parts), rate, "PCM_16", format="WAV")
    return written.getvalue()


def _frames(file: Any) -> Any:
    """The frames of the first sound, int16, sides interleaved."""
    from av import AudioResampler

    resampler = AudioResampler(format="s16")
    for frame in file.decode(audio=0):
        for part in resampler.resample(frame):
            yield part.to_ndarray().ravel()
    for part in resampler.resample(None):
        yield part.to_ndarray().ravel()
