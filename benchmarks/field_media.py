"""Pictures of the field benchmark: the formats and the damage that phones, scanners and webs make."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from field_kind import Kind, Outcome, Verdict, right_if

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(256)) * 8
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in to the school's network</body></html>"
)


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


picture = partial(media, "picture", "picture")


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


def heic() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(rgb()).save(buffer, quality=90)
    return buffer.getvalue()


def by_extras() -> list[Kind]:
    each = [
        picture("HEIC of an iPhone, with the extra `heic`", "a.heic", heic, "the picture as it looks", looks_right),
        picture("HEIC called .jpg, with the extra `heic`", "a.jpg", heic, "the picture as it looks", looks_right),
    ]
    return [replace(one, needs="pillow_heif") for one in each]


def kinds() -> list[Kind]:
    return [*formats(), *tones(), *drawings(), *not_pictures(), *by_extras()]
