"""The lesson's pictures as small square PNGs, drawn once into the cache, so that five schools do not draw SVGs anew."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from examples.vocabulary.stamps import cache_folder
from homeroom.preprocess.image import decode

SIDE = 256


def square(path: Path) -> Path:
    """A picture as a PNG of SIDE x SIDE pixels on white, in the cache."""
    data = path.read_bytes()
    place = cache_folder() / "vocabulary-pictures" / f"{hashlib.sha256(data).hexdigest()[:24]}.png"
    if not place.exists():
        picture = decode(data, str(path))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        whole = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
        whole.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=place.parent, suffix=".partial")
        os.close(handle)
        whole.save(scratch, "PNG")
        os.replace(scratch, place)
    return place


def bring(path: Path, folder: Path, name: str) -> str:
    """Copy a picture (drawn small) or a sound into `folder`/media; the path relative to `folder`, for JSON Lines."""
    source = path if path.suffix == ".ogg" else square(path)
    target = folder / "media" / f"{name.replace('/', '.')}{source.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(source, target)
    return target.relative_to(folder).as_posix()
