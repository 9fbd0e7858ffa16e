"""A reduced lesson for machines where the stamps cannot be had: handwritten digits and their names, without sound.

The pictures are scikit-learn's (UCI, CC BY 4.0), the names are written here. It shows that everything runs; what it
measures says nothing about the real lesson.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from examples.vocabulary.schools import SCHOOLS, Pair, School
from examples.vocabulary.splits import TEST, Row, share
from examples.vocabulary.stamps import Stamp, cache_folder

NAMES = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "es": ["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"],
    "fr": ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
}
CATEGORIES = ("none", "small", "middle", "large")  # 0, 1 to 3, 4 to 6, 7 to 9
EACH = 90  # pictures of one digit
SILENT = tuple(
    replace(school, senses=tuple(sense for sense in ("word", "picture") if school.name != "Puerto" or sense == "word"))
    for school in SCHOOLS
)


def schools() -> tuple[School, ...]:
    """The lesson's schools without sound; the one without pictures has words alone."""
    return SILENT


def pairs() -> list[Pair]:
    """The pictures with their names, split by a hash of the picture; the same bytes are always in the same part."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    seen: dict[int, int] = {}
    found = []
    for pixels, digit in zip(images, digits, strict=True):
        number = seen[int(digit)] = seen.get(int(digit), 0) + 1
        if number <= EACH:
            found.append(_pair(pixels, int(digit), number))
    return found


def _pair(pixels: np.ndarray, digit: int, number: int) -> Pair:
    category = CATEGORIES[(digit + 2) // 3]
    name = f"{category}/{digit}-{number:03d}"
    path = _draw(pixels, name)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()[:12]
    captions = {language: words[digit] for language, words in NAMES.items()}
    part = "test" if share("test", digest) < TEST else "train"
    return Stamp(name, category, path, captions, {}), Row(name, digest, part, digest)


def _draw(pixels: np.ndarray, name: str) -> Path:
    """pixels: 64 values from 0 to 16, dark on white when drawn."""
    path = cache_folder() / "vocabulary-digits" / f"{name}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = (255 - pixels.reshape(8, 8) * 15.9).astype(np.uint8)
        Image.fromarray(grey).resize((128, 128), Image.Resampling.BICUBIC).convert("RGB").save(path)
    return path
