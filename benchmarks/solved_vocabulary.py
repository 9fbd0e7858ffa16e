"""The vocabulary lesson of `benchmarks/solved.py`: five schools' sums in one exchange beside their trained rounds.

The schools, pupils and tests are those of `benchmarks/federation.py`. A total is what a device would receive: cells
that fewer than LEAST_SCHOOLS schools or LEAST_SUBJECTS pupils fed are withheld, and a school's own stand in. How strong
each task is shrunk, how many principal components it reads where it compares two inputs, and whether it reads letters
where the bundle has some: each school judges on the total less its own part, and the right answers of all are added up
to choose. The weight of theta and the solved head is chosen on validation pupils, whom neither learned from; then both
learn from all pupils.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import msgspec
import numpy as np

import federation
from examples.vocabulary import lesson
from examples.vocabulary.bundle import make_bundle
from examples.vocabulary.harder import length_alone, sounding_seconds, write_harder
from examples.vocabulary.schools import SCHOOLS, Pair, write_all
from examples.vocabulary.splits import lesson_stamps
from examples.vocabulary.stamps import cache_folder
from homeroom.contract.manifest import Task
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.contract.secagg import SecureRules
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.section import PAIR_KINDS, Section
from homeroom.contract.statistics.secure import StatisticsTerms
from homeroom.contract.statistics.sums import NOTHING, Statistics, merge
from homeroom.data.ingest import read_samples
from homeroom.inference import golden
from homeroom.privacy.secagg.encoding import SumLayout
from homeroom.privacy.secagg.statistics_shape import HOLDS, StatisticsShape
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.solve.base import Strength
from homeroom.train.solve.combine import Mix, SolvedOutputs, answered, choose_weight
from homeroom.train.solve.heads import solve
from homeroom.train.solve.subjects import subject_sums
from homeroom.train.solve.vectors.projection import read_projections
from homeroom.train.solve.vectors.samples import SampleVectors, covered, sample_vectors
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import simulate

LEAST_SCHOOLS, LEAST_SUBJECTS = 3, 10
STRENGTHS = [Strength(shrinkage, power) for shrinkage in (0.1, 0.3, 1.0, 3.0, 10.0) for power in (0.0, 0.5)]
COMPONENTS = (None, 64, 48, 32, 24)  # of each block, in tasks that compare two inputs

Accuracies = dict[str, dict[str, float]]  # by school and task
Letters = Mapping[str, bool]  # tasks that read letters of their texts: whether in place of the encoder's features


@dataclass(frozen=True)
class Pupils:
    """Samples of a school. vectors: of all; targets, labelled: by task."""

    dataset: Dataset
    vectors: SampleVectors

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self, task: Task) -> np.ndarray:
        """Numbers of the samples with a label of the task."""
        return np.flatnonzero([task.name in example.targets for example in self.dataset.examples])

    def targets(self, task: Task, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.dataset.examples[row].targets[task.name] for row in rows])

    def sums(self, tasks: Sequence[Task], subjects: frozenset[str] | None = None) -> dict[str, Statistics]:
        """Statistics by pupil, of these alone."""
        chosen = self.dataset.examples
        targets = {
            t.name: np.stack([e.targets.get(t.name, np.zeros(t.width, np.float32)) for e in chosen]) for t in tasks
        }
        labelled = {t.name: np.array([t.name in e.targets for e in chosen]) for t in tasks}
        found = subject_sums(tasks, self.vectors, targets, labelled, [e.subject for e in chosen])
        return {name: one for name, one in found if subjects is None or name in subjects}


@dataclass(frozen=True)
class Schools:
    """One seed: what each school learns from, its test, the harder one, and what length alone reaches in both."""

    bundle: Bundle
    graphs: Graphs
    learn: Mapping[str, Pupils]
    tests: Mapping[str, Pupils]
    harder: Mapping[str, Pupils]
    length_alone: Mapping[str, float]

    @property
    def tasks(self) -> list[Task]:
        return covered(self.bundle.manifest)

    def parts(self, school: str) -> tuple[Dataset, Dataset]:
        """The training and the validation pupils."""
        train, validation = self.learn[school].dataset.split(lesson.ALONE.validation, lesson.ALONE.seed)
        assert validation is not None
        return train, validation

    @property
    def section(self) -> Section:
        found = self.bundle.manifest.statistics
        assert isinstance(found, Section)
        return found

    def reading(self, letters: Letters) -> Schools:
        """The same schools and vectors where these tasks read letters, and no others."""
        alone = tuple(name for name, only in letters.items() if only)
        section = msgspec.structs.replace(
            self.section, letters=tuple(letters) or msgspec.UNSET, letters_alone=alone or msgspec.UNSET
        )
        manifest = msgspec.structs.replace(self.bundle.manifest, statistics=section)

        def so(some: Mapping[str, Pupils]) -> dict[str, Pupils]:
            return {
                name: Pupils(replace(one.dataset, manifest=manifest), replace(one.vectors, section=section))
                for name, one in some.items()
            }

        parts = {"learn": so(self.learn), "tests": so(self.tests), "harder": so(self.harder)}
        return replace(self, bundle=replace(self.bundle, manifest=manifest), **parts)

    def trained_pupils(self, school: str) -> frozenset[str]:
        return frozenset(example.subject for example in self.parts(school)[0].examples)


def load(bundle: Bundle, graphs: Graphs, pairs: Sequence[Pair], seed: int) -> Schools:
    features = cast(Store, federation.FeatureCache(cache_folder() / "vocabulary-features"))
    projections = read_projections(bundle)

    def pupils(path: Path) -> Pupils:
        stored = list(read_samples(path, bundle.manifest))
        ready: Sequence[Example] = examples(features, bundle, graphs, stored)
        inputs = [example.inputs for example in ready]
        vectors = sample_vectors(bundle.manifest, projections, stored, inputs, lambda _, value: value)
        return Pupils(Dataset(bundle.manifest, ready), vectors)

    with TemporaryDirectory(prefix="homeroom-solved-") as folder:
        files = write_all(pairs, Path(folder), seed)
        learn = {school.name: pupils(files[school.name]["train"]) for school in SCHOOLS}
        tests = {school.name: pupils(files[school.name]["test"]) for school in SCHOOLS}
        alike = write_harder(pairs, Path(folder))
        harder = {name: pupils(path) for name, path in alike.items()}
        cue = {"usual": {name: files[name]["test"] for name in alike}, "like length": alike}
        alone = {
            draw: [length_alone(files[name]["train"], path, cache(sounding_seconds)) for name, path in paths.items()]
            for draw, paths in cue.items()
        }
    reached = {draw: float(np.mean([one for one in some if one is not None])) for draw, some in alone.items()}
    return Schools(bundle, graphs, learn, tests, harder, reached)


def received(parts: Mapping[str, Mapping[str, Statistics]]) -> tuple[Statistics, int]:
    """What a device would receive of the schools' sums by pupil, and how many cells were withheld.

    parts: by school and pupil
    """
    schools, subjects = Counter[Any](), Counter[Any]()
    for by_pupil in parts.values():
        subjects.update(cell for one in by_pupil.values() for cell in one.cells)
        schools.update({cell for one in by_pupil.values() for cell in one.cells})
    total = merge(one for by_pupil in parts.values() for one in by_pupil.values())
    served = {
        cell: values
        for cell, values in total.cells.items()
        if schools[cell] >= LEAST_SCHOOLS and subjects[cell] >= LEAST_SUBJECTS
    }
    return Statistics(served), len(total.cells) - len(served)


def answers(task: Task, total: Statistics, pupils: Pupils, rows: np.ndarray, strength: Strength) -> SolvedOutputs:
    """Outputs of the head that is solved from a total."""
    heads = solve(pupils.dataset.manifest, total.of_task(task.name), {task.name: strength})
    return heads[task.name].outputs(pupils.vectors.of_task(task).subset(rows))


def in_use(total: Statistics, own: Statistics) -> Statistics:
    """What a device solves from: the others' part of the total, and all of its own."""
    return Statistics({**own.cells, **total.cells})


