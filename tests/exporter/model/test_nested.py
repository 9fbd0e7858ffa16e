"""Nested training: what a large device teaches a small one; with the tiers of a true export."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import tiered

from homeroom.contract.layout import FULL_TIER
from homeroom.data.samples import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.layer_freezing import segment_mask, shared_segments
from homeroom.train.settings import Settings
from homeroom.train.state import TrainState

SHORT = Settings(epochs=3, learning_rate=5e-3, modality_dropout=0.2, checkpoint_s=0.0)


def tiered_rows(bundle: Bundle) -> Dataset:
    stored = [resolve(Sample(**row), bundle.manifest) for row in tiered.rows(60, seed=5)]
    return Dataset(bundle.manifest, examples(None, bundle, Graphs(bundle, {}, 1), stored))


def test_a_large_device_that_trains_nested_leaves_a_small_one_a_part_that_answers(tiered_bundle: Bundle) -> None:
    data, small, large = tiered_rows(tiered_bundle), *(Graphs(tiered_bundle, {}, 1, t) for t in ("eighth", FULL_TIER))
    chosen = Settings(epochs=12, learning_rate=1e-2)
    scores = {
        nested: evaluate(
            small,
            data,
            fit(large, data, None, tiered_bundle.theta(), msgspec.structs.replace(chosen, nested=nested)).theta,
        )
        for nested in (False, True)
    }
    assert np.mean([s.value for s in scores[True].values()]) > np.mean([s.value for s in scores[False].values()]) + 0.1


def test_the_smallest_tier_trains_nested_or_not_alike(tiered_bundle: Bundle) -> None:
    data, small = tiered_rows(tiered_bundle), Graphs(tiered_bundle, {}, 1, "eighth")
    alone, nested = (
        fit(small, data, None, tiered_bundle.theta(), msgspec.structs.replace(SHORT, nested=nested)).theta
        for nested in (False, True)
    )
    assert np.array_equal(alone, nested)


@pytest.mark.parametrize("tier", ["half", FULL_TIER])
def test_a_nested_training_resumes_bit_for_bit_and_keeps_to_its_tier(tiered_bundle: Bundle, tier: str) -> None:
    data, graphs, theta = tiered_rows(tiered_bundle), Graphs(tiered_bundle, {}, 1, tier), tiered_bundle.theta()
    states: list[bytes] = []
    nested = msgspec.structs.replace(SHORT, nested=True)
    whole = fit(graphs, data, None, theta, nested, checkpoint=lambda s: states.append(s.encode()))
    middle = TrainState.decode(states[len(states) // 2])
    assert np.array_equal(whole.theta, fit(graphs, data, None, theta, nested, resume=middle).theta)
    moved = np.flatnonzero(whole.theta != theta)
    index = dict(tiered_bundle.layout.tiers).get(tier, np.arange(theta.size))
    assert np.isin(moved, index).all()
    assert len(moved) > 0.9 * len(index)


def test_a_tier_freezes_layers_by_its_own_graphs_but_not_while_it_is_nested(
    tiered_bundle: Bundle,
) -> None:
    data, half, theta = tiered_rows(tiered_bundle), Graphs(tiered_bundle, {}, 1, "half"), tiered_bundle.theta()
    assert [(graph.role, graph.tier) for graph in half.steps("grad_heads")] == [("grad_heads", "half")]
    settings = Settings(epochs=8, learning_rate=1e-2)
    nested = msgspec.structs.replace(settings, nested=True)
    assert fit(half, data, None, theta, settings).frozen_after is not None
    assert fit(half, data, None, theta, nested).frozen_after is None
    shared = shared_segments(tiered_bundle.layout)
    heads = fit(half, data, None, theta, msgspec.structs.replace(nested, frozen=shared)).theta
    stays = segment_mask(Graphs(tiered_bundle, {}, 1), shared)
    assert np.array_equal(heads[stays], theta[stays])
    assert not np.array_equal(heads, theta)
