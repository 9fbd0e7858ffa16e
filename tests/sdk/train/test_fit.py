"""Training on cached features: it learns, keeps its budget, and goes on exactly where it stopped."""

from copy import deepcopy
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from homeroom.errors import TrainError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate, outputs_of
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.fit import fit
from homeroom.train.optimizer import AdamW
from homeroom.train.sample_weights import sample_weights
from homeroom.train.schedule import cooldown_start
from homeroom.train.settings import Settings
from homeroom.train.state import TrainState
from homeroom.train.step import drop_inputs
from sdk.learning import dataset, opened, without

SHORT = Settings(epochs=3, learning_rate=5e-3, modality_dropout=0.2, checkpoint_s=0.0)


def test_it_learns_every_task_and_keeps_the_best_epoch() -> None:
    bundle, graphs = opened()
    train, validation = dataset(120).split(0.25, seed=0)
    assert validation is not None
    before = evaluate(graphs, validation, bundle.theta())
    result = fit(graphs, train, validation, bundle.theta(), Settings(epochs=12, learning_rate=1e-2))
    after = evaluate(graphs, validation, result.theta)
    assert np.mean([s.value for s in after.values()]) > np.mean([s.value for s in before.values()]) + 0.15
    assert result.score == max(epoch.value for epoch in result.history)
    assert result.finished


def test_fedprox_keeps_theta_near_where_it_began_the_more_the_larger_mu() -> None:
    bundle, graphs = opened()
    train, start = dataset(60), bundle.theta()

    def moved(mu: float) -> float:
        settings = msgspec.structs.replace(SHORT, constant_rate=True, proximal=mu)
        return float(np.linalg.norm(fit(graphs, train, None, start, settings).theta - start))

    far, near, nearest = (moved(mu) for mu in (0.0, 1.0, 100.0))
    assert far > 1.2 * near > 1.44 * nearest > 0


