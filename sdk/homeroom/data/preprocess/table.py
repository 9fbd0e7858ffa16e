"""Preprocessing of table rows: one standardised vector."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from homeroom.contract.graph_io import TABLE_ROW
from homeroom.contract.manifest import CLIP_STD, TablePreprocess
from homeroom.data.preprocess.prepared import Prepared


def prepare(spec: TablePreprocess, row: Mapping[str, float | str | None]) -> Prepared:
    """`row` float32 [width] as in `TablePreprocess`, clipped to CLIP_STD; a column that is absent is missing."""
    values: list[float] = []
    missing: list[float] = []
    for column in spec.columns:
        cell = row.get(column.name)
        missing.append(float(cell is None))
        if column.categories:
            values += [float(cell == category) for category in column.categories]
        else:
            z = 0.0 if cell is None else (float(cell) - column.mean) / max(column.std, 1e-9)
            values.append(min(max(z, -CLIP_STD), CLIP_STD))
    return Prepared({TABLE_ROW: np.array(values + missing, np.float32)}, 1)
