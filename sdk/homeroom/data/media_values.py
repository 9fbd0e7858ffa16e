"""Pictures and sounds as apps hold them, as the bytes of the file that holds the same: PNG, TIFF or WAV, without loss.

So each is checked, bounded and decoded as that file, and gets its answer bit for bit. No media library is loaded.
"""

from __future__ import annotations

import inspect
import io
import struct
import sys
import zlib
from typing import Any

import numpy as np

from homeroom.errors import Code, InputError

MEDIA_LIMIT_BYTES = 64 << 20
PIXEL_LIMIT = 64_000_000
CHANNEL_LIMIT = 16
LEAST_RATE_HZ, MOST_RATE_HZ = 1_000, 384_000
LOUDEST = 4.0  # of a sample in floats: beyond it, integers were not divided by their scale
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # of PNG, by channels
SAMPLE_FORMATS = {"u1": 1, "i2": 1, "i4": 1, "f4": 3, "f8": 3}  # of WAV: integers, or IEEE floats
PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # of Pillow
CONVERTED_MODES = {"CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB", "RGBX": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
ORIENTATION = 0x0112  # of Exif
GIVEN = "a file's path, its bytes, an open file"


def media_bytes(value: Any, kind: str, where: str) -> bytes:
    """The file of a picture or sound that an app holds; InputError, which says what was given and what is taken.

    value: bytes; a file open for reading; a Pillow image; uint8 [height, width] of grey, [height, width, 3] of RGB or
        [height, width, 4] of RGBA; or (wave, rate) with float [n] in [-1, 1] or integers, [n, channels] of several.
    kind: of the modality, "image" or "audio".
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "read"):
        return _read_stream(value, where)
    if kind == "image":
        pillow = sys.modules.get("PIL.Image")  # else no value is of it
        if pillow is not None and isinstance(value, pillow.Image):
            return _from_pillow(value, where)
        if isinstance(value, np.ndarray):
            return _from_pixels(value, where)
        raise _unknown(value, f"{GIVEN}, a Pillow image or an array of pixels", where)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], np.ndarray):
        return _from_wave(*value, where)
    if isinstance(value, np.ndarray):
        raise InputError("is a waveform without its rate", where=where, remedy="give (wave, rate), the rate in Hz")
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        raise InputError("has the rate before the waveform", where=where, remedy="give (wave, rate)")
    raise _unknown(value, f"{GIVEN} or (wave, rate)", where)


def _unknown(value: Any, given: str, where: str) -> InputError:
    return InputError(f"needs {given}, not {type(value).__name__}", where=where)


def _read_stream(stream: Any, where: str) -> bytes:
    """What is left of an open file, which is put back to where it was if it can be: a sample may be read twice."""
    parts, size_bytes = list[bytes](), 0
    try:
        start = stream.tell() if getattr(stream, "seekable", lambda: False)() else None
        while size_bytes <= MEDIA_LIMIT_BYTES and (part := stream.read(MEDIA_LIMIT_BYTES + 1 - size_bytes)):
            if not isinstance(part, bytes | bytearray | memoryview):
                raise _not_bytes(part, where)
            parts.append(bytes(part))
            size_bytes += len(parts[-1])
        if start is not None:
            stream.seek(start)
    except (OSError, ValueError) as problem:
        raise InputError(f"cannot be read: {problem}", where=where, remedy="give a file open for reading") from None
    return b"".join(parts)


def _not_bytes(part: Any, where: str) -> InputError:
    if inspect.iscoroutine(part):
        part.close()
        return InputError("has a `read` to be awaited", where=where, remedy="await it, and give the bytes")
    remedy = 'open it with mode "rb"' if isinstance(part, str) else "give its bytes"
    return InputError(f"gives {type(part).__name__}, not bytes", where=where, remedy=remedy)


def _from_pillow(picture: Any, where: str) -> bytes:
    """A Pillow image as PNG, or TIFF where its inks have a profile; its orientation and profile are kept."""
    from PIL import Image

    _check_pixels(picture.height, picture.width, where)
    if picture.mode not in (*PNG_MODES, *CONVERTED_MODES):
        remedy = 'convert it to "RGB" or "L"'
        raise InputError(f"is a picture of mode {picture.mode}, whose white is not known", where=where, remedy=remedy)
    exif, file = Image.Exif(), io.BytesIO()
    try:
        turned = picture.getexif().get(ORIENTATION, 1)
        if turned != 1:
            exif[ORIENTATION] = turned
        if picture.mode == "CMYK" and "icc_profile" in picture.info:  # which a PNG cannot hold
            picture.save(file, "TIFF", compression="tiff_lzw", **({"exif": exif} if turned != 1 else {}))
            return _bounded(file.getvalue(), "TIFF", where)
        if picture.mode in CONVERTED_MODES:
            picture = picture.convert(CONVERTED_MODES[picture.mode])
        picture.save(file, "PNG", compress_level=1, **({"exif": exif} if turned != 1 else {}))
    except (OSError, ValueError, SyntaxError, EOFError, TypeError) as problem:
        raise InputError(f"the picture is damaged: {problem}", where=where, remedy="open it again") from None
    return _bounded(file.getvalue(), "PNG", where)


def _check_pixels(height: int, width: int, where: str) -> None:
    if not height or not width:
        raise InputError(
            f"is a picture of {width} x {height} pixels", where=where, remedy="leave the input out instead"
        )
    if height * width > PIXEL_LIMIT:
        what = f"{width} x {height} pixels are more than {PIXEL_LIMIT // 10**6} million"
        raise InputError(what, code=Code.TOO_LARGE, where=where, remedy="scale the picture down")


def _from_pixels(pixels: np.ndarray, where: str) -> bytes:
    """Pixels uint8 [height, width], [height, width, 3] or [height, width, 4] as PNG."""
    shape = "uint8 [height, width] of grey, [height, width, 3] of RGB or [height, width, 4] of RGBA"
    given = f"is {pixels.dtype} {list(pixels.shape)}, and a picture is {shape}"
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and channels not in (3, 4)):
        first = pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4)
        remedy = "channels go last: array.transpose(1, 2, 0)" if first else "give one picture"
        raise InputError(given, where=where, remedy=remedy)
    if pixels.dtype != np.uint8:
        white, scaled = {"f": ("1", "(array * 255).round()"), "b": ("True", "(array * 255)")}.get(
            pixels.dtype.kind, ("255", "array")
        )
        raise InputError(given, where=where, remedy=f'if white is {white}: {scaled}.astype("uint8")')
    height, width = pixels.shape[:2]
    _check_pixels(height, width, where)
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # each row as its difference from the one above
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 1)), (b"IEND", b"")
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return _bounded(file, "PNG", where)


def _from_wave(wave: np.ndarray, rate: Any, where: str) -> bytes:
    """A waveform [n] or [n, channels] as WAV."""
    if isinstance(rate, bool) or not hasattr(rate, "__index__") or not LEAST_RATE_HZ <= int(rate) <= MOST_RATE_HZ:
        what = f"has the rate {rate!r}, and one is a whole number from {LEAST_RATE_HZ} to {MOST_RATE_HZ} Hz"
        raise InputError(what, where=where, remedy="give the rate at which it was recorded")
    form = f"{wave.dtype.kind}{wave.dtype.itemsize}"
    given = f"is {wave.dtype} {list(wave.shape)}, and a waveform is float32, float64, int16, int32 or uint8 [n] or "
    given += f"[n, channels] with at most {CHANNEL_LIMIT} channels"
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and not 1 <= wave.shape[1] <= CHANNEL_LIMIT):
        turned = wave.ndim == 2 and 1 <= wave.shape[0] <= CHANNEL_LIMIT
        raise InputError(given, where=where, remedy="channels go last: wave.T" if turned else "give one sound")
    if form not in SAMPLE_FORMATS:
        full = f"{np.iinfo(wave.dtype).max + 1:.0f}" if wave.dtype.kind in "iu" else ""
        scaled = f"(wave / {full})" if full else "wave"
        raise InputError(given, where=where, remedy=f'scale it to [-1, 1], such as {scaled}.astype("float32")')
    if not wave.size:
        raise InputError("the sound is empty", where=where, remedy="record it again")
    if wave.dtype.kind == "f" and not (loudest := float(np.abs(wave).max())) <= LOUDEST:
        if np.isfinite(loudest):
            remedy = "divide 16-bit integers by 32768"
            raise InputError(f"has samples up to {loudest:g}, and floats lie in [-1, 1]", where=where, remedy=remedy)
        raise InputError("the sound holds values that are not finite", where=where, remedy="record it again")
    channels, width = 1 if wave.ndim == 1 else wave.shape[1], wave.dtype.itemsize
    if wave.nbytes > MEDIA_LIMIT_BYTES:
        raise _too_large(wave.nbytes, "WAV", where, "cut it, or give int16")
    samples = np.ascontiguousarray(wave, wave.dtype.newbyteorder("<")).tobytes()
    facts = struct.pack(
        "<HHIIHH", SAMPLE_FORMATS[form], channels, int(rate), int(rate) * channels * width, channels * width, 8 * width
    )
    chunks = ((b"fmt ", facts), (b"data", samples))
    body = b"WAVE" + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bounded(file: bytes, kind: str, where: str) -> bytes:
    if len(file) > MEDIA_LIMIT_BYTES:
        raise _too_large(len(file), kind, where, "scale it down")
    return file


def _too_large(size_bytes: int, kind: str, where: str, remedy: str) -> InputError:
    what = f"takes {size_bytes / 1e6:.0f} MB as {kind}, more than {MEDIA_LIMIT_BYTES >> 20} MB"
    return InputError(what, code=Code.TOO_LARGE, where=where, remedy=remedy)
