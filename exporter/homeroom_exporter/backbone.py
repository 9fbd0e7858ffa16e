"""One modality's frozen backbone: encoder, taps, compression and quantization, as files; imports every step of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from homeroom.contract.manifest import Licence, Modality
from homeroom_exporter.encoders.spec import EncoderSpec

__all__ = ["Backbone", "EncoderSpec"]


@dataclass(frozen=True)
class Backbone:
    """A built modality. Its files stand in the scratch directory that the caller gave.

    graphs: precision (`float32`, `int8`) to file; both have the same compression inside and give int8 features.
    scale: float32 [taps, dim]; a feature's value is int8 * scale. files: bundle name to file (tokenizer, licences).
    float_bytes: size of the encoder's original float32 weights.
    """

    modality: Modality
    graphs: dict[str, Path]
    scale: NDArray[np.float32]
    files: dict[str, Path]
    licences: tuple[Licence, ...]
    float_bytes: int
