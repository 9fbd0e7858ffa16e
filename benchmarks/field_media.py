"""Pictures and sounds of the field benchmark: the formats and the damage that phones, scanners and webs make."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from field_kind import Kind, Outcome, Verdict, and_said, right_if

SOUND_RATE = 16_000
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(256)) * 8
M4A = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + bytes(range(256)) * 8
WEBM = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm" + bytes(512)
AMR = b"#!AMR\n\x3c"  # cut short in its first frame
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in to the school's network</body></html>"
)


# Pictures


def scene(size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """uint8 [height, width, 3]: red on the left, blue on the right, a white bar at the top, some texture."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (200, 40, 40)
    pixels[:, width // 2 :] = (40, 40, 200)
    pixels[: height // 4] = 250
    pixels[::8, ::8] = 20
    return pixels


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def sheet_beside(folder: Path, name: str, data: bytes, slot: str) -> Path:
    """A media file and a sheet that names it; the sheet's path."""
    (folder / name).write_bytes(data)
    sheet = folder / "samples.csv"
    sheet.write_text(f"{slot},label.category,subject\n{name},cat,p-1\n", "utf-8")
    return sheet


def media(
    slot: str,
    group: str,
    name: str,
    file: str,
    make: Callable[[], bytes],
    wanted: str,
    judge: Callable[[Any], bool] | None,
    *told: str,
) -> Kind:
    """A kind of file for a slot, given by a sheet that names it; judge: of what the model gets."""

    def judged(outcome: Outcome) -> Verdict:
        assert judge is not None
        inputs = [one["inputs"][slot][0] for one in outcome.samples if slot in one["inputs"]]
        return right_if(len(inputs) == 1 and judge(inputs[0]))

    def write(folder: Path) -> Path:
        return sheet_beside(folder, file, make(), slot)

    return Kind(name, group, wanted, write, judged if judge else None, told)


picture, sound = partial(media, "picture", "picture"), partial(media, "speech", "sound")


def looks_right(seen: Any) -> bool:
    """Whether it is the scene: red on the left, blue on the right, bright at the top."""
    return bool(150 < seen["left"] < 240 and seen["right"] < 130 and seen["top"] > 120)


def as_seen(*channels: float, within: float = 6.0) -> Callable[[Any], bool]:
    return lambda seen: all(abs(a - b) < within for a, b in zip(seen["channels"], channels, strict=True))


def drawn(seen: Any) -> bool:
    """Whether anything but a white page is seen."""
    return bool(seen["spread"] > 3)


def rgb() -> Image.Image:
    return Image.fromarray(scene())


def grey16(top: int) -> Image.Image:
    """A 16-bit grey ramp from 0 to `top`."""
    return Image.fromarray(np.linspace(0, top, 64 * 64).reshape(64, 64).astype(np.uint16))


def clear(mode: str) -> Image.Image:
    """A transparent picture with the scene's left half opaque."""
    picture = rgb().convert("RGBA")
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, :32] = 255
    picture.putalpha(Image.fromarray(alpha))
    return picture.convert(mode)


def turned() -> bytes:
    """The scene lying on its side, with the orientation that sets it up (EXIF 6)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(rgb().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def huge_png(side: int) -> bytes:
    """A valid PNG of side x side zeros in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row, body = bytes(1 + 3 * side), bytearray()
    for _ in range(side):
        body += packer.compress(row)
    body += packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(body)) + chunk(b"IEND", b"")


def svg(body: str, attributes: str = 'viewBox="0 0 64 64"') -> bytes:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {names} {attributes}>{body}</svg>".encode()


SVG_SCENE = '<rect width="64" height="64" fill="#2828c8"/><rect width="32" height="64" fill="#c82828"/>'
SVG_SCENE += '<rect width="64" height="16" fill="#fafafa"/>'
ENTITIES = b'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
)


