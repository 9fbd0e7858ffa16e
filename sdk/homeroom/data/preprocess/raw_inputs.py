"""Inputs of a backbone with LoRA inside, which the step's graph reads itself in place of features; numpy.

One input is kept small until its batch is made: token ids int64 [n], or a picture's pixels uint8 [3, size, size].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homeroom.contract.manifest import ImagePreprocess, Modality
from homeroom.data.preprocess.prepared import Prepared


def raw_input(modality: Modality, prepared: Prepared) -> np.ndarray:
    """What is kept of one prepared input; the pixels are those before normalisation, exactly."""
    spec = modality.preprocess
    if not isinstance(spec, ImagePreprocess):
        return np.asarray(prepared.arrays["input_ids"], np.int64)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    return np.asarray(np.rint((prepared.arrays["pixels"] * std + mean) * 255), np.uint8)


def token_count(modality: Modality, array: np.ndarray) -> int:
    """Tokens of one input of any modality, features or not; 1 of a picture that the step reads itself."""
    if modality.adapter == "ladder":
        return int(array.shape[1])
    return len(array) if array.ndim == 1 else 1


def token_bytes(modality: Modality) -> int:
    """Bytes that are held for one token of an input, features or not; of a picture without features, for all of it."""
    if modality.adapter == "ladder":
        return len(modality.taps) * modality.dim
    spec = modality.preprocess
    return 3 * spec.size**2 if isinstance(spec, ImagePreprocess) else np.dtype(np.int64).itemsize


def pad_id(modality: Modality) -> int:
    """The token that fills up a text."""
    return int(getattr(modality.preprocess, "pad_id", 0))


def empty_batch(modality: Modality, rows: int, count: int, tokens: int) -> dict[str, np.ndarray]:
    """Arrays [rows, count, ...] by what follows the slot's name in the graph's inputs, every place absent."""
    if isinstance(modality.preprocess, ImagePreprocess):
        size = modality.preprocess.size
        return {"pixels": np.zeros((rows, count, 3, size, size), np.uint8)}
    return {
        "input_ids": np.full((rows, count, tokens), pad_id(modality), np.int64),
        "mask": np.zeros((rows, count, tokens), np.float32),
    }


def fill_input(arrays: Mapping[str, np.ndarray], row: int, place: int, one: np.ndarray) -> None:
    """Put one input, features or not, in its place of what a step reads of its slot: arrays [rows, count, ...]."""
    if "pixels" in arrays:
        arrays["pixels"][row, place] = one
        return
    tokens = one.shape[-2] if "features" in arrays else len(one)
    if "features" in arrays:
        arrays["features"][row, place, :, :tokens] = one
    else:
        arrays["input_ids"][row, place, :tokens] = one
    arrays["mask"][row, place, :tokens] = 1.0
