"""Training on cached features: it learns, keeps its budget, and goes on exactly where it stopped."""

import msgspec
import numpy as np
import pytest

from homeroom.dataset import Dataset, Example
from homeroom.errors import TrainError
from homeroom.training import Settings, TrainState, drop_inputs, evaluate, fit, outputs_of
from sdk.learning import dataset, opened, without

SHORT = Settings(epochs=3, learning_rate=5e-3, modality_dropout=0.2, checkpoint_s=0.0)


def test_it_learns_every_task_and_keeps_the_best_epoch() -> None:
    bundle, graphs = opened()
    train, validation = dataset(120).split(0.25, seed=0)
    assert validation is not None
    before = evaluate(graphs, validation, bundle.theta())
    found = fit(graphs, train, validation, bundle.theta(), Settings(epochs=12, learning_rate=1e-2))
    after = evaluate(graphs, validation, found.theta)
    assert np.mean([s.value for s in after.values()]) > np.mean([s.value for s in before.values()]) + 0.15
    assert found.score == max(epoch.value for epoch in found.history)
    assert found.finished


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
    found = fit(graphs, silent, None, bundle.theta(), msgspec.structs.replace(SHORT, weight_decay=0.0))
    layout = bundle.manifest.layout
    moved = layout.split(found.theta - bundle.theta())
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