def formats() -> list[Kind]:
    seen, photo = "the picture as it looks", Image.fromarray(scene((400, 300)))
    files: list[tuple[str, str, Callable[[], bytes]]] = [
        ("PNG", "a.png", lambda: encoded(rgb(), "PNG")),
        ("JPEG", "a.jpg", lambda: encoded(photo, "JPEG", quality=95)),
        ("JPEG called .jfif", "a.jfif", lambda: encoded(photo, "JPEG", quality=95)),
        ("JPEG in CMYK", "a.jpg", lambda: encoded(photo.convert("CMYK"), "JPEG", quality=95)),
        ("JPEG lying on its side, by EXIF", "a.jpg", turned),
        (
            "MPO of a phone with two lenses",
            "a.jpg",
            lambda: encoded(rgb(), "MPO", save_all=True, append_images=[rgb()]),
        ),
        ("WebP", "a.webp", lambda: encoded(rgb(), "WEBP", lossless=True)),
        ("AVIF", "a.avif", lambda: encoded(photo, "AVIF", quality=90)),
        ("JPEG 2000", "a.jp2", lambda: encoded(rgb(), "JPEG2000")),
        ("TIFF of a scanner", "a.tiff", lambda: encoded(rgb(), "TIFF", compression="tiff_lzw")),
        ("BMP", "a.bmp", lambda: encoded(rgb(), "BMP")),
        ("animated GIF", "a.gif", lambda: encoded(rgb(), "GIF", save_all=True, append_images=[rgb()])),
        ("PNG with a palette", "a.png", lambda: encoded(rgb().quantize(64), "PNG")),
        ("PNG called .jpg", "a.jpg", lambda: encoded(rgb(), "PNG")),
        ("JPEG called .PNG in capitals", "a.PNG", lambda: encoded(photo, "JPEG", quality=95)),
        ("SVG", "a.svg", lambda: svg(SVG_SCENE)),
        ("SVG with a byte order mark", "a.svg", lambda: b"\xef\xbb\xbf" + svg(SVG_SCENE)),
    ]
    return [picture(name, file, make, seen, looks_right) for name, file, make in files]


def tones() -> list[Kind]:
    white, left = "transparency as white paper", "the left half red, the right one white"
    half = lambda seen: seen["left"] > 150 and seen["right"] > 225  # noqa: E731
    grey_half = lambda seen: 110 < seen["left"] < 145 and seen["right"] > 225  # noqa: E731  the red is 88 in grey
    return [
        picture("RGBA", "a.png", lambda: encoded(clear("RGBA"), "PNG"), left, half),
        picture("grey with transparency", "a.png", lambda: encoded(clear("LA"), "PNG"), white, grey_half),
        picture(
            "16-bit grey of a scanner, dark",
            "a.png",
            lambda: encoded(grey16(30_000), "PNG"),
            "as dark as it is (mean 58)",
            as_seen(58.4, 58.4, 58.4),
        ),
        picture(
            "16-bit grey TIFF",
            "a.tif",
            lambda: encoded(grey16(65_535), "TIFF"),
            "mean 127",
            as_seen(127.5, 127.5, 127.5),
        ),
        picture("black and white, 1 bit", "a.png", lambda: encoded(rgb().convert("1"), "PNG"), "as it looks", drawn),
        picture(
            "photo of 48 megapixels",
            "a.jpg",
            lambda: encoded(Image.fromarray(scene((8000, 6000))), "JPEG", quality=80),
            "taken, within a Pi's memory",
            looks_right,
        ),
        picture(
            "photo of 108 megapixels",
            "a.jpg",
            lambda: encoded(Image.fromarray(scene((12_000, 9_000))), "JPEG", quality=60),
            "taken at a reduced scale, or refused with the limit",
            looks_right,
            "megapixel",
            "pixels",
        ),
    ]


