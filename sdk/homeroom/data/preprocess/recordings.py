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
ID3_HEADER, XING_WITHIN = 10, 200  # bytes
SEGMENT_ID, SEGMENT_WITHIN = b"\x18\x53\x80\x67", 200
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
    """What a person must know where a file ends before its own header says, or states no length; empty elsewhere.

    A raw AAC or AMR file states no length, nor does a WebM file of most browsers: of these, nothing can be told.
    """
    start, stated = _samples_of_wav(data)
    if start and stated in UNKNOWN_LENGTHS and len(data) > start:
        return f"{where}: its header states no length, so it was read to its end"
    if start and stated > len(data) - start > 0:
        return f"{where}: is cut short: {len(data) - start:,} of {stated:,} bytes of sound are there, and were read"
    if _ogg_without_end(data):
        return f"{where}: has no end mark, so it may be cut short; what is there was read"
    if stated_bytes(data) > len(data):
        return f"{where}: is cut short: {len(data):,} of {stated_bytes(data):,} bytes are there, and were read"
    return ""


def stated_bytes(data: bytes) -> int:
    """Least bytes of the whole file by its header (AIFF, AU, W64, RF64, MP3, MP4, WebM); 0 where it does not say."""
    if data[:4] == b"FORM":
        return int.from_bytes(data[4:8], "big") + CHUNK_HEADER - 1  # the last byte may be padding
    if data[:4] == b".snd":
        stated = int.from_bytes(data[8:12], "big")
        return 0 if stated in UNKNOWN_LENGTHS else int.from_bytes(data[4:8], "big") + stated
    if data[:4] == b"riff":
        return int.from_bytes(data[16:24], "little")  # behind an identifier of 16 bytes
    if data[:4] == b"RF64":
        return int.from_bytes(data[20:28], "little") + CHUNK_HEADER  # of its chunk ds64 (EBU Tech 3306)
    if file_kind(data) == MP4_KIND:
        return _end_of_boxes(data)
    if file_kind(data) == WEBM_KIND:
        return _end_of_segment(data)
    return _end_of_mp3(data)


def _ogg_without_end(data: bytes) -> bool:
    """Whether the last page of an Ogg file is not marked as its end (RFC 3533, section 6)."""
    last = data.rfind(b"OggS")
    return data[:4] == b"OggS" and not data[last + 5 : last + 6] > b"\x03"


def _end_of_mp3(data: bytes) -> int:
    """Where an MP3 file ends by the Xing or Info header of its first frame; 0 where it has none."""
    start = 0
    if data[:3] == b"ID3" and len(data) > ID3_HEADER:
        start = ID3_HEADER + sum((data[6 + place] & 0x7F) << 7 * (3 - place) for place in range(4))
    frame = data[start : start + XING_WITHIN]
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or at < 0 or len(frame) < at + 16 or not frame[at + 7] & 2:
        return 0
    return start + int.from_bytes(frame[at + (12 if frame[at + 7] & 1 else 8) :][:4], "big")


def _end_of_boxes(data: bytes) -> int:
    """Where the last top-level box of an MP4 file ends."""
    at = 0
    while at + CHUNK_HEADER <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:  # the length follows in 64 bits
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < CHUNK_HEADER:  # 0: to the end of the file
            return 0
        at += size
    return at


def _end_of_segment(data: bytes) -> int:
    """Where the segment of a WebM file ends; 0 where its length is unknown, as browsers write it."""
    at = data.find(SEGMENT_ID, 0, SEGMENT_WITHIN) + len(SEGMENT_ID)
    if at < len(SEGMENT_ID) or at >= len(data) or not data[at]:
        return 0
    length = 9 - data[at].bit_length()
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(data[at : at + length], "big") & unknown
    return 0 if size == unknown else at + length + size


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
            raise _undecoded(data, kind, where, problem) from None
    if not parts:
        raise InputError("the sound is empty", where=where, remedy="record it again")
    written = io.BytesIO()
    soundfile.write(written, np.concatenate(parts), rate, "PCM_16", format="WAV")
    return written.getvalue()


def _undecoded(data: bytes, kind: str, where: str, problem: Exception) -> InputError:
    """The error of a file of which nothing could be decoded: that it is cut short, or what FFmpeg says."""
    if (stated := stated_bytes(data)) > len(data):
        what = f"is {kind} cut short: of {stated:,} bytes {len(data):,} are there, and hold no sound"
        return InputError(what, where=where, remedy="copy it again, whole")
    what = f"is {kind} that cannot be decoded: {getattr(problem, 'strerror', None) or problem}"
    return InputError(what, where=where, remedy="record it again, or save it as MP3 or WAV")


def _frames(file: Any) -> Any:
    """The frames of the first sound, int16, sides interleaved."""
    from av import AudioResampler

    resampler = AudioResampler(format="s16")
    for frame in file.decode(audio=0):
        for part in resampler.resample(frame):
            yield part.to_ndarray().ravel()
    for part in resampler.resample(None):
        yield part.to_ndarray().ravel()
