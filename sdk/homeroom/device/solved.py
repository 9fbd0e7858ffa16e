"""The solved part of a device's model: the sums of its samples, heads solved from them, and how these count."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.manifest import Manifest, Task
from homeroom.contract.statistics.section import Section
from homeroom.contract.statistics.sums import NOTHING, Cell, Statistics, merge
from homeroom.data.samples import StoredSample
from homeroom.device.local_labels import answering, learned_samples
from homeroom.federation import versions
from homeroom.federation.statistics import others_total, release_mark
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store, StoredVersion
from homeroom.system.printable import counted
from homeroom.train.features.cached import read_value
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.solve.combine import NOT_SOLVED, SOLVED_WEIGHT, Mix, SolvedOutputs, SolvedPart
from homeroom.train.solve.evaluate import choose_mixes
from homeroom.train.solve.heads import (
    TaskHead,
    outputs_by_task,
    reads_letters_beside,
    solve,
    solve_on_top,
    vectors_of,
)
from homeroom.train.solve.kinds import ON_TOP
from homeroom.train.solve.letters_choice import better_without
from homeroom.train.solve.local_labels import with_labels
from homeroom.train.solve.subjects import counted_rows, subject_sums, sums_of
from homeroom.train.solve.vectors.projection import Projection, read_projections
from homeroom.train.solve.vectors.samples import SampleVectors, covered, sums_id, sums_ids


@dataclass(frozen=True)
class TaughtVectors:
    """The examples of a training as sums are made of them.

    tasks: those that are covered
    targets: float32 [n, width], counted: bool [n], by task
    others: the sums of other schools, which hold none of these
    """

    bundle: Bundle
    tasks: Sequence[Task]
    vectors: SampleVectors
    targets: Mapping[str, np.ndarray]
    counted: Mapping[str, np.ndarray]
    subjects: Sequence[str]
    sample_ids: Sequence[str]
    others: Statistics

    def sums(self) -> Iterator[tuple[str, Statistics]]:
        """Each subject and its sums, one in memory at a time."""
        return subject_sums(self.tasks, self.vectors, self.targets, self.counted, self.subjects)

    def part(self, validation: Dataset) -> SolvedPart:
        """Outputs for validation examples by heads of all others; how they count is to be chosen.

        Whether a head reads letters is chosen here: without, where that is clearly better.
        """
        ids = {example.sample_id for example in validation.examples}
        held_out = np.array([sample_id in ids for sample_id in self.sample_ids])
        first = self._part(held_out, frozenset())
        section = self.bundle.manifest.statistics
        assert isinstance(section, Section)
        lettered = [t for t in self.tasks if t.name in first.outputs and reads_letters_beside(section, t)]
        if not lettered:
            return first
        second = self._part(held_out, frozenset(task.name for task in lettered))
        better = frozenset(task.name for task in lettered if self._without_letters(task, held_out, first, second))
        if not better:
            return first
        outputs, others = ({**a, **{n: b[n] for n in better & b.keys()}} for a, b in _both(first, second))
        priors = {name: prior for name, prior in first.priors.items() if name not in better}
        priors |= {name: prior for name, prior in second.priors.items() if name in better}
        return SolvedPart(outputs, {}, others, priors, better)

    def _part(self, held_out: np.ndarray, unlettered: frozenset[str]) -> SolvedPart:
        manifest, rows = self.bundle.manifest, np.flatnonzero(~held_out)
        asked = self.vectors.subset(np.flatnonzero(held_out))
        own = sums_of(self.tasks, self.vectors, self.targets, self.counted, rows)
        priors = self.priors(rows, unlettered)
        heads = solve_on_top(manifest, own, self.others, priors, unlettered)
        others = solve(manifest, self.others, unlettered=unlettered)
        return SolvedPart(outputs_by_task(heads, asked), {}, outputs_by_task(others, asked), priors)

    def _without_letters(self, task: Task, held_out: np.ndarray, first: SolvedPart, second: SolvedPart) -> bool:
        counted = self.counted[task.name]
        rows = np.flatnonzero(counted[held_out])
        with_letters, without = (part.outputs[task.name].values[rows] for part in (first, second))
        return better_without(task, with_letters, without, self.targets[task.name][held_out & counted])

    def priors(self, rows: np.ndarray | None = None, unlettered: Collection[str] = ()) -> dict[str, float]:
        """As how many samples a class the others' solution counts, by task, where that is clear; rows: else all."""
        rows = np.arange(len(self.subjects)) if rows is None else rows
        chosen = dict[str, float]()
        for name, head in solve(self.bundle.manifest, self.others, unlettered=unlettered).items():
            on_top, counted = ON_TOP.get(head.task.kind), rows[self.counted[name][rows]]
            if on_top is None or not len(counted):
                continue
            vectors = self.vectors.of_task(head.task).only(head.reads).subset(counted)
            targets = self.targets[name][counted]
            names = [self.subjects[row] for row in counted.tolist()]
            if (prior := on_top.choose(head.head, vectors, targets, names)) is not None:
                chosen[name] = prior
        return chosen