def drawings() -> list[Kind]:
    link = '<image href="{}" width="64" height="64"/>'
    refused = "refused with the reason"
    return [
        picture(
            "SVG with a text",
            "a.svg",
            lambda: svg('<rect width="64" height="64" fill="white"/><text x="2" y="50" font-size="48">Ag</text>'),
            "the letters are drawn",
            drawn,
            "text",
            "font",
        ),
        picture(
            "SVG with a picture from the web",
            "a.svg",
            lambda: svg(SVG_SCENE + link.format("https://example.org/a.png")),
            "refused, since something would be missing",
            None,
            "link",
            "outside",
        ),
        picture(
            "SVG with a file of the machine",
            "a.svg",
            lambda: svg(SVG_SCENE + link.format("file:///etc/passwd")),
            refused,
            None,
            "link",
            "outside",
            "file",
        ),
        picture(
            "SVG, 1 pixel wide and 4000 high",
            "a.svg",
            lambda: svg('<rect width="1" height="4000"/>', 'width="1" height="4000"'),
            "refused or drawn within a second",
            lambda seen: True,
        ),
        picture(
            "SVG of a million by a million",
            "a.svg",
            lambda: svg(SVG_SCENE, 'width="1000000" height="1000000" viewBox="0 0 64 64"'),
            "drawn at a usual size, or refused",
            looks_right,
        ),
        picture(
            "SVG that contains itself",
            "a.svg",
            lambda: svg('<g id="a"><use xlink:href="#a"/><use xlink:href="#a"/></g><use xlink:href="#a"/>'),
            refused,
            lambda seen: True,
        ),
        picture("SVG with entities", "a.svg", lambda: ENTITIES + b"]>" + svg("<text>&j;</text>"), refused, None),
        picture("SVG, compressed", "a.svgz", lambda: zlib.compress(svg(SVG_SCENE), wbits=31), "drawn", looks_right),
        picture(
            "SVG with a huge blur",
            "a.svg",
            lambda: svg(
                '<filter id="f"><feGaussianBlur stdDeviation="9999"/></filter>'
                + SVG_SCENE.replace("/>", ' filter="url(#f)"/>')
            ),
            "refused or drawn within seconds",
            lambda seen: True,
        ),
    ]


def not_pictures() -> list[Kind]:
    jpeg = encoded(Image.fromarray(scene((400, 300))), "JPEG")
    cases: list[tuple[str, str, Callable[[], bytes], tuple[str, ...]]] = [
        ("HEIC, damaged or without the extra `heic`", "a.heic", lambda: HEIC, ("HEIC",)),
        ("HEIC called .jpg, the same", "a.jpg", lambda: HEIC, ("HEIC",)),
        ("JPEG cut short", "a.jpg", lambda: jpeg[: len(jpeg) // 2], ("damaged", "cut")),
        ("JPEG with a damaged header", "a.jpg", lambda: jpeg[:4] + b"\0" * 40 + jpeg[44:], ()),
        ("empty file", "a.png", lambda: b"", ("empty", "0 bytes")),
        ("text called .png", "a.png", lambda: b"not a picture at all", ("not a picture",)),
        ("Git LFS pointer", "a.png", lambda: POINTER, ("Git LFS",)),
        ("login page saved as .jpg", "a.jpg", lambda: LOGIN_PAGE, ("web page", "HTML")),
        ("PDF called .png", "a.png", lambda: b"%PDF-1.7\n" + bytes(400), ("PDF",)),
        ("EPS, which calls a program", "a.eps", lambda: encoded(rgb(), "EPS"), ("EPS", "not a picture")),
        ("PNG of 30,000 x 30,000 in 2.6 MB", "a.png", lambda: huge_png(30_000), ("pixels",)),
        ("Word file called .jpg", "a.jpg", lambda: b"PK\x03\x04" + bytes(400), ("not a picture",)),
    ]
    return [picture(name, file, make, "refused, with what it is", None, *told) for name, file, make, told in cases]


# Sounds


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


# What extras read


def heic() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(rgb()).save(buffer, quality=90)
    return buffer.getvalue()


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
    pictures = [
        picture("HEIC of an iPhone, with the extra `heic`", "a.heic", heic, "the picture as it looks", looks_right),
        picture("HEIC called .jpg, with the extra `heic`", "a.jpg", heic, "the picture as it looks", looks_right),
    ]
    containers = {
        "m4a of a phone": ("a.m4a", "ipod", "aac", 44_100),
        "raw AAC": ("a.aac", "adts", "aac", 44_100),
        "3gp of a phone": ("a.3gp", "3gp", "aac", 32_000),
        "webm of a browser": ("a.webm", "webm", "libopus", 48_000),
        "amr of an old phone": ("a.amr", "amr", "libopencore_amrnb", 8_000),
    }
    sounds = [
        sound(f"{name}, with the extra `av`", file, partial(recorded, *how), "heard as it was spoken", heard)
        for name, (file, *how) in containers.items()
    ]
    return [
        *(replace(one, needs="pillow_heif") for one in pictures),
        *(replace(one, needs="av") for one in sounds),
    ]


def kinds() -> list[Kind]:
    return [
        *formats(),
        *tones(),
        *drawings(),
        *not_pictures(),
        *sound_formats(),
        *recordings(),
        *by_extras(),
    ]
