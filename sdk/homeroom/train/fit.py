"""Fits theta on cached features, within a budget; a training can be resumed at any step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from homeroom.errors import TrainError
from homeroom.runtime.graphs import Graphs
from homeroom.train.calibration import calibrate
from homeroom.train.distillation import Distillation, answers_before
from homeroom.train.evaluate import evaluate
from homeroom.train.features.compute import Progress
from homeroom.train.features.dataset import Dataset
from homeroom.train.optimizer import AdamW
from homeroom.train.sample_weights import sample_weights
from homeroom.train.schedule import EpochSchedule, Schedule
from homeroom.train.settings import Settings
from homeroom.train.state import Epoch, TrainState
from homeroom.train.step import Steps, gradient


@dataclass(frozen=True)
class Fit:
    """Result of a training.

    theta: float32 [P] of the best epoch
    score: `Epoch.value` of that epoch
    finished: False where the budget ended first
    temperatures: by trained task
    frozen_after: epochs after which only the heads were trained; None where all were to the end
    """

    theta: np.ndarray
    history: tuple[Epoch, ...]
    best_epoch: int
    score: float
    steps: int
    seconds: float
    finished: bool
    temperatures: dict[str, float]
    frozen_after: int | None = None


@dataclass
class _Training:
    """A training under way.

    weights: float32 [examples, tasks + objectives], of `sample_weights`
    theta0: float32 [P of the tier], where it started
    optimizer: its moments are the state's arrays
    saved_s: monotonic time of the last checkpoint
    """

    train: Dataset
    weights: np.ndarray
    distilled: Distillation | None
    theta0: np.ndarray
    settings: Settings
    schedule: Schedule
    state: TrainState
    optimizer: AdamW
    stop: Callable[[], bool]
    checkpoint: Callable[[TrainState], None] | None
    progress: Progress | None
    saved_s: float


def fit(
    graphs: Graphs,
    train: Dataset,
    validation: Dataset | None,
    theta0: np.ndarray,
    settings: Settings,
    *,
    stop: Callable[[], bool] = bool,
    resume: TrainState | None = None,
    checkpoint: Callable[[TrainState], None] | None = None,
    progress: Progress | None = None,
    learned: Collection[str] | None = None,
) -> Fit:
    """Minimises the mean loss of every task from theta0 float32 [P] by AdamW; keeps the best epoch on validation data.

    Trains only the values of theta in the graphs' tier, and the shared layers only until they are frozen (see
    `layer_freezing`). Raises TrainError without labels, or where the loss is not finite.

    stop: asked before every batch whether to end there
    resume: a state to go on from; gives the same theta, bit for bit, as a training that was never stopped
    checkpoint: called with the state every `settings.checkpoint_s` seconds, and where `stop` ended the training
    progress: called after every step with "training", steps done, and steps in total
    learned: the tasks whose answers `settings.distillation` keeps as theta0 gives them; None for all
    """
    started_s = time.monotonic()
    full_theta0, narrow = theta0, graphs.narrow(theta0)
    theta0, distilled = graphs.opened(narrow, _taught(train)), answers_before(graphs, train, narrow, settings, learned)
    weights, schedule = _checked_weights(train, settings), Schedule(graphs, train.manifest, settings)
    state = resume or TrainState.initial(theta0)
    optimizer = AdamW(len(theta0), settings.weight_decay)
    optimizer.first, optimizer.second, optimizer.steps = state.first, state.second, state.steps
    training = _Training(
        train=train,
        weights=weights,
        distilled=distilled,
        theta0=theta0,
        settings=settings,
        schedule=schedule,
        state=state,
        optimizer=optimizer,
        stop=stop,
        checkpoint=checkpoint,
        progress=progress,
        saved_s=time.monotonic(),
    )
    in_time = True
    while in_time and not schedule.ended(state):
        in_time = _run_epoch(training, schedule.epoch(state))
        if in_time:
            _end_epoch(graphs, validation, state, schedule.shared)
    # A training that the budget cut short in its first epoch keeps what it has: it is all there is.
    theta = state.best if state.best_epoch >= 0 else state.theta.copy()
    if checkpoint and not in_time:
        checkpoint(state)
    return Fit(
        theta=graphs.widen(theta, full_theta0),
        history=tuple(state.history),
        best_epoch=state.best_epoch,
        score=state.history[state.best_epoch].value if state.best_epoch >= 0 else float("-inf"),
        steps=state.steps,
        seconds=time.monotonic() - started_s,
        finished=in_time,
        temperatures=calibrate(graphs, train, validation, theta),
        frozen_after=schedule.frozen_after(state),
    )


def _taught(train: Dataset) -> dict[str, np.ndarray]:
    """By task with masked labels, bool [width], which of its labels any sample has."""
    names, taught = [task.name for task in train.manifest.tasks], dict[str, np.ndarray]()
    for name in train.manifest.masked:
        rows = train.labelled[:, names.index(name)] > 0
        taught[name] = np.asarray((train.targets[name][rows] > 0.5).any(0))
    return taught


def _checked_weights(train: Dataset, settings: Settings) -> np.ndarray:
    """The sample weights; TrainError where all are 0."""
    weights = sample_weights(train, settings)
    if not weights.any():
        if any(train.one_sided(task) for task in train.manifest.tasks):
            raise TrainError("all answers in the sequences are right, or all wrong", remedy="add sequences with both")
        raise TrainError("no sample has a label that its inputs can teach", remedy="add labelled samples")
    return weights


def _run_epoch(training: _Training, epoch: EpochSchedule) -> bool:
    """Runs the steps of the epoch that are left; returns False where `stop` ended it."""
    state, steps = training.state, _plan_epoch(training, epoch)
    batches, following = len(steps), None
    while state.batch < batches:
        if training.stop():
            return False
        step = following or steps[state.batch]
        following = steps[state.batch + 1] if state.batch + 1 < batches else None
        tier, positions = training.schedule.tiers[step.tier]
        loss, slope = gradient(tier, step, state.theta, positions, following)
        if not np.isfinite(loss) or not np.isfinite(slope).all():
            raise TrainError(
                f"the loss is no longer finite at step {state.steps}", remedy="train with a lower learning rate"
            )
        if training.settings.proximal:
            slope = slope + training.settings.proximal * (state.theta - training.theta0)
        training.optimizer.step(state.theta, slope, epoch.learning_rate(state.steps, state.batch, batches))
        state.steps, state.batch, state.loss = training.optimizer.steps, state.batch + 1, state.loss + loss
        if training.progress:
            training.progress("training", state.steps, training.settings.epochs * batches)
        if training.checkpoint and time.monotonic() - training.saved_s >= training.settings.checkpoint_s:
            training.checkpoint(state)
            training.saved_s = time.monotonic()
    return True


def _plan_epoch(training: _Training, epoch: EpochSchedule) -> Steps:
    """The steps of an epoch, their graphs loaded."""
    train, settings, tiers = training.train, training.settings, training.schedule.tiers
    # Clipping bounds the gradient of a subject's rows together, which cannot be the sum of parts.
    rows = 0 if settings.clip_norm else train.manifest.training.batch
    seed = [settings.seed, epoch.number, settings.draw]  # of every tier's batches, which are the same rows then
    plans = [train.plan(graphs.steps(epoch.role), np.random.default_rng(seed), rows) for graphs, _ in tiers]
    for (graphs, _), plan in zip(tiers, plans, strict=True):
        graphs.preload(part.graph for batch in plan for part in batch.parts())
    return Steps(train, plans, training.weights, settings, epoch.number, training.distilled)


def _end_epoch(graphs: Graphs, validation: Dataset | None, state: TrainState, shared: np.ndarray) -> None:
    """Evaluates theta, keeps it if it is the best so far, and moves the state on to the next epoch.

    shared: bool [P], the values of the shared layers.
    """
    value, log_loss = float(state.epoch), float("inf")  # without validation data the last epoch counts as the best
    if validation is not None:
        scores = [score for score in evaluate(graphs, validation, state.theta).values() if score.n]
        losses = [score.log_loss for score in scores if score.log_loss is not None]
        value = float(np.mean([score.value for score in scores])) if scores else value
        log_loss = float(np.mean(losses)) if losses else log_loss
    moved = float(np.linalg.norm((state.theta - state.began)[shared])) if state.began.size else 0.0
    epoch = Epoch(state.loss / max(state.batch, 1), value, moved, log_loss)
    if state.best_epoch < 0 or epoch.rank > state.history[state.best_epoch].rank:
        state.best, state.best_epoch = state.theta.copy(), state.epoch
    state.history.append(epoch)
    state.began = state.theta.copy()
    state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0
