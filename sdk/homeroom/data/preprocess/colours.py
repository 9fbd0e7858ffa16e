"""Colour profiles (ICC) of pictures, by Pillow's littlecms: from preprocessing version 2 on, pixels are sRGB."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageCms

NOTE = "colour note"  # of a decoded picture's `info`: what a person must know of its colours
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of Pillow, by the colour space of a profile
GREY_MODES = ("1", "L", "LA", "La", "I")  # and those of 16 bits, I;16
LEVELS = (0, 64, 128, 192, 255)
NEAR_LEVELS = 2  # a profile that moves no colour further is sRGB, and is not applied
WITHOUT_PROFILE = "is in CMYK without a colour profile, so that its colours are approximate: save it as sRGB"
WITHOUT_EFFECT = "its colour profile cannot be used, so that its colours may differ: save it as sRGB"


@dataclass(frozen=True)
class Colours:
    """How pixels become sRGB. mode: of those that the transform takes. note: for a person; empty where all is well."""

    mode: str = "RGB"
    transform: ImageCms.ImageCmsTransform | None = None
    note: str = ""

    def apply(self, pixels: Image.Image) -> Image.Image:
        """RGB of pixels in `mode`."""
        return self.transform.apply(pixels) if self.transform else pixels


def colours_of(picture: Image.Image) -> Colours:
    """How a picture's pixels become sRGB, by the profile that its file holds."""
    profile = picture.info.get("icc_profile")
    if not profile and picture.mode != "LAB":
        return Colours(note=WITHOUT_PROFILE if picture.mode == "CMYK" else "")
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile) if profile else ImageCms.createProfile("LAB"))
        mode = MODES[source.profile.xcolor_space.strip()]
        if not _fits(mode, picture.mode):
            return Colours(note=WITHOUT_EFFECT)
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    except (ImportError, KeyError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return Colours(note=WITHOUT_EFFECT)
    return Colours() if _is_srgb(transform, mode) else Colours(mode, transform)


def _fits(mode: str, pixels: str) -> bool:
    """Whether a profile's mode can be that of a picture's pixels; grey ones may have one of RGB."""
    if mode in ("CMYK", "LAB") or pixels in ("CMYK", "LAB"):
        return mode == pixels
    return mode == "RGB" or pixels in GREY_MODES or pixels.startswith("I;16")


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform changes no colour that one would see."""
    if mode not in ("RGB", "L"):
        return False
    colours = np.array(list(itertools.product(LEVELS, repeat=len(mode))), np.uint8)
    pixels = Image.fromarray(colours.reshape(1, -1, 3) if mode == "RGB" else colours.reshape(1, -1))
    moved = np.asarray(transform.apply(pixels), np.int16) - np.asarray(pixels.convert("RGB"), np.int16)
    return int(np.abs(moved).max()) <= NEAR_LEVELS
