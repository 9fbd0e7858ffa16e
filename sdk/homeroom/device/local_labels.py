"""Labels that this device alone has: added, renamed, taken up into the bundle's, removed, and learned from samples.

A sample's local label stands apart from its labels (`StoredSample.local_labels`), so that theta, updates, statistics
that are sent and evaluation never see it. Heads are solved from the device's sums and those of samples with local
labels together, and only tell these labels from the bundle's (`train.solve.local_labels`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np

from homeroom.contract.manifest import Manifest, Task
from homeroom.contract.statistics.section import Section
from homeroom.contract.statistics.sums import Statistics
from homeroom.data.names import normal_name, refuse_control_characters
from homeroom.data.samples import Label, StoredSample
from homeroom.data.tasks import kind_of, target
from homeroom.data.tasks.answers import Answer
from homeroom.data.tasks.base import close_names, match_name, suggestion
from homeroom.data.validation import find_task
from homeroom.device.local_samples import to_examples
from homeroom.errors import InputError
from homeroom.federation.policy import may_teach, policy_in_force
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.store.local_labels import LocalLabel, LocalScope, local_labels, put_local_labels
from homeroom.system.installation import quoted
from homeroom.system.printable import counted
from homeroom.train.features.buffer import LazySamples
from homeroom.train.features.cached import read_value
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.quality_gate import training_view
from homeroom.train.solve.heads import vectors_of
from homeroom.train.solve.kinds import solver_of
from homeroom.train.solve.local_labels import extended, with_labels
from homeroom.train.solve.subjects import counted_rows, subject_sums
from homeroom.train.solve.vectors.projection import read_projections
from homeroom.train.solve.vectors.samples import covered, sums_id

LABEL_LIMIT = 32  # of a device, in all tasks
NAME_LIMIT_CHARACTERS = 80
KEPT_HERE = "It stays here: no training of theta, no update and no statistics that leave learn from it."


@dataclass(frozen=True)
class LabelCount:
    """A label of a task. scope: "bundle", "personal" or "institution".

    samples: that have it. learned: of those, how many the head of a local label was solved from; None of the bundle's.
    asks: what a person has to decide or cannot use yet, in words. in_question: whether the bundle has the name too.
    """

    task: str
    label: str
    scope: str
    samples: int
    learned: int | None = None
    asks: str = ""
    in_question: bool = False


def takes_labels(manifest: Manifest, task: Task) -> bool:
    """Whether a device can add labels to a task: its head is solved, and its labels are classes without an order."""
    solver = solver_of(task)
    return task in covered(manifest) and bool(solver and solver.exclusive) and kind_of(task).grows


def answering(store: Store, manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """By task, the local labels that answer: those of tasks that take any, and whose name the bundle does not have."""
    found = dict[str, tuple[str, ...]]()
    taking = {task.name: task for task in manifest.tasks if takes_labels(manifest, task)}
    for one in local_labels(store):
        if one.task in taking and match_name(one.label, taking[one.task].labels) is None:
            found[one.task] = (*found.get(one.task, ()), one.label)
    return found


def reading_manifest(store: Store, manifest: Manifest) -> Manifest:
    """The manifest that samples are read by: with the local labels that answer."""
    return with_labels(manifest, answering(store, manifest))


def in_question(store: Store, manifest: Manifest) -> dict[tuple[str, str], LocalLabel]:
    """The local labels whose name the bundle has too, by task and the bundle's spelling: a person decides."""
    tasks, found = {task.name: task for task in manifest.tasks}, dict[tuple[str, str], LocalLabel]()
    for one in local_labels(store):
        if one.task in tasks and (name := match_name(one.label, tasks[one.task].labels)):
            found[one.task, name] = one
    return found


def asks(one: LocalLabel) -> str:
    """What a person is asked of a label whose name the bundle has too."""
    task, label = one.task, one.label
    same = f"`homeroom device labels merge DIR {quoted(task)} {quoted(label)}` where they mean the same"
    if one.scope == "personal":
        leave = f"`homeroom device labels add DIR {quoted(task)} {quoted(label)} --scope institution`"
        same += f" (after {leave}, since it is personal)"
    apart = f"`homeroom device labels rename DIR {quoted(task)} {quoted(label)} NEW` where they do not"
    return f"the bundle has a label of this name too, and nothing was merged: {same}, {apart}; it does not answer now"


