"""Computes features by the frozen backbone, in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from homeroom.contract.graph_io import FEATURES
from homeroom.contract.manifest import Modality
from homeroom.data.preprocess import Prepared, collate, has_buckets, prepare, smallest_bucket
from homeroom.errors import BundleError, InputError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs

BATCH_TOKENS = 1024  # rows x tokens of one batch of texts or sequences: bounds memory whatever the length
BATCH_MEDIA = 8  # pictures or clips at once: their decoded arrays are large
AHEAD_BYTES = 1 << 20  # of encoded media that wait to be decoded
WINDOW_TEXTS = 512  # texts tokenised (or sequences), then sorted by length, at a time

Prepare = Callable[[Modality, Any, Callable[[str], Path]], Prepared]


class Progress(Protocol):
    """A function that is told how far a training is: `progress(stage, done, total)`."""

    def __call__(self, stage: str, done: int, total: int, /) -> object:
        """stage: such as "image features" or "training". done, total: inputs of features, steps of a training."""


def compute(
    bundle: Bundle,
    graphs: Graphs,
    modality: str,
    values: Sequence[Any],
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = bool,
    prepare: Prepare = prepare,
    refused: Callable[[int, InputError], None] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index of the value, int8 [taps, n, dim]) in the order they are computed; n counts no padding.

    values: inputs of one modality, each read when its turn comes; None for one that is lost, which is passed over
    progress: called after each batch with the stage, values done, and values in total
    stop: asked before each batch whether to end there
    prepare: decodes media, in this process or in the decoder
    refused: told the index of media that cannot be decoded, which are passed over; None to raise the InputError

    Releases the backbone at the end. Raises BundleError where the graph's output has another type or shape.
    """
    facts = bundle.manifest.modality(modality)
    padded = has_buckets(facts.preprocess)
    done = 0
    for prepared in _windows(bundle, facts, values) if padded else _decoded(bundle, facts, values, prepare, refused):
        if stop():
            break
        for batch in _batches(facts.buckets, {n: p.tokens for n, p in prepared.items()}, padded):
            if stop():
                break
            features = graphs.features(modality)(collate(facts, [prepared[number] for number in batch]))[FEATURES]
            shape = (*features.shape[:2], features.shape[3])
            if features.dtype != np.int8 or shape != (len(batch), len(facts.taps), facts.dim):
                raise BundleError(f"gives {features.dtype}{list(features.shape)}", where=f"features/{modality}")
            for row, number in enumerate(batch):
                yield number, np.ascontiguousarray(features[row, :, : prepared[number].tokens])
            done += len(batch)
            if progress:
                progress(f"{modality} features", done, len(values))
    graphs.release(modality)


def _windows(bundle: Bundle, facts: Modality, values: Sequence[Any]) -> Iterator[dict[int, Prepared]]:
    for start in range(0, len(values), WINDOW_TEXTS):
        numbers = range(start, min(start + WINDOW_TEXTS, len(values)))
        read = ((number, values[number]) for number in numbers)
        yield {number: prepare(facts, value, bundle.file) for number, value in read if value is not None}


def _decoded(
    bundle: Bundle,
    facts: Modality,
    values: Sequence[Any],
    prepare: Prepare,
    refused: Callable[[int, InputError], None] | None,
) -> Iterator[dict[int, Prepared]]:
    """Batches of media, decoded; a worker decodes the next one, a megabyte of it at most, while the backbone runs."""

    def attempt(value: Any) -> Prepared | InputError:
        try:
            return prepare(facts, value, bundle.file)
        except InputError as problem:
            return problem

    ahead: dict[int, Future[Prepared | InputError] | None] = {}
    with ThreadPoolExecutor(1, "decode") as worker:
        for start in range(0, len(values), BATCH_MEDIA):
            batch, following = (range(len(values))[at : at + BATCH_MEDIA] for at in (start, start + BATCH_MEDIA))
            behind = ((number, values[number]) for number in batch if number not in ahead)
            results = {number: future.result() for number, future in ahead.items() if future is not None}
            results |= {number: attempt(value) for number, value in behind if value is not None}
            ahead, ahead_bytes = {}, 0
            for number in following:
                if ahead_bytes > AHEAD_BYTES:
                    break
                value = values[number]  # read in this thread, which the store belongs to
                ahead_bytes += len(value or b"")
                ahead[number] = None if value is None else worker.submit(attempt, value)
            for number, problem in results.items():
                if isinstance(problem, InputError):
                    if refused is None:
                        raise problem
                    refused(number, problem)
            yield {number: result for number, result in results.items() if isinstance(result, Prepared)}


def _batches(buckets: Sequence[int], tokens: dict[int, int], padded: bool) -> Iterator[list[int]]:
    if not padded:
        yield from [list(tokens)] if tokens else []
        return
    by_bucket: dict[int, list[int]] = {}
    for number, count in tokens.items():
        by_bucket.setdefault(smallest_bucket(buckets, count), []).append(number)
    for length, numbers in sorted(by_bucket.items()):
        rows = max(1, min(32, BATCH_TOKENS // length))
        for start in range(0, len(numbers), rows):
            yield numbers[start : start + rows]
