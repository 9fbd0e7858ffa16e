"""Evaluation of theta on labelled samples: scores and outputs by task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations
from types import MappingProxyType

import numpy as np

from homeroom.contract.evaluation_counts import Group
from homeroom.contract.graph_io import OUTPUT, THETA, named
from homeroom.data.tasks import kind_of, probabilities, score
from homeroom.data.tasks.metrics import Score
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset, needs_all

ALL_INPUTS, FEWER_INPUTS = "all inputs", "fewer inputs"
MOST_SLOTS_NAMED = 3  # of a task, whose subsets are told apart
NOT_CALIBRATED: Mapping[str, float] = MappingProxyType({})


def evaluate(
    graphs: Graphs, dataset: Dataset, theta: np.ndarray, temperatures: Mapping[str, float] = NOT_CALIBRATED
) -> dict[str, Score]:
    """Score of each task on its labelled samples, at theta float32 [P]. temperatures: by task; 1 for others."""
    pairs, tasks = labelled_outputs(graphs, dataset, theta), dataset.manifest.tasks
    return {task.name: score(task, *pairs[task.name], temperatures.get(task.name, 1.0)) for task in tasks}


def by_input(
    graphs: Graphs, dataset: Dataset, theta: np.ndarray, temperatures: Mapping[str, float]
) -> dict[str, dict[str, Score]]:
    """Scores of theta by task and slot, from that slot's inputs alone, of tasks that answer from any of several slots.

    temperatures: by task.
    """
    manifest, found = dataset.manifest, dict[str, dict[str, Score]]()
    free = [task for task in manifest.tasks if len(task.reads) > 1 and not needs_all(task, manifest)]
    for slot in dict.fromkeys(slot for task in free for slot in task.reads):
        scores = evaluate(graphs, dataset.only(slot), theta, temperatures)
        for task in free:
            if slot in task.reads and scores[task.name].n:
                found.setdefault(task.name, {})[slot] = scores[task.name]
    return found


def by_language(dataset: Dataset, judged: Callable[[np.ndarray], dict[str, Score]]) -> dict[str, dict[str, Score]]:
    """Scores by language, "unstated" where a sample names none; empty where all are of one language.

    judged: gives the scores by task of the examples with these numbers
    """
    rows_by_language: dict[str, list[int]] = {}
    for row, example in enumerate(dataset.examples):
        rows_by_language.setdefault(example.language, []).append(row)
    parts = sorted(rows_by_language.items()) if len(rows_by_language) > 1 else []
    return {language or "unstated": judged(np.array(rows)) for language, rows in parts}


def count_answers(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> dict[str, dict[Group, np.ndarray]]:
    """How often theta float32 [P] is right and wrong, int64 by task and group; groups without samples are left out.

    A group is the language of a sample, where the bundle knows it, and which of the task's slots it has.
    """
    manifest, found = dataset.manifest, dict[str, dict[Group, np.ndarray]]()
    languages = {one for modality in manifest.modalities for one in modality.known_languages}
    rows_of: dict[tuple[str, frozenset[str]], list[int]] = {}
    for row, present in enumerate(dataset.presence > 0):
        language = dataset.examples[row].language.lower().partition("-")[0]
        slots = frozenset(slot for (slot, _, _), there in zip(manifest.inputs, present, strict=True) if there)
        rows_of.setdefault((language if language in languages else "", slots), []).append(row)
    for (language, slots), rows in sorted(rows_of.items(), key=lambda item: item[1][0]):
        pairs = labelled_outputs(graphs, dataset.subset(np.array(rows)), theta)
        for task in manifest.tasks:
            outputs, targets = pairs[task.name]
            if (counting := kind_of(task).counting) is None or not len(outputs):
                continue
            counts = counting.count(task, probabilities(task, outputs), targets)
            groups = found.setdefault(task.name, {})
            group = language, inputs_name(task.reads, slots)
            groups[group] = groups[group] + counts if group in groups else counts
    return found


def inputs_name(reads: Sequence[str], slots: AbstractSet[str]) -> str:
    """Which of a task's slots are there, as one name; of more than three slots only whether all are."""
    if len(reads) > MOST_SLOTS_NAMED:
        return ALL_INPUTS if slots >= set(reads) else FEWER_INPUTS
    return "+".join(slot for slot in reads if slot in slots)


