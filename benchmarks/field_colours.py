"""Colours, animations and several pages of pictures, of the field benchmark: what phones, presses and messengers write."""

from __future__ import annotations

import io
import struct
import zlib

import icc
import numpy as np
from PIL import Image, ImageCms

from field_kind import Kind, and_said
from field_media import as_seen, encoded, looks_right, picture, rgb, scene


def iphone_screen() -> bytes:
    """A picture of an iPhone's screen: PNG with 16 bits a channel, of the scene in Display P3."""
    pixels = into_p3(rgb())
    rows = b"".join(b"\0" + row.tobytes() for row in (np.asarray(pixels).astype(">u2") * 257))
    header = struct.pack(">IIBBBBB", pixels.width, pixels.height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"iCCP", b"Display P3\0\0" + zlib.compress(icc.rgb())), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def into_p3(picture: Image.Image) -> Image.Image:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc.rgb()))
    return ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), profile)


def kinds() -> list[Kind]:
    cyan, photo = Image.new("CMYK", (64, 64), (255, 0, 0, 0)), Image.fromarray(scene((400, 300)))
    right = as_seen(*scene().reshape(-1, 3).mean(0), within=4.0)
    several = "the first, and said"
    return [
        picture("photo in Display P3", "a.jpg", lambda: encoded(into_p3(photo), "JPEG", quality=95, icc_profile=icc.rgb()), "its colours", as_seen(*scene((400, 300)).reshape(-1, 3).mean(0), within=4.0)),
        picture("iPhone's screen, 16 bit in Display P3", "a.png", iphone_screen, "its colours", right),
        picture("TIFF in CMYK of a press", "a.tif", lambda: encoded(cyan, "TIFF", icc_profile=icc.cmyk()), "as printed", as_seen(0, 164, 229)),
        and_said(picture("JPEG in CMYK without a profile", "a.jpg", lambda: encoded(photo.convert("CMYK"), "JPEG", quality=95), "approximate colours, and said", looks_right), "in CMYK without"),
        and_said(picture("a damaged colour profile", "a.png", lambda: encoded(rgb(), "PNG", icc_profile=b"broken"), "taken as sRGB, and said", looks_right), "colour profile cannot be used"),
        and_said(picture("a scan of two pages (TIFF)", "a.tif", lambda: encoded(rgb(), "TIFF", save_all=True, append_images=[Image.new("RGB", (64, 64))]), several, looks_right), "several pictures"),
        and_said(picture("animated WebP of a messenger", "a.webp", lambda: encoded(rgb(), "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64))], lossless=True), several, looks_right), "several pictures"),
        and_said(picture("animated PNG", "a.png", lambda: encoded(rgb(), "PNG", save_all=True, append_images=[Image.new("RGB", (64, 64))]), several, looks_right), "several pictures"),
    ]  # fmt: skip
