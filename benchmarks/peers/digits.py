"""Spoken digits, as every method of `benchmarks/device.py` hears them: 400 clips, one split; standard library only.

Source: the free spoken digit dataset (Jackson et al.), CC BY-SA 4.0. The file is not part of this project; its hash is.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from peers.data import pinned

FILE = "spoken_digits/spoken_digits.zip"
SHA256 = "473b9414d0ea99c32968433a8f6e4722bb630346bdf376ce71ea3fc1cdc25208"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST, VALIDATION = (8, 9), (7,)  # recordings of each digit by each speaker, ten in all


@dataclass(frozen=True)
class Clip:
    name: str
    digit: int
    part: str  # train, validation or test
    data: bytes


def clips(folder: Path) -> list[Clip]:
    """Every clip."""
    data, found = pinned(folder, FILE, SHA256), []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".wav")):
            digit, _, take = Path(name).stem.split("_")
            part = "test" if int(take) in TEST else "validation" if int(take) in VALIDATION else "train"
            found.append(Clip(Path(name).name, int(digit), part, archive.read(name)))
    return found
