"""Near-duplicate detection: a digest that is equal for a picture saved again or a text typed again.

Pictures: the gradient hash (dHash) of 8 x 8 brightness steps and a coarse mean colour, so that a drawing in another
colour is another picture. Sounds and table rows must be equal.
"""

from __future__ import annotations

import re
from hashlib import sha256

import numpy as np

from homeroom.contract.manifest import ImagePreprocess, Manifest, Preprocess
from homeroom.data.decoder import client
from homeroom.data.preprocess import hashed_content
from homeroom.data.preprocess.media import decoded
from homeroom.data.samples import StoredInput, StoredSample

HASH_SIDE = 8
STEP_MARGIN = 12  # grey levels; compression moves no smaller step
LEAST_STEPS = 5
COLOUR_LEVELS = 4  # of each of red, green and blue


def near_duplicate_digest(sample: StoredSample, manifest: Manifest) -> bytes:
    """SHA-256 over the normalized inputs with their slots and indices, 32 bytes."""
    hasher = sha256()
    for slot, values in sorted(sample.inputs.items()):
        preprocess = manifest.modality(manifest.slot(slot).modality).preprocess
        for index, value in enumerate(values):
            if value is not None:
                hasher.update(f"{slot}/{index}\0".encode() + sha256(_normalized(value, preprocess)).digest())
    return hasher.digest()


def _normalized(value: StoredInput, preprocess: Preprocess) -> bytes:
    if isinstance(value, str):
        return re.sub(r"\W+", " ", value.casefold()).strip().encode() or value.encode()
    if isinstance(preprocess, ImagePreprocess) and isinstance(value, bytes):
        return client.run(gradient_hash, preprocess, value) or hashed_content(value)
    return hashed_content(value)


def gradient_hash(preprocess: Preprocess, data: bytes) -> bytes:
    """dHash and mean colour of a picture; b"" if it has too few steps to tell it from others. Runs in the decoder."""
    from PIL import Image

    picture = decoded(preprocess, data)
    grey = np.asarray(picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    rising = grey[:, 1:] > grey[:, :-1] + STEP_MARGIN
    if rising.sum() < LEAST_STEPS:
        return b""
    colour = np.asarray(picture.resize((1, 1), Image.Resampling.BOX)).reshape(3) // (256 // COLOUR_LEVELS)
    return np.packbits(rising).tobytes() + colour.astype(np.uint8).tobytes()