class KnownLabels(NamedTuple):
    """`answering` and `in_question`, as of one moment."""

    local: Mapping[str, tuple[str, ...]]
    questions: Mapping[tuple[str, str], LocalLabel]


def known_labels(store: Store, manifest: Manifest) -> KnownLabels:
    """The labels that this device alone has, as samples are read by them."""
    return KnownLabels(answering(store, manifest), in_question(store, manifest))


def separated(
    samples: Iterable[StoredSample], known: KnownLabels, refuse: Callable[[InputError], None]
) -> Iterator[StoredSample]:
    """Yields samples that were read by `with_labels(manifest, known.local)`, their local labels apart from the others.

    refuse: is told of each sample with a label that is in question, which is left out.
    """
    local, questions = known
    for sample in samples:
        open_questions = [one for pair, one in questions.items() if pair in sample.labels.items()]
        if open_questions:
            one = open_questions[0]
            what = f"{one.label!r} could be the bundle's label, or the one that was added here"
            refuse(InputError(what, where=f"labels.{one.task}", remedy=asks(one)))
            continue
        apart = {task: label for task, label in sample.labels.items() if label in local.get(task, ())}
        kept = {task: label for task, label in sample.labels.items() if task not in apart}
        yield msgspec.structs.replace(sample, labels=kept, local_labels=apart) if apart else sample


def local_note(counts: Counter[str]) -> str:
    """What a receipt says of samples with local labels, by "task: label"; empty where there are none."""
    if not counts:
        return ""
    said = ", ".join(f"{name} ({number:,})" for name, number in sorted(counts.items()))
    return (
        f"{said}: labels of this device; no training of theta, no update and no statistics that leave learn from them"
    )


def add_labels(store: Store, bundle: Bundle, task: str, labels: Sequence[str], scope: LocalScope) -> list[LocalLabel]:
    """Adds labels to a task, or gives those that are there another scope; all or none. Returns them.

    Raises InputError where the task takes none, or a name is the bundle's, or spelt almost so.
    """
    manifest = bundle.manifest
    asked = find_task(task, manifest)
    _check_takes(manifest, asked)
    known = {(one.task, one.label): one for one in local_labels(store)}
    own = [one.label for one in known.values() if one.task == task]
    added = []
    for name in labels:
        label = match_name(normal_name(name), own) or _checked_name(asked, name, own)
        present = known.get((task, label))
        day = present.added if present else store.today().isoformat()
        known[task, label] = one = LocalLabel(task, label, scope, day)
        own.append(label)
        added.append(one)
    if len(known) > LABEL_LIMIT:
        what = f"{len(known)} labels are more than the {LABEL_LIMIT} that a device may have beside its bundle's"
        raise InputError(what, where=task, remedy="remove some, or ask your institution for a bundle that has them")
    put_local_labels(store, tuple(known.values()))
    return added


def _check_takes(manifest: Manifest, task: Task) -> None:
    if takes_labels(manifest, task):
        return
    others = [one.name for one in manifest.tasks if takes_labels(manifest, one)]
    if not kind_of(task).grows or not (solver := solver_of(task)) or not solver.exclusive:
        what = f"its kind, {task.kind}, takes no labels of a device: they are no classes of which one is right"
    else:
        what = "its head is not solved from statistics in this bundle, so nothing here could learn a label"
    remedy = f"of this bundle's tasks {', '.join(others)} can" if others else "ask your institution for a later bundle"
    raise InputError(what, where=task.name, remedy=remedy)


def _checked_name(task: Task, name: str, own: Sequence[str]) -> str:
    """The name as it is stored; InputError where it is none, or could be mistaken for another label."""
    label = normal_name(name)
    refuse_control_characters(name, task.name)
    if not label or len(label) > NAME_LIMIT_CHARACTERS:
        raise InputError(f"a label needs 1 to {NAME_LIMIT_CHARACTERS} characters", where=repr(name[:40]))
    if (known := match_name(label, task.labels)) is not None:
        raise InputError(f"{known!r} is a label of the bundle already", where=task.name, remedy="label samples with it")
    near = [one for one in close_names(label.casefold(), [*map(str.casefold, (*task.labels, *own))]) if one]
    if near and _almost(label, near[0]):
        what = f"{label!r} is spelt almost as {near[0]!r}, which is there: each would be taken for the other"
        raise InputError(what, where=task.name, remedy=f"label samples {near[0]!r}, or choose another name")
    return label


