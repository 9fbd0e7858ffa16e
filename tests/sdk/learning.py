"""Training examples of the tiny bundle, made once for all tests of training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import tiny

from homeroom.data.samples import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples


@cache
def opened() -> tuple[Bundle, Graphs]:
    """The tiny bundle and its graphs, on one thread."""
    built = tiny.bundle()
    bundle = open_bundle(built.path, root=built.root)
    return bundle, Graphs(bundle, threads=1)


@cache
def tiny_examples(count: int, seed: int) -> tuple[Example, ...]:
    """Examples of so many samples of `tiny`."""
    bundle, graphs = opened()
    stored = [resolve(Sample(**row), bundle.manifest) for row in tiny.samples(count, seed)]
    return tuple(examples(None, bundle, graphs, stored))


def dataset(count: int = 60, seed: int = 1) -> Dataset:
    """A dataset of so many samples of `tiny`."""
    return Dataset(opened()[0].manifest, tiny_examples(count, seed))


def without(example: Example, *slots: str, targets: Mapping[str, object] | None = None) -> Example:
    """The example without the inputs of some slots, and with other targets if they are given."""
    kept = {key: array for key, array in example.inputs.items() if key[0] not in slots}
    return Example(kept, example.targets if targets is None else targets, example.subject, example.sample_id)  # type: ignore[arg-type]
