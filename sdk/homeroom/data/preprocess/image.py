"""Preprocessing of pictures (what Pillow reads, and SVG): normalised pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from homeroom.contract.graph_io import PIXELS
from homeroom.contract.manifest import ImagePreprocess
from homeroom.data.preprocess import svg
from homeroom.data.preprocess.colours import NOTE, Colours, colours_of
from homeroom.data.preprocess.file_kind import not_read
from homeroom.data.preprocess.heic import heic_formats
from homeroom.data.preprocess.prepared import Prepared
from homeroom.errors import Code, InputError

DECODED_LIMIT_BYTES = 400_000_000  # at the peak of decoding; a picture of a telephone takes 50 to 200 MB
STORED_PIXEL_LIMIT = 64_000_000
REDUCED_PIXELS = 4 << 20  # a larger picture is decoded at a half, a quarter or an eighth of its sides
REDUCTIONS = (1, 2, 4, 8)
BITS_TAG, INTERPRETATION_TAG, WHITE_IS_ZERO = 258, 262, 0  # of TIFF
STRIP_PIXELS = 1 << 20  # converted at once
# Pillow's own decoders, the frequent ones first: none calls a program, as those of EPS, WMF and FPX do. TGA has no
# signature, so that it comes last.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "DIB", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "PCX", "TGA")
# Bytes for a pixel beside the picture's own: WebP's canvases, a TIFF's strip, the coefficients of a progressive JPEG.
WORKING_BYTES = {"WEBP": 12, "AVIF": 12, "TIFF": 8, "JPEG2000": 12, "ICO": 4, "HEIF": 12}
PROGRESSIVE_BYTES = 6
AS_THEY_ARE = Colours()
ONE_OF_SEVERAL = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # formats of animations, and of scans of several pages
# What Pillow's decoders raise for a file that is damaged.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError)


def decode(
    data: bytes, where: str = "picture", *, version: int = 1, limit_bytes: int | None = DECODED_LIMIT_BYTES
) -> Image.Image:
    """Decodes to RGB, upright, transparency on white; InputError if it is no picture, cut short or too large.

    version: of the preprocessing. From 2 on, a picture of more than REDUCED_PIXELS is given at a half, a quarter or an
    eighth of its sides, grey of 16 bits is scaled by its depth, an SVG's text is drawn, and colours are sRGB.
    limit_bytes: at the peak of decoding, by the header, before anything is decoded; None for STORED_PIXEL_LIMIT alone.
    """
    if data.startswith(svg.GZIP_MAGIC):  # .svgz
        data = svg.unpack(data, where)
    if drawn := svg.is_svg(data):
        data = svg.draw(data, where, version)
    formats = FORMATS + heic_formats(data, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as file:
                if drawn:
                    _check_shape(file, where, version, limit_bytes)
                return _upright(file, where, limit_bytes) if version == 1 else _reduced(file, where, limit_bytes)
    except UnidentifiedImageError:
        raise not_read(data, "picture", where, "use PNG, JPEG, WebP or SVG") from None
    except Image.DecompressionBombError:
        raise InputError(
            "has too many pixels", code=Code.TOO_LARGE, where=where, remedy="scale the picture down"
        ) from None
    except DECODER_ERRORS as problem:
        raise InputError(f"the picture is damaged: {problem}", where=where, remedy="copy it again") from None


def holds_several(data: bytes) -> bool:
    """Whether a file holds further pictures that are not seen, as an animation or a scan of several pages does."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=ONE_OF_SEVERAL) as file:
            warnings.simplefilter("ignore")
            return bool(getattr(file, "is_animated", False))
    except (*DECODER_ERRORS, Image.DecompressionBombError):
        return False


def decode_stored(data: bytes, version: int = 1, limit_bytes: int | None = None) -> Image.Image:
    """Decodes a picture of the store, which an earlier version may have taken under its wider bounds."""
    return decode(data, version=version, limit_bytes=limit_bytes)


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


def _upright(file: ImageFile.ImageFile, where: str, limit_bytes: int | None) -> Image.Image:
    """The whole picture, as version 1 decodes it."""
    pixels, own = file.width * file.height, 1 if file.mode in ("1", "L", "P") else 4
    _check_size(file.size, pixels * (own + max(_working_bytes(file), 0 if _stays(file) else 4)), where, limit_bytes)
    file.load()
    ImageOps.exif_transpose(file, in_place=True)
    return _to_rgb(file, _brightest(file))