def _almost(one: str, other: str) -> bool:
    """Whether two names differ by an ending or a slip alone, such as one letter."""
    first, second = one.casefold(), other.casefold()
    short, long = sorted((first, second), key=len)
    if len(short) < 4 or len(long) - len(short) > 1:
        return False
    same = len([None for a, b in zip(short, long, strict=False) if a == b])
    return short == long[: len(short)] or (len(short) == len(long) and same == len(short) - 1)


def _found(store: Store, task: str, label: str) -> LocalLabel:
    known = [one for one in local_labels(store) if one.task == task]
    name = match_name(label, [one.label for one in known])
    if name is None:
        names = [one.label for one in known]
        remedy = suggestion(label, names) if names else "`homeroom device labels show DIR` lists them"
        raise InputError(f"this device has no label {label!r} of its own", where=task, remedy=remedy)
    return next(one for one in known if one.label == name)


def remove_label(store: Store, task: str, label: str) -> tuple[LocalLabel, int]:
    """Removes a local label; its samples stay without it. Returns it, and how many there are."""
    one = _found(store, task, label)
    number = store.relabel_each(_to(one, None))
    put_local_labels(store, tuple(other for other in local_labels(store) if other != one))
    return one, number


def rename_label(store: Store, bundle: Bundle, task: str, label: str, name: str) -> tuple[LocalLabel, int]:
    """Gives a local label another name, with its samples. Returns it, and how many there are."""
    one, known = _found(store, task, label), local_labels(store)
    asked = find_task(task, bundle.manifest)
    own = [other.label for other in known if other.task == task and other != one]
    if match_name(normal_name(name), own):
        raise InputError(f"this device has a label {name!r} already", where=task, remedy="choose another name")
    renamed = msgspec.structs.replace(one, label=_checked_name(asked, name, own))
    number = store.relabel_each(_to(one, lambda labels: ({}, {task: renamed.label})))
    put_local_labels(store, tuple(renamed if other == one else other for other in known))
    return renamed, number


def merge_label(store: Store, bundle: Bundle, task: str, label: str) -> tuple[str, int]:
    """Makes a local label's samples samples of the bundle's label of the same name, and removes it.

    Returns the bundle's label, and how many samples there are. Raises InputError where the bundle has none of that
    name, or the label is personal.
    """
    one, asked = _found(store, task, label), find_task(task, bundle.manifest)
    name = match_name(one.label, asked.labels)
    if name is None:
        remedy = suggestion(one.label, asked.labels)
        raise InputError(f"the bundle has no label {one.label!r}", where=task, remedy=remedy)
    if one.scope == "personal":
        what = f"{one.label!r} is personal: what was learned with it never leaves this device"
        remedy = f"if it may: `homeroom device labels add DIR {quoted(task)} {quoted(one.label)} --scope institution`"
        raise InputError(what, where=task, remedy=remedy)
    number = store.relabel_each(_to(one, lambda labels: ({task: name}, {})))
    put_local_labels(store, tuple(other for other in local_labels(store) if other != one))
    return name, number


Both = tuple[Mapping[str, Label], Mapping[str, Label]]  # labels of the bundle, and of this device


def _to(one: LocalLabel, put: Callable[[StoredSample], Both] | None) -> Callable[[StoredSample], Both | None]:
    """What a sample's labels become in place of a local one; None of other samples. put: what takes its place."""

    def changed(sample: StoredSample) -> Both | None:
        if sample.local_labels.get(one.task) != one.label:
            return None
        rest = {task: label for task, label in sample.local_labels.items() if task != one.task}
        labels, local = put(sample) if put else ({}, {})
        return {**sample.labels, **labels}, {**rest, **local}

    return changed