def right(task: Task, outputs: np.ndarray, targets: np.ndarray) -> int:
    return int((outputs.argmax(1) == targets.argmax(1)).sum())


def choose(schools: Schools) -> tuple[dict[str, bool], dict[str, Strength]]:
    """How each task reads letters, and its strength, by the right answers of all schools, each judging a total
    without itself.
    """
    lettered, counts = schools.section.letter_tasks, dict[str, Counter[tuple[bool | None, Strength]]]()
    for alone in (None, False, True) if lettered else (None,):
        seen = schools.reading({} if alone is None else dict.fromkeys(lettered, alone))
        for task in (task for task in seen.tasks if alone is None or task.name in lettered):
            right_ones = _judged(seen, task)
            counts.setdefault(task.name, Counter()).update({(alone, s): n for s, n in right_ones.items()})
    best = {name: some.most_common(1)[0][0] for name, some in counts.items()}
    letters = {name: alone for name, (alone, _) in best.items() if alone is not None}
    return letters, {name: strength for name, (_, strength) in best.items()}


def _judged(schools: Schools, task: Task) -> Counter[Strength]:
    """Right answers by strength."""
    components = COMPONENTS if task.kind in PAIR_KINDS else (None,)
    strengths = [replace(strength, components=most) for most in components for strength in STRENGTHS]
    counts = Counter(dict.fromkeys(strengths, 0))
    parts = {name: merge(pupils.sums([task]).values()) for name, pupils in schools.learn.items()}
    for name, pupils in schools.learn.items():
        others = merge(part for other, part in parts.items() if other != name)
        rows = pupils.rows(task)
        if len(rows) and others.of_task(task.name).cells:
            expected = pupils.targets(task, rows)
            for strength in strengths:
                counts[strength] += right(task, answers(task, others, pupils, rows, strength).values, expected)
    return counts


