"""Membership inference: the area is the share of pairs, and its interval is as wide as it must be."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from homeroom import Sample
from homeroom.data.tasks import losses
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import labelled_outputs
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.membership import SampleLosses, area_of, by_subject, sample_losses


def side(losses: np.ndarray, subjects: int = 0) -> SampleLosses:
    names = [str(n % subjects) if subjects else "all" for n in range(len(losses))]
    return SampleLosses(losses, names)


def test_the_area_is_the_share_of_pairs_with_ties_half() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 40).astype(float), rng.integers(0, 12, 30).astype(float)
    pairs = (members[:, None] < others) + (members[:, None] == others) / 2
    assert area_of(side(members), side(others)).area == pytest.approx(pairs.mean())


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_the_interval_holds_the_true_area_95_times_in_100(shift: float) -> None:
    rng = np.random.default_rng(1)
    true = float((rng.normal(-shift, 1, 200_000) < rng.normal(0, 1, 200_000)).mean())
    found = [area_of(side(rng.normal(-shift, 1, 40)), side(rng.normal(0, 1, 60))) for _ in range(600)]
    assert 0.92 < np.mean([one.low <= true <= one.high for one in found]) < 0.99


def test_samples_of_one_subject_do_not_count_as_many() -> None:
    rng, held = np.random.default_rng(2), {True: 0, False: 0}
    for _ in range(300):
        sides = []
        for begin in ("w", "o"):
            own = rng.normal(0, 1, 12)
            values = np.repeat(own, 10) + rng.normal(0, 0.3, 120)
            sides.append(SampleLosses(values, [f"{begin}{n // 10}" for n in range(120)]))
        assert by_subject(*sides)
        for grouped in held:
            of = sides if grouped else [side(one.losses) for one in sides]
            found = area_of(*of)
            held[grouped] += found.low <= 0.5 <= found.high
    assert held[True] > 0.88 * 300, "by subject"
    assert held[False] < 0.6 * 300, "by sample the same losses seem to tell"


def test_one_person_on_both_sides_is_one() -> None:
    rng = np.random.default_rng(3)
    own = np.repeat(rng.normal(0, 1, 15), 4)
    names = [str(n // 4) for n in range(60)]
    same = [SampleLosses(own + rng.normal(0, 0.2, 60), names) for _ in range(2)]
    apart = [same[0], SampleLosses(same[1].losses, [f"o{name}" for name in names])]
    narrow, wide = area_of(*same), area_of(*apart)
    assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)


def test_what_is_wholly_apart_is_not_certain() -> None:
    found = area_of(side(np.arange(20.0)), side(np.arange(100.0, 125.0)))
    assert (found.area, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.95)


def test_each_samples_loss_is_that_of_it_alone_in_every_kind_of_task(tiny_bundle: tiny.Tiny) -> None:
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    graphs = Graphs(bundle, {}, threads=1)
    stored = [resolve(Sample(**row), bundle.manifest) for row in tiny.samples(8, 3)]
    data = Dataset(bundle.manifest, examples(None, bundle, graphs, stored))
    found = sample_losses(graphs, data, bundle.theta())
    for column, task in enumerate(bundle.manifest.tasks):
        rows = np.flatnonzero(data.labelled[:, column])
        alone = [labelled_outputs(graphs, data.subset([row]), bundle.theta())[task.name] for row in rows]
        wanted = [losses(task, *pair).mean() for pair in alone if len(pair[0])]
        np.testing.assert_allclose(found[task.name].losses, wanted, rtol=1e-4, atol=1e-5)
        assert len(found[task.name].subjects) == len(wanted) > 0