def input_names(reads: Sequence[str]) -> list[str]:
    """Every name that `inputs_name` may give to inputs of a task."""
    if len(reads) > MOST_SLOTS_NAMED:
        return [ALL_INPUTS, FEWER_INPUTS]
    some = (frozenset(one) for size in range(1, len(reads) + 1) for one in combinations(reads, size))
    return [inputs_name(reads, slots) for slots in some]


def outputs_of(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs float32 [examples, width] of every task but those per token, in the dataset's order."""
    return all_outputs_of(graphs, dataset, theta)[0]


def all_outputs_of(
    graphs: Graphs, dataset: Dataset, theta: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """As `outputs_of`; and of the tasks per token, for each example, float32 [tokens and padding, width]."""
    tasks = dataset.manifest.tasks
    outputs = {t.name: np.zeros((len(dataset), t.width), np.float32) for t in tasks if not kind_of(t).per_token}
    token_outputs = {t.name: [np.zeros((0, t.width), np.float32)] * len(dataset) for t in tasks if kind_of(t).per_token}
    for rows, batch_outputs in _predict(graphs, dataset, theta):
        for name, values in outputs.items():
            values[rows] = batch_outputs[name]
        for name, by_example in token_outputs.items():
            for position, row in enumerate(rows):
                by_example[row] = batch_outputs[name][position]
    return outputs, token_outputs


def labelled_outputs(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Outputs and targets of the labelled samples by task, as `tasks.score` takes them."""
    tasks = dataset.manifest.tasks
    outputs = {t.name: np.zeros((len(dataset), t.width), np.float32) for t in tasks if not kind_of(t).per_token}
    pairs_of = {t.name: compared for t in tasks if (compared := kind_of(t).token_pairs)}
    empty = {t.name: np.zeros((0, t.width), np.float32) for t in tasks}
    token_pairs = {name: [pair(empty[name], empty[name])] for name, pair in pairs_of.items()}
    labelled = {t.name: dataset.labelled[:, column] > 0 for column, t in enumerate(tasks)}
    for rows, batch_outputs in _predict(graphs, dataset, theta):
        for task in tasks:
            if task.name not in token_pairs:
                outputs[task.name][rows] = batch_outputs[task.name]
                continue
            for position, row in enumerate(rows):
                if labelled[task.name][row]:  # at once, since the outputs of all tokens would fill the memory
                    target = dataset.examples[row].targets[task.name]
                    token_pairs[task.name].append(pairs_of[task.name](batch_outputs[task.name][position], target))
    pairs = {name: (o[labelled[name]], dataset.targets[name][labelled[name]]) for name, o in outputs.items()}
    for name, by_example in token_pairs.items():
        compared_outputs, targets = zip(*by_example, strict=True)
        pairs[name] = np.concatenate(compared_outputs), np.concatenate(targets)
    return pairs


def _predict(graphs: Graphs, dataset: Dataset, theta: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields the numbers of a batch's examples and their outputs by task, batch by batch."""
    theta, names = graphs.masked(graphs.narrow(theta)), [task.name for task in dataset.manifest.tasks]
    batches = dataset.plan(graphs.steps("predict")) if len(dataset) else []
    graphs.preload(batch.graph for batch in batches)
    runs = ((batch.graph, dataset.feeds(batch) | {THETA: theta}) for batch in batches)
    for batch, outputs in zip(batches, graphs.run_all(runs), strict=True):
        yield batch.rows, {name: outputs[named(name, OUTPUT)][: len(batch.positions)] for name in names}