def _both(first: SolvedPart, second: SolvedPart) -> Iterator[tuple[Mapping[str, SolvedOutputs], ...]]:
    yield first.outputs, second.outputs
    yield first.others, second.others


def teach(
    store: Store, bundle: Bundle, samples: Sequence[StoredSample], examples: Sequence[Example]
) -> TaughtVectors | None:
    """Stores each subject's sums over the examples, from which heads answer at once; None where nothing is covered.

    samples: theirs, and perhaps others whose features are not there.
    """
    if taught := taught_vectors(store, bundle, samples, examples):
        store.put_sums(sums_id(bundle.manifest), taught.sums())
    return taught


def taught_vectors(
    store: Store | None, bundle: Bundle, samples: Sequence[StoredSample], examples: Sequence[Example]
) -> TaughtVectors | None:
    """As `teach`, with nothing stored. store: None where no inputs are left in one, and no others' sums."""
    manifest, tasks = bundle.manifest, covered(bundle.manifest)
    if not tasks:
        return None
    section, dataset = manifest.statistics, Dataset(manifest, examples)
    assert isinstance(section, Section)
    vectors = vectors_of(manifest, read_projections(bundle), samples, examples, partial(read_value, store))
    columns = {task.name: column for column, task in enumerate(manifest.tasks)}
    labelled = {task.name: dataset.labelled[:, columns[task.name]] > 0 for task in tasks}
    subjects, ids = zip(*((example.subject, example.sample_id) for example in examples), strict=True)
    counted = counted_rows(labelled, subjects, ids, section.subject_limit)
    others = usable_others(store, bundle) if store else NOTHING
    return TaughtVectors(bundle, tasks, vectors, dataset.targets, counted, subjects, ids, others)


def first_weight(base: int, has_others: bool) -> float:
    """The weight of a solved head at first. base: the global version that theta was trained from.

    Where theta knows what other schools taught, a head of own samples alone counts only once validation shows it.
    """
    return SOLVED_WEIGHT if base == 0 or has_others else 0.0


def validated_part(
    graphs: Graphs, taught: TaughtVectors | None, validation: Dataset | None, theta: np.ndarray, base: int
) -> SolvedPart:
    """The solved part for the validation examples, and how each task counts; without any, the first weights."""
    if taught is None:
        return NOT_SOLVED
    shared = {cell.task for cell in taught.others.cells}
    known = [task.name for task in taught.tasks if taught.counted[task.name].any()]
    mixes = {name: Mix(first_weight(base, name in shared)) for name in known}
    if validation is None:
        return SolvedPart({}, mixes, priors=taught.priors())
    part = taught.part(validation)
    weights = {name: mixes[name].solved if name in mixes else SOLVED_WEIGHT for name in part.outputs}
    return replace(part, mixes=mixes | choose_mixes(graphs, validation, theta, part, weights))


def mix_facts(part: SolvedPart, trained: Mapping[str, float]) -> dict[str, Any]:
    """The facts of a version on how its solved tasks count; none where no task is solved. trained: by theta."""
    mixes = {name: asdict(mix) for name, mix in part.mixes.items() if name in trained}
    facts: dict[str, Any] = {"mixes": mixes, "priors": dict(part.priors), "unlettered": sorted(part.unlettered)}
    return {name: one for name, one in facts.items() if one}


def usable_others(store: Store, bundle: Bundle) -> Statistics:
    """The sums of other schools as they were last released, of the tasks whose second moments are there.

    Without the moments of what is counted, the variances would be too small.
    """
    return with_moments(others_total(store, bundle))


def with_moments(others: Statistics) -> Statistics:
    """The sums of the tasks whose second moments are there, of all that is counted."""
    lacking = {
        cell.task
        for cell in others.cells
        if cell.kind == "count" and Cell(cell.task, "moment", "", cell.blocks) not in others.cells
    }
    return Statistics({cell: values for cell, values in others.cells.items() if cell.task not in lacking})


