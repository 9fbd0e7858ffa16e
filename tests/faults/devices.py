"""Small stores for tests: a directory, its keys beside it, and samples that are easy to tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from homeroom.data.samples import StoredSample
from homeroom.store import Store
from homeroom.store.master_keys import FolderKeys

SECRET_WORD = "wolframite"  # nobody but a pupil writes this


def make_sample(number: int, subject: str = "p-17", **facts: str) -> StoredSample:
    """A text and a picture of about 3 KB, unlike any other number's."""
    picture = np.random.default_rng(number).bytes(3000) + SECRET_WORD.encode()
    return StoredSample(
        inputs={"text": [f"{SECRET_WORD} {number}"], "picture": [picture, None]},
        labels={"category": "animals"},
        subject=subject,
        **facts,
    )


def open_store(home: Path, **options: bool) -> Store:
    """The store home/device with its keys in home/keys."""
    return Store.open(home / "device", FolderKeys(home / "keys"), **options)


def texts(store: Store) -> list[str]:
    return [sample.inputs["text"][0] for sample in store.samples()]


def numbers(store: Store) -> list[int]:
    """The numbers of the samples held, in order; fails on a sample that is not exactly as it was made."""
    found = []
    for sample in store.samples():
        number = int(sample.inputs["text"][0].split()[1])
        assert sample.inputs == make_sample(number).inputs
        found.append(number)
    return found


def features(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(-128, 127, (2, 5, 4)).astype(np.int8)


def theta(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=300).astype(np.float32)