def tested(schools: Schools, total: Mapping[str, Statistics], strengths: Mapping[str, Strength]) -> Accuracies:
    """Accuracy of solved heads. total: by school"""
    found = {name: solved_outputs(schools, schools.tests[name], total[name], strengths) for name in total}
    return {
        name: _accuracies(schools, schools.tests[name], {t: o.values for t, o in one.items()})
        for name, one in found.items()
    }


def solved_outputs(
    schools: Schools, test: Pupils, total: Statistics, strengths: Mapping[str, Strength]
) -> dict[str, SolvedOutputs]:
    return {
        t.name: answers(t, total, test, test.rows(t), strengths[t.name]) for t in schools.tasks if len(test.rows(t))
    }


def theta_outputs(schools: Schools, pupils: Pupils, theta: np.ndarray) -> dict[str, np.ndarray]:
    every = outputs_of(schools.graphs, pupils.dataset, theta)
    return {task.name: every[task.name][pupils.rows(task)] for task in schools.tasks}


def _accuracies(schools: Schools, test: Pupils, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {
        task.name: right(task, outputs[task.name], test.targets(task, rows)) / len(rows)
        for task in schools.tasks
        if len(rows := test.rows(task))
    }


def rounds(
    schools: Schools, rate: float, seed: int, *, every_pupil: int | None = None
) -> tuple[np.ndarray, float, int]:
    """Theta of the best of the trained rounds, its validation score, and the round's number.

    every_pupil: learn from the validation pupils too, and take this round.
    """
    parts = {name: schools.parts(name) for name in schools.learn}
    if every_pupil is not None:
        parts = {name: (schools.learn[name].dataset, part[1]) for name, part in parts.items()}
    found = simulate(
        schools.bundle,
        [SchoolData(name, *part) for name, part in parts.items()],
        lesson.ROUNDS,
        lambda number: lesson.round_settings(number - 1, rate=rate),
        RoundConfiguration(bundle_id=schools.bundle.bundle_id, buffer_size=len(SCHOOLS)),
        seed=seed,
        graphs=schools.graphs,
        measure_every=1,
    )
    values = [
        float(
            np.mean([lesson.mean({t: s.value for t, s in scores.items() if s.n}) for scores in facts.scores.values()])
        )
        for facts in found.rounds
    ]
    best = int(np.argmax(values)) if every_pupil is None else every_pupil
    return found.rounds[best].theta, values[best], best


def mixes(
    schools: Schools, theta: np.ndarray, totals: Mapping[str, Statistics], strengths: Mapping[str, Strength]
) -> dict[str, Mix]:
    """The weight of both parts by task, on the validation pupils of all schools; neither part learned from these."""
    found = {}
    for task in schools.tasks:
        trained, solved, targets = [], [], []
        for name, pupils in schools.learn.items():
            known = schools.trained_pupils(name)
            rows = np.array([r for r in pupils.rows(task) if pupils.dataset.examples[r].subject not in known], int)
            if len(rows):
                part = Pupils(pupils.dataset.subset(rows), pupils.vectors)
                trained.append(outputs_of(schools.graphs, part.dataset, theta)[task.name])
                solved.append(answers(task, totals[name], pupils, rows, strengths[task.name]))
                targets.append(pupils.targets(task, rows))
        parts = SolvedOutputs(
            *(np.concatenate([getattr(one, field) for one in solved]) for field in ("values", "known")),
            solved[0].exclusive,
        )
        found[task.name] = choose_weight(task, np.concatenate(trained), parts, np.concatenate(targets))
    return found


def run(schools: Schools, rate: float, seed: int) -> dict[str, Any]:
    """Accuracies of one seed by setting, school and task."""
    letters, strengths = choose(schools)
    schools = schools.reading(letters)
    tasks = schools.tasks
    whole = {name: pupils.sums(tasks) for name, pupils in schools.learn.items()}
    early = {name: pupils.sums(tasks, schools.trained_pupils(name)) for name, pupils in schools.learn.items()}
    total, withheld = received(whole)
    first, _, best = rounds(schools, rate, seed)
    shared = received(early)[0]
    totals = {name: in_use(shared, merge(some.values())) for name, some in early.items()}
    mix = mixes(schools, first, totals, strengths)
    theta = rounds(schools, rate, seed, every_pupil=best)[0]
    parts = {name: merge(some.values()) for name, some in whole.items()}
    found: dict[str, Accuracies] = {"trained": {}, "both": {}, "trained, harder": {}, "both, harder": {}}
    for draw, tests in (("", schools.tests), (", harder", schools.harder)):
        for name, test in tests.items():
            of_theta = theta_outputs(schools, test, theta)
            solved = solved_outputs(schools, test, in_use(total, parts[name]), strengths)
            found["trained" + draw][name] = _accuracies(schools, test, of_theta)
            answers_of = {t: answered(mix[t], of_theta[t], solved[t]) for t in solved}
            found["both" + draw][name] = _accuracies(schools, test, answers_of)
    return {
        "alone": tested(schools, parts, strengths),
        "rounds": {n: _accuracies(schools, t, theta_outputs(schools, t, first)) for n, t in schools.tests.items()},
        **found,
        "length alone": schools.length_alone,
        "solved": tested(schools, {n: in_use(total, part) for n, part in parts.items()}, strengths),
        "total alone": tested(schools, dict.fromkeys(schools.tests, total), strengths),
        "nothing withheld": tested(schools, dict.fromkeys(schools.tests, merge(parts.values())), strengths),
        "withheld cells": [withheld, len(merge(parts.values()).cells)],
        "bytes of a school's sums": max(len(encode(part)) for part in parts.values()),
        "bytes in a secure round": secure_round_bytes(schools.bundle, parts),
        "bytes of theta in fixed32": 4 * schools.bundle.manifest.layout.size,
        "weights of solved": {name: one.solved for name, one in mix.items()},
        "letters": letters,
        "strengths": {name: [one.shrinkage, one.prior_power, one.components] for name, one in strengths.items()},
    }


def secure_round_bytes(bundle: Bundle, parts: Mapping[str, Statistics]) -> int:
    """What each school sends masked, where all take part at once and 3 of them suffice. parts: by school."""
    rules = StatisticsRules(mode="secure", k=3, subjects=10)
    secure = SecureRules(minimum=3, cohort=len(parts))
    terms = RoundConfiguration(bundle_id=bundle.bundle_id, secure=secure, statistics=rules)
    shape = StatisticsShape(bundle.manifest, terms, StatisticsTerms())
    changed = [shape.segments.changed(shape.open_segments, NOTHING, part) for part in parts.values()]
    fed = {name: {n for n, some in enumerate(changed) if name.removeprefix(HOLDS) in some} for name in shape.announced}
    chosen = tuple(shape.chosen(fed, secure.minimum))
    layout = SumLayout(chosen, tuple(map(shape.size, chosen)), shape.width(len(parts)))
    return layout.count * layout.width


SETTINGS = ("alone", "rounds", "trained", "total alone", "solved", "nothing withheld", "both")
HARDER = ("trained, harder", "both, harder")  # wrong words of like length, wrong pictures of the same category


def by_task(one: Accuracies) -> dict[str, float]:
    """The mean over the schools that have the task."""
    names = sorted({task for tasks in one.values() for task in tasks})
    return {name: float(np.mean([tasks[name] for tasks in one.values() if name in tasks])) for name in names}


def over(one: Accuracies) -> float:
    """The mean over schools of the means over tasks."""
    return float(np.mean([lesson.mean(tasks) for tasks in one.values()]))


def measure(seeds: int, given: Path | None = None) -> dict[str, Any]:
    """Runs of all seeds, and their means."""
    pairs = lesson_stamps()
    with TemporaryDirectory(prefix="homeroom-solved-") as folder:
        bundle = open_bundle(given or make_bundle(pairs, Path(folder), lambda _: None), root=None)
        graphs = Graphs(bundle, golden.choose_precision(bundle))
        runs, rate = [], 0.0
        for seed in range(seeds):
            schools = load(bundle, graphs, pairs, seed)
            rate = rate or max(lesson.RATES, key=lambda each: rounds(schools, each, seed)[1])
            runs.append(run(schools, rate, seed))
            print(f"seed {seed}: " + ", ".join(f"{s} {over(runs[-1][s]):.3f}" for s in SETTINGS), flush=True)
    means = {s: float(np.mean([over(one[s]) for one in runs])) for s in SETTINGS}
    tasks = {
        s: {t: float(np.mean([by_task(one[s])[t] for one in runs])) for t in by_task(runs[0][s])}
        for s in (*SETTINGS, *HARDER)
    }
    alone = {draw: float(np.mean([one["length alone"][draw] for one in runs])) for draw in runs[0]["length alone"]}
    print(f"word of speech by length alone: {', '.join(f'{draw} {value:.3f}' for draw, value in alone.items())}")
    return {"rate": rate, "mean": means, "by task": tasks, "length alone": alone, "seeds": runs}
