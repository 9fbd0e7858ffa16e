"""Raw numbers of a block: what is known of a sample's inputs before projection, the same on device and in exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from homeroom.contract.graph_io import TABLE_ROW
from homeroom.contract.manifest import Modality, TablePreprocess, TextPreprocess
from homeroom.data.preprocess import table, text
from homeroom.train.solve.vectors import overlap, surface
from homeroom.train.solve.vectors.letters import Spelling, letter_numbers


def mean_of_taps(features: np.ndarray) -> np.ndarray:
    """float32 [taps * dim]: the mean over tokens of features int8 [taps, n, dim]."""
    total = features.sum(1, dtype=np.int32)  # exact, whatever order a library adds in
    return np.asarray(total.ravel() / np.float32(features.shape[1]), np.float32)


def text_numbers(features: np.ndarray, value: str) -> np.ndarray:
    """float32: the mean of the taps, then surface numbers of the whole text."""
    return np.concatenate([mean_of_taps(features), surface.surface_numbers(value)])


def pair_numbers(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [3 * taps * dim] of two texts' features: |u - v|, u * v and v of the means of their taps.

    After Conneau et al. 2017 (section 3.1).
    """
    u, v = mean_of_taps(first), mean_of_taps(second)
    return np.concatenate([np.abs(u - v), u * v, v])


def table_numbers(spec: TablePreprocess, row: Mapping[str, float | str | None]) -> np.ndarray:
    """float32 [table_width]: the standardised row with its flags for missing cells, then squares of numeric columns."""
    values = table.prepare(spec, row).arrays[TABLE_ROW]
    starts = np.cumsum([0, *(len(column.categories) or 1 for column in spec.columns)])
    numeric = [start for start, column in zip(starts, spec.columns, strict=False) if not column.categories]
    return np.concatenate([values, values[numeric] ** 2]).astype(np.float32)


def table_width(spec: TablePreprocess) -> int:
    """The length of `table_numbers`."""
    return spec.width + sum(not column.categories for column in spec.columns)


def reads_values(kind: str) -> bool:
    """Whether a block reads its inputs themselves, not their features alone."""
    return kind not in ("taps", "pair")


def raw_numbers(
    kind: str,
    modality: Modality,
    features: Sequence[np.ndarray],
    values: Sequence[Any],
    language: str = "",
    spelling: Spelling | None = None,
) -> np.ndarray:
    """Raw numbers of one sample in one block, float32 [width].

    kind: of `contract.statistics.section.Block`
    features: int8 [taps, n, dim] of each input that the block reads
    values: these inputs themselves; none where `reads_values` says so
    spelling: of a block of letters
    """
    if kind == "taps":
        return mean_of_taps(features[0])
    if kind == "text":
        return text_numbers(features[0], values[0])
    if kind == "pair":
        return pair_numbers(features[0], features[1])
    if kind == "overlap":
        return overlap.overlap_numbers(values[0], values[1], language)
    if kind == "letters":
        assert isinstance(modality.preprocess, TextPreprocess)
        assert spelling
        return letter_numbers(text.read(values[0], modality.preprocess.version), spelling)
    assert isinstance(modality.preprocess, TablePreprocess)
    return table_numbers(modality.preprocess, values[0])
