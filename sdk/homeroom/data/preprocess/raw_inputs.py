"""Raw inputs of a backbone with LoRA inside, which a step's graph reads in place of features.

Until its batch is made, an input is kept small: token ids int64 [n], or a picture's pixels uint8 [3, size, size].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homeroom.contract.graph_io import FEATURES, INPUT_IDS, MASK, PIXELS
from homeroom.contract.manifest import ImagePreprocess, Modality
from homeroom.data.preprocess.prepared import Prepared


def raw_input(modality: Modality, prepared: Prepared) -> np.ndarray:
    """The raw input of a prepared one: token ids int64 [n], or the exact pixels uint8 [3, size, size]."""
    spec = modality.preprocess
    if not isinstance(spec, ImagePreprocess):
        return np.asarray(prepared.arrays[INPUT_IDS], np.int64)
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    return np.asarray(np.rint((prepared.arrays[PIXELS] * std + mean) * 255), np.uint8)


def token_count(modality: Modality, array: np.ndarray) -> int:
    """Tokens of one input, features [taps, n, dim] or raw; 1 of a raw picture."""
    if modality.adapter == "ladder":
        return int(array.shape[1])
    return len(array) if array.ndim == 1 else 1


def token_bytes(modality: Modality) -> int:
    """Bytes that one token of an input takes in memory, features or raw; of a raw picture, all of its bytes."""
    if modality.adapter == "ladder":
        return len(modality.taps) * modality.dim
    spec = modality.preprocess
    return 3 * spec.size**2 if isinstance(spec, ImagePreprocess) else np.dtype(np.int64).itemsize


def pad_id(modality: Modality) -> int:
    """Id of the padding token; 0 where the modality has none."""
    return int(getattr(modality.preprocess, "pad_id", 0))


def empty_batch(modality: Modality, rows: int, count: int, tokens: int) -> dict[str, np.ndarray]:
    """Arrays [rows, count, ...] of absent inputs, by the suffix of the graph's input names after the slot's."""
    if isinstance(modality.preprocess, ImagePreprocess):
        size = modality.preprocess.size
        return {PIXELS: np.zeros((rows, count, 3, size, size), np.uint8)}
    return {
        INPUT_IDS: np.full((rows, count, tokens), pad_id(modality), np.int64),
        MASK: np.zeros((rows, count, tokens), np.float32),
    }


def fill_input(arrays: Mapping[str, np.ndarray], row: int, index: int, value: np.ndarray) -> None:
    """Copies one input, features or raw, and its mask into a slot's arrays [rows, count, ...]."""
    if PIXELS in arrays:
        arrays[PIXELS][row, index] = value
        return
    tokens = value.shape[-2] if FEATURES in arrays else len(value)
    if FEATURES in arrays:
        arrays[FEATURES][row, index, :, :tokens] = value
    else:
        arrays[INPUT_IDS][row, index, :tokens] = value
    arrays[MASK][row, index, :tokens] = 1.0