def learn(store: Store, bundle: Bundle, graphs: Graphs) -> None:
    """Stores the sums of the samples with local labels that answer, from which heads are solved at once."""
    manifest = bundle.manifest
    labels, section = answering(store, manifest), manifest.statistics
    if not labels and not store.local_sums_mark():
        return
    tasks = [extended(manifest.task(name), more) for name, more in labels.items()]
    chosen = _teaching(store, labels)
    if not len(chosen) or not isinstance(section, Section):
        store.put_local_sums(sums_id(manifest), ())
        return
    view = LazySamples(chosen, lambda one: msgspec.structs.replace(training_view(one, manifest), labels={}))
    examples = to_examples(store, bundle, graphs, view)
    vectors = vectors_of(manifest, read_projections(bundle), view, examples, partial(read_value, store))
    by_id = {sample.sample_id: sample.local_labels for sample in chosen}
    dataset = Dataset(manifest, examples)
    targets = {task.name: np.zeros((len(examples), task.width), np.float32) for task in tasks}
    has = {task.name: np.zeros(len(examples), bool) for task in tasks}
    for row, example in enumerate(examples):
        for task in tasks:
            label = by_id[example.sample_id].get(task.name)
            if label in labels[task.name]:
                targets[task.name][row], has[task.name][row] = target(task, str(label)), True
    has = {task.name: has[task.name] & dataset.usable(manifest.task(task.name), dataset.presence) for task in tasks}
    subjects, ids = zip(*((example.subject, example.sample_id) for example in examples), strict=True)
    counts = counted_rows(has, subjects, ids, section.subject_limit)
    store.put_local_sums(sums_id(manifest), subject_sums(tasks, vectors, targets, counts, subjects))


def _teaching(store: Store, labels: Mapping[str, Collection[str]]) -> Sequence[StoredSample]:
    policy = policy_in_force(store)

    def chosen(sample: StoredSample) -> bool:
        some = any(label in labels.get(task, ()) for task, label in sample.local_labels.items())
        return some and may_teach(policy, sample, unlabelled=True)

    return store.select(chosen)


def label_counts(store: Store, bundle: Bundle) -> list[LabelCount]:
    """The labels of each task, the bundle's first, with their samples."""
    manifest, total = bundle.manifest, store.local_total(sums_id(bundle.manifest))
    held, local = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for sample in store.each_without_inputs():
        for counter, labels in ((held, sample.labels), (local, sample.local_labels)):
            for task, label in labels.items():
                for name in label if isinstance(label, list) else [label]:
                    counter[task, str(name["label"] if isinstance(name, dict) else name)] += 1
    questions = {(one.task, one.label): asks(one) for one in in_question(store, manifest).values()}
    tasks, found = {task.name: task for task in manifest.tasks}, list[LabelCount]()
    for name in dict.fromkeys([*tasks, *(one.task for one in local_labels(store))]):
        if name in tasks:
            found += [LabelCount(name, one, "bundle", held[name, one]) for one in tasks[name].labels]
        for one in local_labels(store):
            if one.task == name:
                why = questions.get((name, one.label), "") or _idle(manifest, tasks.get(name))
                number, learned = local[name, one.label], learned_samples(total, name, one.label)
                asked = (name, one.label) in questions
                found.append(LabelCount(name, one.label, one.scope, number, learned, why, asked))
    return found


def local_score(samples: Sequence[StoredSample], answers: Sequence[Mapping[str, Answer]]) -> str:
    """How many of the samples' local labels are answered so, in words: no score of a task counts these."""
    pairs = [
        (answer[task].best, label)
        for sample, answer in zip(samples, answers, strict=True)
        for task, label in sample.local_labels.items()
    ]
    right = sum(best == label for best, label in pairs)
    return f"{right:,} of {counted(len(pairs), 'label')} of this device answered right; the scores leave these out"


def _idle(manifest: Manifest, task: Task | None) -> str:
    if task is None:
        return "the bundle has no such task any more: it does not answer"
    return "" if takes_labels(manifest, task) else "its task's head is not solved in this bundle: it does not answer"


def learned_samples(total: Statistics, task: str, label: str) -> int:
    """How many samples taught a label, by the block that most of them have."""
    cells = (
        values for cell, values in total.cells.items() if (cell.task, cell.kind, cell.row) == (task, "count", label)
    )
    return max((int(values[0]) for values in cells), default=0)


def excluded_notes(store: Store) -> list[str]:
    """What a training says of samples with local labels; nothing where there are none."""
    counts = Counter(
        f"{task}: {label}" for sample in store.each_without_inputs() for task, label in sample.local_labels.items()
    )
    if not counts:
        return []
    what = f"{counted(counts.total(), 'sample')} with labels of this device ({', '.join(sorted(counts))})"
    return [f"{what}: learned here alone; theta and the update learn nothing of these labels"]
