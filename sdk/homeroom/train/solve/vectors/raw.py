"""Raw numbers of a block: what is known of a sample's inputs before projection, the same on device and in exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
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


def numbers_of_text(kind: str, modality: Modality, spelling: Spelling | None = None) -> Callable[[str], np.ndarray]:
    """What a block reads of a text itself, float32, worked out once for each text: a word is an option of many samples.

    spelling: of a block of letters
    """
    if kind != "letters":
        return cache(surface.surface_numbers)
    assert isinstance(modality.preprocess, TextPreprocess)
    assert spelling
    version, letters = modality.preprocess.version, spelling
    return cache(lambda value: letter_numbers(text.read(value, version), letters))


def raw_numbers(
    kind: str,
    modality: Modality,
    features: Sequence[np.ndarray],
    values: Sequence[Any],
    language: str,
    of_text: Callable[[str], np.ndarray],
) -> np.ndarray:
    """Raw numbers of one sample in one block, float32 [width].

    kind: of `contract.statistics.section.Block`
    features: int8 [taps, n, dim] of each input that the block reads
    values: these inputs themselves; none where `reads_values` says so
    of_text: of `numbers_of_text`
    """
    if kind == "taps":
        return mean_of_taps(features[0])
    if kind == "text":
        return np.concatenate([mean_of_taps(features[0]), of_text(values[0])])  # of the whole text, however few tokens
    if kind == "pair":
        return pair_numbers(features[0], features[1])
    if kind == "overlap":
        return overlap.overlap_numbers(values[0], values[1], language)
    if kind == "letters":
        return of_text(values[0])
    assert isinstance(modality.preprocess, TablePreprocess)
    return table_numbers(modality.preprocess, values[0])
