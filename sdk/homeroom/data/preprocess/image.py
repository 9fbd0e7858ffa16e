"""Preprocessing of pictures (what Pillow reads, and SVG): normalised pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from homeroom.contract.graph_io import PIXELS
from homeroom.contract.manifest import ImagePreprocess
from homeroom.data.preprocess.prepared import Prepared
from homeroom.errors import InputError

PIXEL_LIMIT = 64_000_000
SVG_SIDE_PIXELS = 512  # longer side that an SVG is drawn with
SVG_LIMIT_BYTES = 8 << 20


def decode(data: bytes, where: str = "picture") -> Image.Image:
    """Decodes to RGB, upright, transparency on white; InputError if it is no picture, cut short or too large."""
    if _is_svg(data):
        data = _render_svg(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as file:
                if file.width * file.height > PIXEL_LIMIT:
                    raise InputError(
                        f"{file.width} x {file.height} pixels are too many",
                        where=where,
                        remedy=f"scale it below {PIXEL_LIMIT // 1_000_000} megapixels",
                    )
                file.load()
                picture = ImageOps.exif_transpose(file)
                return _to_rgb(picture)
    except UnidentifiedImageError:
        raise InputError(
            "is not a picture that can be read", where=where, remedy="use PNG, JPEG, WebP or SVG"
        ) from None
    except Image.DecompressionBombError:
        raise InputError("has too many pixels", where=where, remedy="scale the picture down") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError) as problem:
        raise InputError(f"the picture is damaged: {problem}", where=where, remedy="copy it again") from None


def prepare(spec: ImagePreprocess, data: bytes, tokens: int) -> Prepared:
    """`pixels` float32 [3, size, size], resized, cropped to the centre and normalised."""
    picture = decode(data)
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


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        values = np.asarray(picture, np.float32)
        picture = Image.fromarray((values / max(float(values.max(initial=1)), 1.0) * 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, layer)
    return picture.convert("RGB")


def _is_svg(data: bytes) -> bool:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith(b"<svg") or (
        head.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in data[:65536]
    )


def _render_svg(data: bytes, where: str) -> bytes:
    import resvg_py

    if len(data) > SVG_LIMIT_BYTES:
        raise InputError(f"an SVG of over {SVG_LIMIT_BYTES >> 20} MB is not drawn", where=where)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try:
        # Nothing is fetched: resvg reads no network, and without a resources folder no file either.
        return bytes(resvg_py.svg_to_bytes(svg_string=text, width=SVG_SIDE_PIXELS, skip_system_fonts=True))
    except Exception as problem:  # the library raises bare ValueError and its own panic type
        raise InputError(f"the SVG cannot be drawn: {problem}", where=where, remedy="save it as PNG") from None