def _stored_id(store: Store, bundle: Bundle) -> str:
    """What the sums in the store mean: as in this bundle, or in one that it extends, until the next training."""
    known = sums_ids(bundle.manifest)
    return next((one for one in known if store.summed_subjects(one)), known[0])


class HeadsInUse:
    """The heads of the sums in the store, solved once for each state of these.

    others: of other schools' sums alone. local: those that know labels of this device too, by task; samples: that
    taught each such label. All as of the last `read`.
    """

    def __init__(self) -> None:
        self._held: tuple[object, Mapping[str, TaskHead], Mapping[str, Projection]] = (None, {}, {})
        self.others: Mapping[str, TaskHead] = {}
        self.local: Mapping[str, TaskHead] = {}
        self.samples: Mapping[str, Mapping[str, int]] = {}

    def read(self, store: Store, bundle: Bundle) -> tuple[Mapping[str, TaskHead], Mapping[str, Projection]]:
        """The heads by task and the projections by block; none where the store has no sums for the bundle."""
        version = store.versions.current()
        priors, unlettered = versions.own_priors(store, version), versions.unlettered(store, version)
        labels = answering(store, bundle.manifest)
        local_state = labels, store.local_sums_mark()
        state = bundle.bundle_id, store.sums_mark(), release_mark(store), priors, unlettered, local_state
        if state != self._held[0]:
            heads, self.others, self.local, self.samples = dict[str, TaskHead](), {}, {}, {}
            if covered(bundle.manifest):
                own, others = store.own_total(_stored_id(store, bundle)), usable_others(store, bundle)
                heads = solve_on_top(bundle.manifest, own, others, priors, unlettered)
                self.others = solve(bundle.manifest, others, unlettered=unlettered)
                if labels:
                    added = store.local_total(sums_id(bundle.manifest))
                    self.samples = _samples(added, labels)
                    asked = _of(bundle.manifest, self.samples)
                    self.local = solve(asked, merge([own, others, added]), unlettered=unlettered)
            self._held = state, heads, read_projections(bundle) if heads or self.local else {}
        return self._held[1], self._held[2]


def _of(manifest: Manifest, labels: Mapping[str, Mapping[str, int]]) -> Manifest:
    """The manifest of the tasks that have local labels, with these."""
    more = {task: tuple(names) for task, names in labels.items()}
    tasks = tuple(task for task in with_labels(manifest, more).tasks if task.name in more)
    return msgspec.structs.replace(manifest, tasks=tasks)


def _samples(total: Statistics, labels: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, int]]:
    """By task and label, how many samples taught it; without those that none did."""
    by_task = {
        task: {label: number for label in names if (number := learned_samples(total, task, label))}
        for task, names in labels.items()
    }
    return {task: taught for task, taught in by_task.items() if taught}


def mixes_in_use(store: Store, heads: Collection[str]) -> dict[str, Mix | None]:
    """How each solved task counts beside the theta in use: None, it answers alone. Those of theta are left out."""
    return mixes_beside(store, store.versions.current(), heads)


def mixes_beside(store: Store, version: StoredVersion | None, heads: Collection[str]) -> dict[str, Mix | None]:
    """As `mixes_in_use`, beside any version."""
    chosen = dict[str, Mix | None]()
    known, learned = versions.mixes(store, version), versions.learned_tasks(store, version)
    for name in heads:
        if name in known:
            if known[name].solved:
                chosen[name] = known[name]
        elif version is None or (learned is not None and name not in learned):
            chosen[name] = None
    return chosen


def solved_lines(store: Store, bundle: Bundle) -> list[str]:
    """How solved heads answer, a line a task, without solving any; none where nothing is covered or summed."""
    version, subjects = store.versions.current(), store.summed_subjects(_stored_id(store, bundle))
    if not subjects:
        return []
    summed = f"the sums of {counted(subjects, 'subject')}"
    summed += " and of other schools" if usable_others(store, bundle).cells else ""
    if version is None:
        return [f"what theta never learned: solved alone, from {summed}"]
    mixes = versions.mixes(store, version)
    plain = {task: ", clearly better without letters" for task in versions.unlettered(store, version)}
    lines = [
        f"{task}: solved {mix.solved:.0%}, theta {1 - mix.solved:.0%}{plain.get(task, '')}"
        for task, mix in mixes.items()
    ]
    return lines or [f"theta alone until the next training; kept until then: {summed}"]
