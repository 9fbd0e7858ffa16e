"""Training of theta on cached features, within a budget, to be resumed at any step; imports runtime, dataset, optim."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from homeroom.errors import TrainError
from homeroom.runtime.graphs import Graphs
from homeroom.train.calibration import temperature
from homeroom.train.evaluate import compared_of, evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.layer_freezing import places_of, settled_after, trunk
from homeroom.train.optimizer import AdamW
from homeroom.train.sample_weights import sample_weights
from homeroom.train.schedule import cooling, one_cycle, spent_after
from homeroom.train.settings import Settings
from homeroom.train.state import Epoch, TrainState
from homeroom.train.step import Steps, gradient

Progress = Callable[[str, int, int], None]


OUTER_RATE = 1 / 3  # fewer devices feed these values, and a wide layer takes longer strides at the same rate


@dataclass(frozen=True)
class Fit:
    """`theta` float32 [P] is the best of the epochs in `history`; `finished` is False where the budget ended first."""

    theta: np.ndarray
    history: tuple[Epoch, ...]
    best_epoch: int
    score: float
    steps: int
    seconds: float
    finished: bool
    temperatures: dict[str, float]
    settled_after: int | None = None  # epochs, after which only the heads moved


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
) -> Fit:
    """Minimise the mean loss of every task from theta0 [P]; the best epoch on validation data is kept.

    Only what the graphs' tier has of theta is trained; the trunk until it has settled, if nothing needs it to go on.

    stop: asked before every batch whether to end there. Resuming gives the theta, bit for bit, of a training that was
    never stopped. Raises TrainError without labels, or where the loss is not finite.
    """
    began = time.monotonic()
    whole, theta0 = theta0, graphs.narrow(theta0)
    weights = sample_weights(train, settings)
    if not weights.any():
        if any(task.kind == "tracing" and train.one_sided(task) for task in train.manifest.tasks):
            raise TrainError("all answers in the sequences are right, or all wrong", remedy="add sequences with both")
        raise TrainError("no sample has a label that its inputs can teach", remedy="add labelled samples")
    tiers = graphs.within() if settings.nested else [(graphs, slice(None))]
    # What is clipped is a subject's gradient within a batch: that cannot be the sum of its parts'.
    rows = 0 if settings.clip_norm else train.manifest.training.batch
    frozen, body = places_of(graphs, settings.frozen), places_of(graphs, trunk(train.manifest.layout))
    # A constant rate is for a part of a training, and the other terms draw on the trunk to the end.
    needed = settings.constant_rate or settings.proximal or settings.clip_norm or train.manifest.objectives
    settles = not needed and len(tiers) == 1 and graphs.steps("grad_heads")[0].role == "grad_heads"
    speed: float | np.ndarray = 1.0
    if len(tiers) > 1:
        speed = np.full(len(theta0), OUTER_RATE, np.float32)
        speed[tiers[0][1]] = 1.0
    state = resume or _begin(theta0)
    optimiser = AdamW(len(theta0), settings.weight_decay)
    optimiser.first, optimiser.second, optimiser.steps = state.first, state.second, state.steps
    total, saved_s, in_time = 0, time.monotonic(), True
    cooldown = 0 if settings.constant_rate else settings.cooldown
    while state.epoch < settings.epochs and in_time:
        spent = spent_after([epoch.value for epoch in state.history], settings.patience)
        if spent is not None and state.epoch >= spent + cooldown:
            break
        still = frozen | body if _settled(state, settings, settles) else frozen
        role = "grad_clipped" if settings.clip_norm else "grad_heads" if still[body].all() else "grad"
        pace = np.where(still, np.float32(0), speed) if still.any() else speed
        order = [settings.seed, state.epoch, settings.draw]  # of every tier's batches, which are the same rows then
        plans = [train.plan(tier.steps(role), np.random.default_rng(order), rows) for tier, _ in tiers]
        batches = len(plans[-1])
        total = settings.epochs * batches
        for (tier, _), plan in zip(tiers, plans, strict=True):
            tier.warm(part.graph for batch in plan for part in batch.parts())
        steps, following = Steps(train, plans, weights, settings, state.epoch), None
        while state.batch < batches:
            if stop():
                in_time = False
                break
            step = following or steps[state.batch]
            following = steps[state.batch + 1] if state.batch + 1 < batches else None
            tier, places = tiers[step.tier]
            loss, slope = gradient(tier, step, state.theta, places, following)
            if not np.isfinite(loss) or not np.isfinite(slope).all():
                raise TrainError(
                    f"the loss is no longer finite at step {state.steps}", remedy="train with a lower learning rate"
                )
            if settings.proximal:
                slope = slope + settings.proximal * (state.theta - theta0)
            share = 1.0 if settings.constant_rate else one_cycle(state.steps, total, settings.warmup)
            share *= cooling(state.epoch + state.batch / batches, spent, cooldown)
            optimiser.step(state.theta, slope, settings.learning_rate * share * pace)
            state.steps, state.batch, state.loss = optimiser.steps, state.batch + 1, state.loss + loss
            if progress:
                progress("training", state.steps, total)
            if checkpoint and time.monotonic() - saved_s >= settings.checkpoint_s:
                checkpoint(state)
                saved_s = time.monotonic()
        else:
            _end_epoch(graphs, validation, state, batches, body)
    # A training that the budget cut short in its first epoch keeps what it has: it is all there is.
    theta = state.best if state.best_epoch >= 0 else state.theta.copy()
    if checkpoint and not in_time:
        checkpoint(state)
    return Fit(
        theta=graphs.widen(theta, whole),
        history=tuple(state.history),
        best_epoch=state.best_epoch,
        score=state.history[state.best_epoch].value if state.best_epoch >= 0 else float("-inf"),
        steps=state.steps,
        seconds=time.monotonic() - began,
        finished=in_time,
        temperatures=_temperatures(graphs, train, validation, theta),
        settled_after=_settled(state, settings, settles),
    )


def _begin(theta0: np.ndarray) -> TrainState:
    theta = np.array(theta0, np.float32)
    zeros = np.zeros_like(theta)
    return TrainState(theta=theta, first=zeros, second=zeros.copy(), best=theta.copy(), began=theta.copy())


def _settled(state: TrainState, settings: Settings, settles: bool) -> int | None:
    return settled_after([epoch.moved for epoch in state.history], settings.epochs) if settles else None


def _end_epoch(graphs: Graphs, validation: Dataset | None, state: TrainState, batches: int, trunk: np.ndarray) -> None:
    """trunk: bool [P]."""
    loss = state.loss / max(batches, 1)
    value = float(state.epoch)  # without validation data the last epoch counts as the best
    if validation is not None:
        scores = [s.value for s in evaluate(graphs, validation, state.theta).values() if s.n]
        value = float(np.mean(scores)) if scores else value
    if state.best_epoch < 0 or value > state.history[state.best_epoch].value:
        state.best, state.best_epoch = state.theta.copy(), state.epoch
    moved = float(np.linalg.norm((state.theta - state.began)[trunk])) if state.began.size else 0.0
    state.history.append(Epoch(loss, value, moved))
    state.began = state.theta.copy()
    state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0


def _temperatures(graphs: Graphs, train: Dataset, validation: Dataset | None, theta: np.ndarray) -> dict[str, float]:
    """By trained task; 1.0 where no validation sample has its label."""
    tasks = train.manifest.tasks
    found = {task.name: 1.0 for column, task in enumerate(tasks) if train.labelled[:, column].any()}
    if validation is not None:
        pairs = compared_of(graphs, validation, theta)
        for task in tasks:
            if task.name in found and len(pairs[task.name][0]):
                found[task.name] = temperature(task, *pairs[task.name])
    return found
