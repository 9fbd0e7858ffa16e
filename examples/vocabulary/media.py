"""The lesson's pictures as small square PNGs, drawn once into the cache, so that five schools do not draw SVGs anew.

The white around a picture is cut off first: many stamps are a small thing on a large empty sheet.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageOps

from examples.vocabulary.stamps import cache_folder
from homeroom.data.preprocess.image import decode

SIDE, MARGIN = 256, 8
NEARLY_WHITE = 12  # how far from white a pixel may be, of 255
LINK = re.compile(rb'<image [^>]*href="pencil1\.png"/>')  # in one stamp, to a sketch that its package lacks


def square(path: Path) -> Path:
    """A picture as a PNG of SIDE x SIDE pixels on white, in the cache."""
    data = path.read_bytes()
    place = cache_folder() / f"vocabulary-pictures-{SIDE}" / f"{hashlib.sha256(data).hexdigest()[:24]}.png"
    if not place.exists():
        picture = decode(LINK.sub(b"", data), str(path))
        drawn = ImageOps.invert(picture.convert("L")).point(lambda value: value if value > NEARLY_WHITE else 0)
        picture = picture.crop(drawn.getbbox())
        picture = ImageOps.contain(picture, (SIDE - 2 * MARGIN,) * 2, Image.Resampling.LANCZOS)
        whole = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
        whole.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=place.parent, suffix=".partial")
        os.close(handle)
        whole.save(scratch, "PNG")
        os.replace(scratch, place)
    return place


def draw(paths: Iterable[Path]) -> None:
    """Draw pictures into the cache, on all processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(square, paths):
            pass


def bring(path: Path, folder: Path, name: str) -> str:
    """Copy a picture (drawn small) or a sound into `folder`/media; the path relative to `folder`, for JSON Lines."""
    source = path if path.suffix == ".ogg" else square(path)
    target = folder / "media" / f"{name.replace('/', '.')}{source.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(source, target)
    return target.relative_to(folder).as_posix()
