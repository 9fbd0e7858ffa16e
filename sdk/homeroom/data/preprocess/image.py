"""Preprocessing of pictures (what Pillow reads, and SVG): normalised pixels."""

from __future__ import annotations

import io
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from homeroom.contract.graph_io import PIXELS
from homeroom.contract.manifest import ImagePreprocess
from homeroom.data.decoder.limits import narrow_time
from homeroom.data.preprocess.file_kind import named_kind
from homeroom.data.preprocess.heic import heic_formats
from homeroom.data.preprocess.prepared import Prepared
from homeroom.errors import Code, InputError

DECODED_LIMIT_BYTES = 400_000_000  # at the peak of decoding; a picture of a telephone takes 50 to 200 MB
STORED_PIXEL_LIMIT = 64_000_000
SVG_WIDTH_PIXELS, SVG_HEIGHT_LIMIT_PIXELS = 512, 8192  # of the canvas that an SVG is drawn on
SVG_LIMIT_BYTES = 8 << 20
SVG_LIMIT_S = 4.0  # of the processor: a few filters, masks or patterns of a small file can take hours
GZIP_MAGIC, GZIP_WINDOW = b"\x1f\x8b", 31  # zlib's number for gzip's header
STRIP_PIXELS = 1 << 20  # converted at once
# Pillow's own decoders, the frequent ones first: none calls a program, as those of EPS, WMF and FPX do. TGA has no
# signature, so that it comes last.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "DIB", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "PCX", "TGA")
# Bytes for a pixel beside the picture's own: WebP's canvases, a TIFF's strip, the coefficients of a progressive JPEG.
WORKING_BYTES = {"WEBP": 12, "AVIF": 12, "TIFF": 8, "JPEG2000": 12, "ICO": 4, "HEIF": 12}
PROGRESSIVE_BYTES = 6


