"""Error feedback: what a lossy codec left out of an update, kept for the next one (Karimireddy et al. 2019)."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from homeroom.contract.layout import Layout
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update_checks import read_update


def make_residual(data: bytes, configuration: RoundConfiguration, layout: Layout, delta: np.ndarray) -> bytes:
    """The part of `delta`, float32 [P], that the encoded update `data` lost to a lossy codec.

    safetensors, float32 [size] by segment_id; empty for `fixed32`, which loses only the grid's rounding.
    """
    read = read_update(data, configuration, layout)
    if read.header.codec == "fixed32":
        return b""
    rest, grid = delta.copy(), np.float32(2.0**-read.header.scale_bits)
    for name, values in read.values.items():
        rest[layout.indices(name, read.header.tier)] -= grid * values.astype(np.float32)
    residuals = {name: part for name, part in layout.split(rest).items() if name in read.values}
    packed: bytes = safetensors.numpy.save({layout[name].segment_id: values for name, values in residuals.items()})
    return packed


def unpack_residual(residual: bytes, layout: Layout) -> np.ndarray:
    """A residual as float32 [P]; zeros for segments that it does not hold, or that this layout has changed."""
    tensors = safetensors.numpy.load(residual) if residual else {}
    parts = {s.name: tensors[s.segment_id] for s in layout if s.segment_id in tensors}
    return layout.join(parts, np.zeros(layout.size, np.float32))
