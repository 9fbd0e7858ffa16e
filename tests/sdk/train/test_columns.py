"""Examples as columns: what each says is what its sample says, and a dataset of them is one of plain examples."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
import tiny

from homeroom.data.samples import Sample, StoredSample
from homeroom.data.tasks import target
from homeroom.data.validation import resolve
from homeroom.train.features.columns import Columns
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from sdk.learning import opened

LANGUAGES = (None, "es", "de", "es")


@cache
def stored_samples() -> tuple[list[StoredSample], Columns]:
    """Samples of several pupils and languages, some without an input, a label, or any label, some with a poor input."""
    bundle, graphs = opened()
    samples = []
    for number, row in enumerate(tiny.samples(40, seed=5)):
        sample = msgspec.structs.replace(
            resolve(Sample(**row), bundle.manifest), language=LANGUAGES[number % 4], sample_id=f"{number + 1:032x}"
        )
        if number % 5 == 3:
            sample = msgspec.structs.replace(sample, labels={})
        if number % 7 == 2:
            sample = msgspec.structs.replace(sample, weighed={"picture": [0]})
        samples.append(sample)
    columns = examples(None, bundle, graphs, samples, weights={"image": 0.25})
    assert isinstance(columns, Columns)
    return samples, columns


def plain(columns: Columns) -> list[Example]:
    return [replace(example, inputs=dict(example.inputs), longest=None) for example in columns]


def test_each_example_says_what_its_sample_says() -> None:
    samples, columns = stored_samples()
    manifest = opened()[0].manifest
    assert len(columns) == len(samples)
    for sample, example in zip(samples, columns, strict=True):
        assert (example.sample_id, example.subject) == (sample.sample_id, sample.subject)
        assert example.language == (sample.language or "")
        assert set(example.targets) == set(sample.labels)
        for name, label in sample.labels.items():
            assert np.array_equal(example.targets[name], target(manifest.task(name), label))
        keys = {(s, i) for s, row in sample.inputs.items() for i, value in enumerate(row) if value is not None}
        assert set(example.inputs) == keys
        assert example.input_weights == ({("picture", 0): 0.25} if sample.weighed else {})


def test_parts_of_them_are_those_of_a_list() -> None:
    _, columns = stored_samples()
    ids = [example.sample_id for example in columns]
    for part in (slice(3, 9), slice(None, None, -2), slice(-4, None), slice(50, 60)):
        assert [example.sample_id for example in columns[part]] == ids[part]
    assert [example.sample_id for example in columns[5:30][2:4]] == ids[5:30][2:4]
    assert columns[-1].sample_id == ids[-1]
    assert len(columns[40:]) == 0


def test_a_dataset_of_them_is_one_of_plain_examples() -> None:
    bundle, graphs = opened()
    _, columns = stored_samples()
    one, other = (Dataset(bundle.manifest, rows) for rows in (columns, plain(columns)))
    variants = graphs.steps("grad")
    for mine, theirs in ((one, other), *zip(one.split(0.3, 1), other.split(0.3, 1), strict=True)):
        assert mine is not None
        assert theirs is not None
        assert [e.sample_id for e in mine.examples] == [e.sample_id for e in theirs.examples]
        assert np.array_equal(mine.presence, theirs.presence)
        assert np.array_equal(mine.labelled, theirs.labelled)
        assert mine.examples_by_segment() == theirs.examples_by_segment()
        plans = [data.plan(variants, np.random.default_rng(0), 16) for data in (mine, theirs)]
        for batch, same in zip(*plans, strict=True):
            for part, equal in zip(batch.parts(), same.parts(), strict=True):
                fed, feeds = mine.feeds(part), theirs.feeds(equal)
                fed, feeds = fed | mine.targets_of(part), feeds | theirs.targets_of(equal)
                assert fed.keys() == feeds.keys()
                assert all(np.array_equal(fed[name], feeds[name]) for name in fed)
