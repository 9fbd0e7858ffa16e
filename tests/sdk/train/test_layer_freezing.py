"""Frozen shared layers stay as they are bit for bit while the heads go on; nothing else changes."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.fit import fit
from homeroom.train.layer_freezing import frozen_after, segment_mask, shared_segments
from homeroom.train.settings import Settings
from homeroom.train.state import TrainState
from sdk.learning import dataset, opened

LONG = Settings(epochs=10, learning_rate=1e-2, checkpoint_s=0.0, patience=10)


def without_heads_graphs() -> Graphs:
    """As of a bundle that was exported before there were graphs of the heads alone."""
    bundle, _ = opened()
    return Graphs(replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, settled=())), threads=1)


def test_the_shared_layers_are_frozen_after_an_epoch_that_moves_them_far_less_than_another_did() -> None:
    assert frozen_after([0.47, 0.50, 0.30, 0.17, 0.07, 0.02], 6) == 4
    assert frozen_after([0.1, 0.5, 0.3], 3) is None
    assert frozen_after([0.9, 0.2, 0.2], 6) == 3  # not while the rate is high
    assert frozen_after([0.3], 1) is frozen_after([], 1) is frozen_after([0.0, 0.0], 2) is None


def test_frozen_shared_layers_stay_bit_for_bit_while_the_heads_learn_on_and_resuming_changes_nothing() -> None:
    bundle, graphs = opened()
    train, validation = dataset(120).split(0.25, seed=0)
    assert validation is not None
    states: list[bytes] = []
    whole = fit(graphs, train, validation, bundle.theta(), LONG, checkpoint=lambda now: states.append(now.encode()))
    frozen = whole.frozen_after
    assert frozen is not None
    assert 2 < frozen < LONG.epochs
    ends = [state for state in map(TrainState.decode, states) if state.epoch >= frozen and state.batch > 0]
    shared = segment_mask(graphs, shared_segments(bundle.layout))
    assert all(np.array_equal(state.theta[shared], ends[0].theta[shared]) for state in ends)
    assert not np.array_equal(ends[0].theta, ends[-1].theta)
    for data in (states[len(states) // 4], ends[0].encode(), ends[-2].encode()):
        rest = fit(graphs, train, validation, bundle.theta(), LONG, resume=TrainState.decode(data))
        assert np.array_equal(rest.theta, whole.theta)
        assert rest.history == whole.history
    never_frozen = fit(without_heads_graphs(), train, validation, bundle.theta(), LONG)
    assert never_frozen.frozen_after is None
    assert whole.score > never_frozen.score - 0.03


@pytest.mark.parametrize("needing", [{"constant_rate": True}, {"proximal": 0.1}, {"clip_norm": 1.0}])
def test_terms_that_need_the_shared_layers_to_the_end_keep_them_moving(needing: dict[str, float]) -> None:
    bundle, graphs = opened()
    settings = msgspec.structs.replace(LONG, **needing)
    result = fit(graphs, dataset(), None, bundle.theta(), settings)
    assert result.frozen_after is None
    assert result.history[-1].moved > 0


def test_heads_on_frozen_layers_learn_the_same_with_and_without_graphs_of_their_own() -> None:
    bundle, graphs = opened()
    shared = shared_segments(bundle.layout)
    settings = msgspec.structs.replace(LONG, epochs=4, frozen=shared)
    thetas = [
        fit(chosen, dataset(), None, bundle.theta(), settings).theta for chosen in (graphs, without_heads_graphs())
    ]
    stays = segment_mask(graphs, shared)
    assert np.array_equal(thetas[0][stays], bundle.theta()[stays])
    assert np.allclose(thetas[0], thetas[1], atol=1e-5)
    scores = [evaluate(graphs, dataset(), theta)["category"].accuracy for theta in (bundle.theta(), thetas[0])]
    assert scores[1] > scores[0]


def test_a_training_that_an_older_version_began_goes_on() -> None:
    bundle, graphs = opened()
    states: list[bytes] = []
    whole = fit(graphs, dataset(), None, bundle.theta(), LONG, checkpoint=lambda now: states.append(now.encode()))
    kept = msgspec.msgpack.decode(states[5])
    del kept["began"]
    for epoch in kept["history"]:
        del epoch["moved"]
    resumed = fit(graphs, dataset(), None, bundle.theta(), LONG, resume=TrainState.decode(msgspec.msgpack.encode(kept)))
    assert resumed.finished
    assert resumed.steps == whole.steps
