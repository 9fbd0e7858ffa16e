"""What near copies of a sample have in common, as bytes: equal for a picture saved again, a text typed again.

Pictures: the gradient hash (dHash) of 8 x 8 brightness steps, with a coarse colour beside it, so that a drawing in
another colour is another picture. A step counts from MARGIN grey levels on: compression then moves none. Sounds and
table rows must be equal.
"""

from __future__ import annotations

import re
from hashlib import sha256

import numpy as np
from PIL import Image

from homeroom.contract.manifest import ImagePreprocess, Manifest
from homeroom.data.preprocess import hashed_content
from homeroom.data.preprocess.image import decode
from homeroom.data.samples import StoredInput, StoredSample

HASH_SIDE, STEP_MARGIN, LEAST_STEPS = 8, 12, 5
COLOUR_LEVELS = 4  # levels of each of red, green and blue, on average over the picture


def near_duplicate_digest(sample: StoredSample, manifest: Manifest) -> bytes:
    """32 bytes of all inputs with their slots and places."""
    found = sha256()
    for slot, places in sorted(sample.inputs.items()):
        pictures = isinstance(manifest.modality(manifest.slot(slot).modality).preprocess, ImagePreprocess)
        for place, value in enumerate(places):
            if value is not None:
                found.update(f"{slot}/{place}\0".encode() + sha256(_normalized(value, pictures)).digest())
    return found.digest()


def _normalized(value: StoredInput, picture: bool) -> bytes:
    if isinstance(value, str):
        return re.sub(r"\W+", " ", value.casefold()).strip().encode() or value.encode()
    if picture and isinstance(value, bytes):
        return _gradient_hash(decode(value)) or hashed_content(value)
    return hashed_content(value)


def _gradient_hash(picture: Image.Image) -> bytes:
    """b"" for one with too few steps to be told from others by."""
    grey = np.asarray(picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    rising = grey[:, 1:] > grey[:, :-1] + STEP_MARGIN
    if rising.sum() < LEAST_STEPS:
        return b""
    colour = np.asarray(picture.resize((1, 1), Image.Resampling.BOX)).reshape(3) // (256 // COLOUR_LEVELS)
    return np.packbits(rising).tobytes() + colour.astype(np.uint8).tobytes()
