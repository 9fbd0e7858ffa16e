"""From raw numbers to a vector on the grid: principal components of calibration samples, scaled, cut and rounded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from homeroom.contract.statistics.accumulate import to_grid
from homeroom.contract.statistics.section import Block, Section
from homeroom.errors import BundleError
from homeroom.runtime.bundle import Bundle
from homeroom.train.solve.vectors.letters import Spelling, read_spelling


@dataclass(frozen=True)
class Projection:
    """mean, weight: float32 [width]; matrix: float32 [width, dimension], the scale to norm 1 in it.

    spelling: of a block of letters
    """

    mean: np.ndarray
    weight: np.ndarray
    matrix: np.ndarray
    spelling: Spelling | None = None

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """int64 [n, dimension] on the grid, of raw numbers [n, width]: (raw - mean) * weight @ matrix, in float64."""
        centred = (raw.astype(np.float64) - self.mean) * self.weight
        return to_grid(centred @ self.matrix.astype(np.float64))

    @property
    def sha256(self) -> str:
        """The digest that enters the block's `statistics_id`."""
        parts = (self.mean, self.weight, self.matrix)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part, "<f4").tobytes() for part in parts)).hexdigest()


def read_projections(bundle: Bundle) -> dict[str, Projection]:
    """The projections of a bundle's blocks by their name; none where it has no statistics.

    Raises BundleError where an array is missing, not finite or of another shape.
    """
    section = bundle.manifest.statistics
    if not isinstance(section, Section):
        return {}
    try:
        arrays = safetensors.numpy.load_file(bundle.file(section.file))
    except (SafetensorError, OSError) as problem:
        raise BundleError(f"holds no projections: {problem}", where=section.file) from None
    found = {block.name: _projection(block, arrays, section.file) for block in section.blocks}
    lettered = [block.name for block in section.blocks if block.kind == "letters"]
    if lettered:
        spelling = read_spelling(arrays, section.file)
        found |= {name: replace(found[name], spelling=spelling) for name in lettered}
    return found


def _projection(block: Block, arrays: Mapping[str, np.ndarray], where: str) -> Projection:
    shapes = {"mean": (block.width,), "weight": (block.width,), "matrix": (block.width, block.dimension)}
    parts = {}
    for name, shape in shapes.items():
        values = arrays.get(f"{block.name}.{name}")
        if values is None or values.dtype != np.float32 or values.shape != shape or not np.isfinite(values).all():
            raise BundleError(f"{block.name}.{name} is not float32 {list(shape)} and finite", where=where)
        parts[name] = values
    return Projection(parts["mean"], parts["weight"], parts["matrix"])
