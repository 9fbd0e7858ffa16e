"""Preprocessing: from a raw value to the inputs of a features graph, the same on the device and in the exporter.

One module a modality. Decoders (Pillow, resvg, soundfile, soxr, tokenizers) are imported when first used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from homeroom.contract.manifest import (
    AudioPreprocess,
    ImagePreprocess,
    Modality,
    Preprocess,
    SequencePreprocess,
    TablePreprocess,
    TextPreprocess,
)
from homeroom.data.preprocess.prepared import Prepared, smallest_bucket

__all__ = ["Prepared", "collate", "has_buckets", "hashed_content", "prepare", "smallest_bucket"]


def prepare(
    modality: Modality, value: Any, bundle_file: Callable[[str], Path], limit_bytes: int | None = None
) -> Prepared:
    """Prepares one input: a text, an encoded picture or sound, a table row, or a list of interactions.

    Files are decoded in this process: those of the store, which the decoder has decoded within its bounds before they
    were sealed (`decoder.media.prepare_outside` for others), of a signed bundle, and of an exporter.

    bundle_file: a bundle's file by its name. limit_bytes: at the peak of decoding a picture, where memory is scarce.
    Raises InputError if the value cannot be decoded.
    """
    match modality.preprocess:
        case TextPreprocess() as spec:
            from homeroom.data.preprocess import text

            return text.prepare(bundle_file(spec.tokenizer), value, modality.buckets[-1], spec.version)
        case ImagePreprocess() as spec:
            from homeroom.data.preprocess import image

            return image.prepare(spec, image.decode_stored(value, spec.version, limit_bytes), modality.buckets[-1])
        case AudioPreprocess() as spec:
            from homeroom.data.preprocess import audio

            return audio.prepare(spec, *audio.decode_stored(value, spec.version), modality.buckets[-1])
        case TablePreprocess() as spec:
            from homeroom.data.preprocess import table

            return table.prepare(spec, value)
        case SequencePreprocess() as spec:
            from homeroom.data.preprocess import sequence

            return sequence.prepare(spec, value, modality.buckets[-1])


def has_buckets(spec: Preprocess) -> bool:
    """Whether inputs differ in length and are padded to a bucket of tokens."""
    return isinstance(spec, TextPreprocess | SequencePreprocess)


def collate(modality: Modality, prepared: Sequence[Prepared]) -> dict[str, np.ndarray]:
    """Feeds of a features graph for a batch [n, ...], padded to the smallest bucket that holds all inputs."""
    if isinstance(modality.preprocess, TextPreprocess):
        from homeroom.data.preprocess import text

        length = smallest_bucket(modality.buckets, max(p.tokens for p in prepared))
        return text.collate(prepared, length, modality.preprocess.pad_id)
    if isinstance(modality.preprocess, SequencePreprocess):
        from homeroom.data.preprocess import sequence

        return sequence.collate(prepared, smallest_bucket(modality.buckets, max(p.tokens for p in prepared)))
    return {name: np.stack([p.arrays[name] for p in prepared]) for name in prepared[0].arrays}


def hashed_content(value: Any) -> bytes:
    """The bytes whose SHA-256 identifies an input."""
    if isinstance(value, Mapping):
        return b"row\0" + json.dumps(value, sort_keys=True).encode()
    if isinstance(value, list):
        return b"sequence\0" + json.dumps(value).encode()
    return b"text\0" + value.encode() if isinstance(value, str) else b"file\0" + bytes(value)
