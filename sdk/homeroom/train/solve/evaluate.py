"""Scores of theta and the solved heads together, and of each alone."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from homeroom.contract.manifest import Task
from homeroom.data.tasks import score
from homeroom.data.tasks.metrics import Score
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import labelled_outputs
from homeroom.train.features.dataset import Dataset
from homeroom.train.solve.combine import Mix, SolvedPart, choose_weight


def evaluate_both(
    graphs: Graphs, dataset: Dataset, theta: np.ndarray, part: SolvedPart, temperatures: Mapping[str, float]
) -> dict[str, Score]:
    """Score of each task on its labelled samples by both parts, with those of each alone in `parts`.

    Each is calibrated as its answers are. theta: float32 [P]. part: of the dataset's examples. temperatures: of theta
    alone, by task.
    """
    pairs, scores = labelled_outputs(graphs, dataset, theta), {}
    for column, task in enumerate(dataset.manifest.tasks):
        mix = part.mixes.get(task.name)
        own = mix.trained_temperature if mix and mix.solved else temperatures.get(task.name, 1.0)
        scores[task.name] = trained = score(task, *pairs[task.name], own)
        if task.name in part.outputs and trained.n:
            rows = np.flatnonzero(dataset.labelled[:, column] > 0)
            scores[task.name] = _with_parts(task, trained, *pairs[task.name], part.subset(rows))
    return scores


def _with_parts(task: Task, trained: Score, outputs: np.ndarray, targets: np.ndarray, part: SolvedPart) -> Score:
    mix = part.mixes.get(task.name)
    weight = mix.solved if mix else 1.0
    both = score(task, part.answered(task.name, outputs), targets) if weight else trained
    solved = score(task, part.outputs[task.name].values, targets, mix.solved_temperature if mix else 1.0)
    parts = {"theta": trained, "solved": solved}
    if task.name in part.others:
        parts["others"] = score(task, part.others[task.name].values, targets)
    return msgspec.structs.replace(both, parts=parts, solved_weight=weight)


def trained_scores(scores: Mapping[str, Score]) -> dict[str, Score]:
    """The scores of theta alone."""
    return {name: one if one.parts is msgspec.UNSET else one.parts["theta"] for name, one in scores.items()}


def choose_mixes(
    graphs: Graphs, dataset: Dataset, theta: np.ndarray, part: SolvedPart, weights: Mapping[str, float]
) -> dict[str, Mix]:
    """How each solved task counts beside theta, by validation examples that neither learned from.

    part: of these examples; its mixes are not read. weights: of the solved part at first, by task.
    """
    pairs, mixes = labelled_outputs(graphs, dataset, theta), {}
    for column, task in enumerate(dataset.manifest.tasks):
        if task.name in part.outputs:
            rows = np.flatnonzero(dataset.labelled[:, column] > 0)
            outputs, targets = pairs[task.name]
            mixes[task.name] = choose_weight(
                task, outputs, part.outputs[task.name].subset(rows), targets, weights[task.name]
            )
    return mixes