def _reduced(file: ImageFile.ImageFile, where: str, limit_bytes: int | None) -> Image.Image:
    """The picture at the scale of REDUCED_PIXELS; JPEG's decoder reduces by itself, and never holds the whole."""
    pixels = file.width * file.height
    scale = next((n for n in REDUCTIONS if pixels <= REDUCED_PIXELS * n * n), REDUCTIONS[-1])
    working = pixels * _working_bytes(file)
    if file.format in ("JPEG", "MPO"):
        file.draft(None, (file.width // scale, file.height // scale))
        scale = 1
    own = 1 if file.mode in ("1", "L", "P") else 4
    decoded = file.width * file.height
    _check_size(file.size, working + decoded * own + 8 * decoded // scale**2, where, limit_bytes)
    file.load()
    orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    colours = colours_of(file)
    picture = _to_rgb(file, _white(file, where), scale, colours)
    if orientation != 1:
        picture.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(picture, in_place=True)
    picture.info[NOTE] = colours.note
    return picture


def _working_bytes(file: ImageFile.ImageFile) -> int:
    """Bytes a pixel that its decoder takes beside the picture."""
    return PROGRESSIVE_BYTES if "progressive" in file.info else WORKING_BYTES.get(str(file.format), 0)


def _check_shape(file: ImageFile.ImageFile, where: str, version: int, limit_bytes: int | None) -> None:
    """Refuses an SVG that is too long to be seen."""
    if version == 1:
        long = file.width < svg.FIRST_WIDTH_PIXELS and limit_bytes is not None
    else:
        long = min(file.size) * svg.MOST_SHAPE < svg.CANVAS_PIXELS
    if long:
        what = f"the SVG is over {svg.MOST_SHAPE} times as high as wide" + (", or as wide as high" * (version > 1))
        raise InputError(what, code=Code.TOO_LARGE, where=where, remedy="cut it")


def _check_size(size: tuple[int, int], needed_bytes: int, where: str, limit_bytes: int | None) -> None:
    """Refuses a picture by its header. size: as it is decoded."""
    if size[0] * size[1] > STORED_PIXEL_LIMIT or (limit_bytes is not None and needed_bytes > limit_bytes):
        raise InputError(
            f"{size[0]} x {size[1]} pixels would take {needed_bytes / 1e6:,.0f} MB to decode, "
            f"more than {(limit_bytes or DECODED_LIMIT_BYTES) / 1e6:.0f}",
            code=Code.TOO_LARGE,
            where=where,
            remedy="scale the picture down",
        )


def _stays(file: ImageFile.ImageFile) -> bool:
    """Whether the decoded pixels are the result; of other formats the orientation is not known before decoding."""
    stays = file.mode == "RGB" and file.format in ("JPEG", "MPO")
    return stays and bool(file.getexif().get(ExifTags.Base.Orientation, 1) == 1)


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode.startswith("I;16") or picture.mode == "I"


def _brightest(picture: Image.Image) -> float:
    """The level that version 1 takes for white in grey of 16 bits: its brightest."""
    if not _is_deep(picture):
        return 1.0
    return max(1.0, *(float(np.asarray(picture.crop(box), np.float32).max()) for box in _strips(picture)))


def _white(file: ImageFile.ImageFile, where: str) -> float:
    """The level of white in grey of 16 bits, by its depth; InputError where it is not known."""
    tags: Mapping[int, Any] = getattr(file, "tag_v2", {})
    bits = int(np.ravel(tags.get(BITS_TAG, 16))[0])
    if file.mode == "F" or (_is_deep(file) and bits > 16):
        raise InputError("has grey levels whose white is not known", where=where, remedy="save it with 8 or 16 bits")
    if _is_deep(file) and tags.get(INTERPRETATION_TAG) == WHITE_IS_ZERO:
        raise InputError("has grey levels of 16 bits with white at zero", where=where, remedy="save it as PNG")
    return 2.0**bits - 1


def _strips(picture: Image.Image, scale: int = 1) -> list[tuple[int, int, int, int]]:
    """Boxes of some rows each, a multiple of `scale`."""
    rows = max(1, STRIP_PIXELS // max(1, picture.width * scale)) * scale
    return [(0, top, picture.width, min(top + rows, picture.height)) for top in range(0, picture.height, rows)]


def _to_rgb(picture: Image.Image, white: float, scale: int = 1, colours: Colours = AS_THEY_ARE) -> Image.Image:
    """Converts strip by strip, so that no second copy of a large picture is made.

    white: the level of white, of grey with more than 8 bits
    scale: by which both sides are reduced
    colours: how they become sRGB
    """
    alpha = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    if picture.mode == "RGB" and not alpha and scale == 1 and colours.transform is None:
        return picture
    rgb = Image.new("RGB", (-(-picture.width // scale), -(-picture.height // scale)))
    for box in _strips(picture, scale):
        strip = picture.crop(box)
        if _is_deep(picture):
            strip = Image.fromarray((np.asarray(strip, np.float32) / white * 255).astype(np.uint8))
        elif alpha:
            layer = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
        strip = strip.convert(colours.mode)
        rgb.paste(colours.apply(strip.reduce(scale) if scale > 1 else strip), (0, box[1] // scale))
    return rgb
