"""The tiny bundle's examples, made once for the tests of training."""

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
    made = tiny.bundle()
    bundle = open_bundle(made.path, root=made.root)
    return bundle, Graphs(bundle, threads=1)


@cache
def learned(count: int, seed: int) -> tuple[Example, ...]:
    bundle, graphs = opened()
    stored = [resolve(Sample(**row), bundle.manifest) for row in tiny.samples(count, seed)]
    return tuple(examples(None, bundle, graphs, stored))


def dataset(count: int = 60, seed: int = 1) -> Dataset:
    return Dataset(opened()[0].manifest, learned(count, seed))


def without(example: Example, *slots: str, targets: Mapping[str, object] | None = None) -> Example:
    kept = {key: array for key, array in example.inputs.items() if key[0] not in slots}
    return Example(kept, example.targets if targets is None else targets, example.subject, example.sample_id)  # type: ignore[arg-type]