def decode(data: bytes, where: str = "picture", *, limit_bytes: int | None = DECODED_LIMIT_BYTES) -> Image.Image:
    """Decodes to RGB, upright, transparency on white; InputError if it is no picture, cut short or too large.

    limit_bytes: at the peak of decoding, by the header, before anything is decoded; None for STORED_PIXEL_LIMIT alone.
    """
    if data.startswith(GZIP_MAGIC):  # .svgz
        data = _unpack_svg(data, where)
    if drawn := _is_svg(data):
        data = _render_svg(data, where)
    formats = FORMATS + heic_formats(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as file:
                if drawn and file.width < SVG_WIDTH_PIXELS and limit_bytes is not None:
                    high = SVG_HEIGHT_LIMIT_PIXELS // SVG_WIDTH_PIXELS
                    raise InputError(f"the SVG is over {high} times as high as wide", code=Code.TOO_LARGE, where=where)
                _check_size(file, where, limit_bytes)
                file.load()
                ImageOps.exif_transpose(file, in_place=True)
                return _to_rgb(file)
    except UnidentifiedImageError:
        what = f"is not a picture that can be read{named_kind(data)}"
        raise InputError(what, where=where, remedy="use PNG, JPEG, WebP or SVG") from None
    except Image.DecompressionBombError:
        raise InputError(
            "has too many pixels", code=Code.TOO_LARGE, where=where, remedy="scale the picture down"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError) as problem:
        raise InputError(f"the picture is damaged: {problem}", where=where, remedy="copy it again") from None


def decode_stored(data: bytes) -> Image.Image:
    """Decodes a picture of the store, which an earlier version may have taken under its wider bounds."""
    return decode(data, limit_bytes=None)


def prepare(spec: ImagePreprocess, picture: Image.Image, tokens: int) -> Prepared:
    """`pixels` float32 [3, size, size], resized, cropped to the centre and normalised; picture: RGB."""
    width, height = size_before_crop(spec, picture.size)
    picture = picture.resize((width, height), Image.Resampling[spec.resample.upper()])
    left, top = (width - spec.size) // 2, (height - spec.size) // 2
    picture = picture.crop((left, top, left + spec.size, top + spec.size))
    pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255.0
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
    return Prepared({PIXELS: np.ascontiguousarray((pixels - mean) / std)}, tokens)


def size_before_crop(spec: ImagePreprocess, sides: tuple[int, int]) -> tuple[int, int]:
    """Width and height before the crop; sides: those of the picture."""
    if spec.fit == "squash":
        return spec.resize, spec.resize
    if spec.fit == "cover-floor":
        width, height = (spec.resize * side // min(sides) for side in sides)
    else:
        width, height = (round(side * (spec.resize / min(sides))) for side in sides)
    return max(spec.size, width), max(spec.size, height)


def _check_size(file: ImageFile.ImageFile, where: str, limit_bytes: int | None) -> None:
    """Refuses a picture by its header."""
    pixels, own = file.width * file.height, 1 if file.mode in ("1", "L", "P") else 4
    working = PROGRESSIVE_BYTES if "progressive" in file.info else WORKING_BYTES.get(str(file.format), 0)
    needed = pixels * (own + max(working, 0 if _stays(file) else 4))
    if pixels > STORED_PIXEL_LIMIT or (limit_bytes is not None and needed > limit_bytes):
        raise InputError(
            f"{file.width} x {file.height} pixels would take {needed / 1e6:,.0f} MB to decode, "
            f"more than {(limit_bytes or DECODED_LIMIT_BYTES) / 1e6:.0f}",
            code=Code.TOO_LARGE,
            where=where,
            remedy="scale the picture down",
        )


def _stays(file: ImageFile.ImageFile) -> bool:
    """Whether the decoded pixels are the result; of other formats the orientation is not known before decoding."""
    stays = file.mode == "RGB" and file.format in ("JPEG", "MPO")
    return stays and bool(file.getexif().get(ExifTags.Base.Orientation, 1) == 1)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Converts strip by strip, so that no second copy of a large picture is made."""
    alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    if picture.mode == "RGB" and not alpha:
        return picture
    deep = picture.mode.startswith("I;16") or picture.mode == "I"
    rows = max(1, STRIP_PIXELS // max(1, picture.width))
    boxes = [(0, top, picture.width, min(top + rows, picture.height)) for top in range(0, picture.height, rows)]
    most = max((float(np.asarray(picture.crop(box), np.float32).max()) for box in boxes), default=1.0) if deep else 1.0
    rgb = Image.new("RGB", picture.size)
    for box in boxes:
        strip = picture.crop(box)
        if deep:
            strip = Image.fromarray((np.asarray(strip, np.float32) / max(most, 1.0) * 255).astype(np.uint8))
        elif alpha:
            layer = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
        rgb.paste(strip.convert("RGB"), box)
    return rgb


def _is_svg(data: bytes) -> bool:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith(b"<svg") or (
        head.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in data[:65536]
    )


def _unpack_svg(data: bytes, where: str) -> bytes:
    """Unpacks an .svgz, no further than an SVG may be long."""
    try:
        text = zlib.decompressobj(GZIP_WINDOW).decompress(data, SVG_LIMIT_BYTES + 1)
    except zlib.error as problem:
        raise InputError(f"the picture is damaged: {problem}", where=where, remedy="copy it again") from None
    return text if _is_svg(text) else b""


def _render_svg(data: bytes, where: str) -> bytes:
    import resvg_py

    if len(data) > SVG_LIMIT_BYTES:
        raise InputError(f"an SVG of over {SVG_LIMIT_BYTES >> 20} MB is not drawn", code=Code.TOO_LARGE, where=where)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try:
        # Nothing is fetched: resvg reads no network, and without a resources folder no file either. It keeps the shape
        # within both sides, whatever size the file claims.
        narrow_time(SVG_LIMIT_S)
        width, height = SVG_WIDTH_PIXELS, SVG_HEIGHT_LIMIT_PIXELS
        return bytes(resvg_py.svg_to_bytes(svg_string=text, width=width, height=height, skip_system_fonts=True))
    except Exception as problem:  # the library raises bare ValueError and its own panic type
        raise InputError(f"the SVG cannot be drawn: {problem}", where=where, remedy="save it as PNG") from None
