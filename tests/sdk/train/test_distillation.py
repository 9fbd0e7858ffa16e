"""Learning without forgetting: answers of before are targets beside the labels, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from homeroom.data.tasks import kind_of
from homeroom.errors import InputError
from homeroom.runtime.graphs import Graphs
from homeroom.train.distillation import Distillation, answers_before, kept_tasks
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings, check_settings
from homeroom.train.state import TrainState
from homeroom.train.step import Steps, gradient
from sdk.learning import dataset, opened

KEEP = Settings(epochs=3, learning_rate=5e-3, modality_dropout=0.2, checkpoint_s=0.0, distillation=1.0)


def slope(graphs: Graphs, train: Dataset, theta: np.ndarray, kept: Distillation | None) -> np.ndarray:
    """The gradient of answers of before alone, over all batches, at theta."""
    plan = train.plan(graphs.steps("grad"), np.random.default_rng(0))
    none = np.zeros((len(train), len(train.manifest.tasks) + len(train.manifest.objectives)), np.float32)
    steps = Steps(train, [plan], none, msgspec.structs.replace(KEEP, modality_dropout=0.0), 0, kept)
    return np.sum([gradient(graphs, steps[n], theta, slice(None))[1] for n in range(len(steps))], 0)


def only(kept: Distillation, task: int) -> Distillation:
    """Of one task alone, by its number."""
    weights = np.zeros_like(kept.weights)
    weights[:, task] = kept.weights[:, task]
    return replace(kept, weights=weights)


def test_answers_of_before_are_the_least_loss_of_each_kind_and_pull_back_what_moved() -> None:
    bundle, graphs = opened()
    train, start = dataset(60), bundle.theta()
    kept = answers_before(graphs, train, start, KEEP)
    assert kept is not None
    kinds = {task.kind for task in kept_tasks(bundle.manifest, None)}
    assert kinds == {"classification", "multilabel", "ordinal", "regression", "matching"}
    rng, moved = np.random.default_rng(1), start + 0.0
    for segment, values in bundle.manifest.layout.slices.items():
        if segment.startswith("head."):
            moved[values] += rng.normal(0, 0.3, values.stop - values.start).astype(np.float32)
    for number, task in enumerate(bundle.manifest.tasks):
        if kind_of(task).soft_target is None:
            assert not kept.weights[:, number].any()
            continue
        there, away = (slope(graphs, train, theta, only(kept, number)) for theta in (start, moved))
        assert np.linalg.norm(away) > 1e-3
        assert np.linalg.norm(there) < 1e-3 * np.linalg.norm(away), task.name
        assert away @ (start - moved) < 0, "downhill leads back"


def test_the_more_they_weigh_the_less_answers_move() -> None:
    bundle, graphs = opened()
    start, train, others = bundle.theta(), dataset(60), dataset(60, seed=9)
    before = outputs_of(graphs, others, start)

    def moved(weight: float) -> float:
        theta = fit(graphs, train, None, start, msgspec.structs.replace(KEEP, distillation=weight)).theta
        after = outputs_of(graphs, others, theta)
        return float(
            np.mean([np.abs(after[t.name] - before[t.name]).mean() for t in kept_tasks(bundle.manifest, None)])
        )

    free, some, most = (moved(weight) for weight in (0.0, 1.0, 20.0))
    assert free > 1.2 * some > 1.44 * most > 0


def test_only_tasks_that_were_learned_are_kept() -> None:
    bundle, graphs = opened()
    train = dataset(40)
    names = [task.name for task in bundle.manifest.tasks]
    kept = answers_before(graphs, train, bundle.theta(), KEEP, {"category"})
    assert kept is not None
    assert list(kept.targets) == ["category"]
    assert {names[column] for column in np.flatnonzero(kept.weights.any(0))} == {"category"}
    assert answers_before(graphs, train, bundle.theta(), Settings()) is None


def test_a_training_that_was_interrupted_goes_on_bit_for_bit() -> None:
    bundle, graphs = opened()
    train, validation = dataset().split(0.25, seed=0)
    states: list[bytes] = []
    whole = fit(graphs, train, validation, bundle.theta(), KEEP, checkpoint=lambda now: states.append(now.encode()))
    left = TrainState.decode(states[len(states) // 2])
    assert np.array_equal(whole.theta, fit(graphs, train, validation, bundle.theta(), KEEP, resume=left).theta)
    free = fit(graphs, train, validation, bundle.theta(), msgspec.structs.replace(KEEP, distillation=0.0))
    assert not np.array_equal(whole.theta, free.theta)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(distillation=-1.0), "distillation is -1.0, and has to be a number from 0"),
        (Settings(distillation=1.0, clip_norm=1.0), "exclude each other"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Settings, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_settings(settings, opened()[0].manifest)
