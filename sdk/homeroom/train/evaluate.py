"""Evaluation of theta on labelled samples: scores and outputs by task."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from homeroom.data.tasks.metrics import Score, score
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.token_targets import compared_pairs


def evaluate(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> dict[str, Score]:
    """The score of each task on its labelled samples."""
    pairs = labelled_outputs(graphs, dataset, theta)
    return {task.name: score(task, *pairs[task.name]) for task in dataset.manifest.tasks}


def by_language(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> dict[str, dict[str, Score]]:
    """As `evaluate`, for the samples of each language that any states; none where all are of one."""
    found: dict[str, list[int]] = {}
    for row, example in enumerate(dataset.examples):
        found.setdefault(example.language, []).append(row)
    if len(found) < 2:
        return {}
    return {lang or "unstated": evaluate(graphs, dataset.subset(rows), theta) for lang, rows in sorted(found.items())}


def outputs_of(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> dict[str, np.ndarray]:
    """The output of every task but those per token, float32 [examples, width], in the dataset's order."""
    return all_outputs_of(graphs, dataset, theta)[0]


def all_outputs_of(
    graphs: Graphs, dataset: Dataset, theta: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """As `outputs_of`; and of the tasks per token, for each example, float32 [tokens and padding, width]."""
    tasks = dataset.manifest.tasks
    whole = {t.name: np.zeros((len(dataset), t.width), np.float32) for t in tasks if not t.per_token}
    each = {t.name: [np.zeros((0, t.width), np.float32)] * len(dataset) for t in tasks if t.per_token}
    for rows, made in _passed(graphs, dataset, theta):
        for name, values in whole.items():
            values[rows] = made[name]
        for name, found in each.items():
            for place, row in enumerate(rows):
                found[row] = made[name][place]
    return whole, each


def labelled_outputs(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By task the outputs and targets of its labelled samples, as `scores.score` takes them."""
    tasks = dataset.manifest.tasks
    whole = {t.name: np.zeros((len(dataset), t.width), np.float32) for t in tasks if not t.per_token}
    pairs = {t.name: [compared_pairs(t, *[np.zeros((0, t.width), np.float32)] * 2)] for t in tasks if t.per_token}
    labelled = {t.name: dataset.labelled[:, column] > 0 for column, t in enumerate(tasks)}
    for rows, made in _passed(graphs, dataset, theta):
        for task in tasks:
            if not task.per_token:
                whole[task.name][rows] = made[task.name]
                continue
            for place, row in enumerate(rows):
                if labelled[task.name][row]:  # at once, since the outputs of all tokens would fill the memory
                    target = dataset.examples[row].targets[task.name]
                    pairs[task.name].append(compared_pairs(task, made[task.name][place], target))
    found = {name: (made[labelled[name]], dataset.targets[name][labelled[name]]) for name, made in whole.items()}
    for name, parts in pairs.items():
        outputs, targets = zip(*parts, strict=True)
        found[name] = np.concatenate(outputs), np.concatenate(targets)
    return found


def _passed(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Batch by batch, the numbers of its examples and their outputs by task."""
    theta, names = graphs.narrow(theta), [task.name for task in dataset.manifest.tasks]
    batches = dataset.plan(graphs.steps("predict")) if len(dataset) else []
    graphs.warm(batch.graph for batch in batches)
    work = ((batch.graph, dataset.feeds(batch) | {"theta": theta}) for batch in batches)
    for batch, made in zip(batches, graphs.each(work), strict=True):
        yield batch.rows, {name: made[f"{name}.output"][: len(batch.positions)] for name in names}
