"""Error feedback: what a lossy codec left out of an update, kept for the next one (Karimireddy et al. 2019)."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from homeroom.contract.layout import Layout
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update_checks import read_update


def left_over(data: bytes, configuration: RoundConfiguration, layout: Layout, wanted: np.ndarray) -> bytes:
    """What an update with a lossy codec could not carry of `wanted`, float32 [P], as its reader will see it.

    safetensors: float32 [size] by segment_id. Empty where nothing was lost but the grid's own rounding.
    """
    read = read_update(data, configuration, layout)
    if read.header.codec == "fixed32":
        return b""
    rest, grid = wanted.copy(), np.float32(2.0**-read.header.scale_bits)
    for name, values in read.values.items():
        rest[layout.places(name, read.header.tier)] -= grid * values.astype(np.float32)
    lost = {name: part for name, part in layout.split(rest).items() if name in read.values}
    packed: bytes = safetensors.numpy.save({layout[name].segment_id: values for name, values in lost.items()})
    return packed


def unpack_residual(residual: bytes, layout: Layout) -> np.ndarray:
    """float32 [P] of what an update left over: zeros where it has nothing, or this layout another segment."""
    found = safetensors.numpy.load(residual) if residual else {}
    parts = {s.name: found[s.segment_id] for s in layout if s.segment_id in found}
    return layout.join(parts, np.zeros(layout.size, np.float32))
