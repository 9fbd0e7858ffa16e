"""Features of inputs by the frozen backbone, in batches of like length; imports preprocess and runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from homeroom.bundle import Bundle
from homeroom.errors import BundleError
from homeroom.preprocess import bucket, collate, of_any_length, prepare
from homeroom.runtime import Graphs

BATCH_TOKENS = 1024  # rows x tokens of one batch of texts or sequences: bounds memory whatever the length
BATCH_MEDIA = 8  # pictures or clips at once: their decoded arrays are large
WINDOW = 512  # texts tokenised (or sequences), then sorted by length, at a time

Progress = Callable[[str, int, int], None]  # stage, done, total


def compute(
    bundle: Bundle,
    graphs: Graphs,
    modality: str,
    values: Sequence[Any],
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = bool,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index of the value, int8 [taps, n, dim]) in the order they are computed; n counts no padding.

    stop: asked before every batch whether to end there. The backbone is released at the end.
    """
    facts = bundle.manifest.modality(modality)
    padded = of_any_length(facts.preprocess)
    size = WINDOW if padded else BATCH_MEDIA
    done = 0
    for start in range(0, len(values), size):
        numbers = range(start, min(start + size, len(values)))
        if stop():
            break
        ready = {number: prepare(facts, values[number], bundle.file) for number in numbers}
        for batch in _batches(facts.buckets, {n: p.tokens for n, p in ready.items()}, padded):
            if stop():
                break
            made = graphs.features(modality)(collate(facts, [ready[number] for number in batch]))["features"]
            if made.dtype != np.int8 or made.shape[:2] != (len(batch), len(facts.taps)) or made.shape[3] != facts.dim:
                raise BundleError(f"gives {made.dtype}{list(made.shape)}", where=f"features/{modality}")
            for row, number in enumerate(batch):
                yield number, np.ascontiguousarray(made[row, :, : ready[number].tokens])
            done += len(batch)
            if progress:
                progress(f"{modality} features", done, len(values))
    graphs.release(modality)


def _batches(buckets: Sequence[int], tokens: dict[int, int], padded: bool) -> Iterator[list[int]]:
    if not padded:
        yield list(tokens)
        return
    by_bucket: dict[int, list[int]] = {}
    for number, count in tokens.items():
        by_bucket.setdefault(bucket(buckets, count), []).append(number)
    for length, numbers in sorted(by_bucket.items()):
        rows = max(1, min(32, BATCH_TOKENS // length))
        for start in range(0, len(numbers), rows):
            yield numbers[start : start + rows]