def test_resuming_at_any_step_gives_the_same_theta_bit_for_bit() -> None:
    bundle, graphs = opened()
    train, validation = dataset().split(0.25, seed=0)
    states: list[bytes] = []
    whole = fit(
        graphs, train, validation, bundle.theta(), SHORT, checkpoint=lambda state: states.append(state.encode())
    )
    for data in (states[0], states[len(states) // 2], states[-1]):
        resumed = fit(graphs, train, validation, bundle.theta(), SHORT, resume=TrainState.decode(data))
        assert np.array_equal(whole.theta, resumed.theta)
        assert whole.history == resumed.history


def test_a_training_that_gets_no_better_cools_down_before_it_stops_and_resuming_changes_nothing() -> None:
    bundle, graphs = opened()
    train, validation = dataset(120).split(0.25, seed=0)
    settings = Settings(epochs=60, learning_rate=1e-2, patience=2, cooldown=3, checkpoint_s=0.0)
    states: list[bytes] = []
    whole = fit(
        graphs, train, validation, bundle.theta(), settings, checkpoint=lambda state: states.append(state.encode())
    )
    start = cooldown_start([epoch.rank for epoch in whole.history], settings.patience)
    assert start is not None
    assert len(whole.history) == start + settings.cooldown < settings.epochs
    moves = [epoch.moved for epoch in whole.history[start - 1 :]]
    assert moves == sorted(moves, reverse=True)
    assert moves[-1] < moves[0] / 3
    decoded = map(TrainState.decode, states)
    cooling = next(state for state in decoded if state.epoch == start + 1 and state.batch > 0)
    rest = fit(graphs, train, validation, bundle.theta(), settings, resume=cooling)
    assert np.array_equal(whole.theta, rest.theta)
    assert whole.history == rest.history
    round_of_many = msgspec.structs.replace(settings, constant_rate=True)
    steady = fit(graphs, train, validation, bundle.theta(), round_of_many).history
    assert len(steady) == cooldown_start([epoch.rank for epoch in steady], settings.patience)


def test_of_epochs_that_answer_all_right_the_surest_is_kept_and_training_goes_on_to_it() -> None:
    bundle, graphs = opened()
    examples = [
        Example(e.inputs, {"category": e.targets["category"]}, e.subject, e.sample_id)
        for e in (without(e, "picture", "pictures", "speech", "reference", "answer") for e in dataset(100).examples)
    ]
    train, validation = Dataset(bundle.manifest, examples).split(0.25, seed=0)
    settings = Settings(epochs=24, learning_rate=1e-2, patience=2, cooldown=1)
    found = fit(graphs, train, validation, bundle.theta(), settings)
    best, first = found.history[found.best_epoch], next(epoch for epoch in found.history if epoch.value == 1.0)
    assert (best.value, best.log_loss) == (1.0, min(epoch.log_loss for epoch in found.history if epoch.value == 1.0))
    assert best.log_loss < first.log_loss / 3
    assert found.best_epoch > found.history.index(first) + settings.patience + settings.cooldown


def test_a_budget_is_kept_and_the_rest_is_done_later() -> None:
    bundle, graphs = opened()
    train, validation = dataset().split(0.25, seed=0)
    states: list[bytes] = []
    cut = fit(
        graphs,
        train,
        validation,
        bundle.theta(),
        SHORT,
        stop=lambda: True,
        checkpoint=lambda state: states.append(state.encode()),
    )
    assert not cut.finished
    assert cut.steps == 0
    rest = fit(graphs, train, validation, bundle.theta(), SHORT, resume=TrainState.decode(states[-1]))
    assert np.array_equal(rest.theta, fit(graphs, train, validation, bundle.theta(), SHORT).theta)


def test_clipping_far_above_every_gradient_changes_nothing() -> None:
    bundle, graphs = opened()
    plain, loose = (
        fit(graphs, dataset(), None, bundle.theta(), msgspec.structs.replace(SHORT, clip_norm=clip)).theta
        for clip in (0.0, 1e6)
    )
    assert np.linalg.norm(plain - loose) < 1e-3 * np.linalg.norm(plain - bundle.theta())


def test_clipping_bounds_what_one_loud_subject_does_to_the_others() -> None:
    """Every other subject has right labels; one, with weights a hundred times theirs, has wrong ones."""
    bundle, graphs = opened()
    train, validation = dataset(120).split(0.25, seed=0)
    assert validation is not None
    turned = {"category": np.roll(np.eye(4, dtype=np.float32), 1, 0)}
    examples = [
        Example(e.inputs, {"category": turned["category"][int(e.targets["category"].argmax())]}, "loud", weight=100.0)
        if row % 10 == 0
        else Example(e.inputs, {"category": e.targets["category"]}, f"{row}")
        for row, e in enumerate(train.examples)
        if "category" in e.targets
    ]
    data = Dataset(train.manifest, examples)
    scores = []
    for clip in (0.0, 0.1):
        chosen = Settings(epochs=12, learning_rate=1e-2, clip_norm=clip, balance=0.0)
        scores.append(evaluate(graphs, validation, fit(graphs, data, None, bundle.theta(), chosen).theta)["category"])
    assert scores[1].accuracy > scores[0].accuracy + 0.2


def test_clipping_resumes_bit_for_bit_too() -> None:
    bundle, graphs = opened()
    states: list[bytes] = []
    clipped = msgspec.structs.replace(SHORT, epochs=2, clip_norm=0.5)
    whole = fit(graphs, dataset(), None, bundle.theta(), clipped, checkpoint=lambda s: states.append(s.encode()))
    middle = TrainState.decode(states[len(states) // 2])
    assert np.array_equal(whole.theta, fit(graphs, dataset(), None, bundle.theta(), clipped, resume=middle).theta)


def test_what_is_absent_moves_no_parameter_of_its_own() -> None:
    bundle, graphs = opened()
    data = dataset()
    silent = Dataset(data.manifest, [without(e, "speech") for e in data.examples])
    result = fit(graphs, silent, None, bundle.theta(), msgspec.structs.replace(SHORT, weight_decay=0.0))
    layout = bundle.manifest.layout
    moved = layout.split(result.theta - bundle.theta())
    assert not moved["ladder.audio"].any()
    assert moved["ladder.text"].any()


def test_samples_without_any_label_are_refused_with_a_remedy() -> None:
    bundle, graphs = opened()
    data = dataset(10)
    bare = Dataset(data.manifest, [without(e, targets={}) for e in data.examples])
    with pytest.raises(TrainError, match="label"):
        fit(graphs, bare, None, bundle.theta(), SHORT)


def test_a_theta_that_is_not_finite_is_said_and_not_kept() -> None:
    bundle, graphs = opened()
    broken = bundle.theta()
    broken[:] = np.nan
    with pytest.raises(TrainError, match="finite"):
        fit(graphs, dataset(), None, broken, SHORT)


def test_an_example_gives_the_same_output_alone_and_in_a_batch() -> None:
    bundle, graphs = opened()
    data = dataset(10)
    together = outputs_of(graphs, data, bundle.theta())
    for row, example in enumerate(data.examples):
        alone = outputs_of(graphs, Dataset(data.manifest, [example]), bundle.theta())
        for task, values in alone.items():
            assert np.allclose(values[0], together[task][row], atol=1e-5)


def test_dropout_of_inputs_never_leaves_a_sample_with_nothing() -> None:
    data = dataset()
    dropped = drop_inputs(data.presence, data.manifest, 0.9, np.random.default_rng(0))
    assert (dropped <= data.presence).all()
    assert (dropped < data.presence).any()
    assert dropped.any(1).all()


def test_where_one_input_alone_could_be_left_out_none_is() -> None:
    data = dataset()
    pairs = msgspec.structs.replace(data.manifest, tasks=tuple(t for t in data.manifest.tasks if t.name == "grade"))
    assert drop_inputs(data.presence, pairs, 0.9, np.random.default_rng(0)) is data.presence


def in_parts(rows: int, threads: int) -> tuple[Bundle, Graphs, Dataset]:
    """The tiny bundle, whose graphs hold eight rows, with a training of so many rows a step."""
    bundle, _ = opened()
    advice = msgspec.structs.replace(bundle.manifest.training, batch=rows)
    bundle = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, training=advice))
    return bundle, Graphs(bundle, threads=threads), Dataset(bundle.manifest, dataset().examples)


def test_a_step_in_parts_has_the_gradient_of_its_rows() -> None:
    bundle, graphs, data = in_parts(24, threads=2)
    train = Dataset(bundle.manifest, data.examples[:20])
    (batch,) = train.plan(graphs.steps("grad"), rows=24)
    assert [len(part.positions) for part in batch.parts()] == [8, 8, 4]

    states: list[TrainState] = []
    once = Settings(epochs=1, checkpoint_s=0.0)
    fit(graphs, train, None, bundle.theta(), once, checkpoint=lambda state: states.append(deepcopy(state)))
    by_hand = np.zeros_like(bundle.theta())
    for row, weights in enumerate(sample_weights(train, once)):  # each row in a batch of its own
        alone = Dataset(bundle.manifest, [train.examples[row]])
        (single,) = alone.plan(graphs.steps("grad"))
        feeds = alone.feeds(single) | {"theta": bundle.theta()} | alone.targets_of(single)
        feeds["weights"] = np.zeros((single.graph.batch, len(weights)), np.float32)
        feeds["weights"][0] = weights / 24
        by_hand += graphs.loaded(single.graph)(feeds)["gradient"]
    (state,) = states
    assert np.allclose(state.first / (1 - AdamW.beta1), by_hand, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rows", [16, 24])
def test_parts_side_by_side_give_what_they_give_one_after_the_other(rows: int) -> None:
    results = []
    for threads in (1, 3):
        bundle, graphs, data = in_parts(rows, threads)
        train, validation = data.split(0.25, seed=0)
        results.append(fit(graphs, train, validation, bundle.theta(), SHORT))
    assert np.array_equal(results[0].theta, results[1].theta)
    assert results[0].history == results[1].history
    eight = Dataset(opened()[0].manifest, train.examples)
    assert results[0].steps < fit(opened()[1], eight, validation, bundle.theta(), SHORT).steps
