"""The section `schools` of `benchmarks/languages.py`: six schools of two languages, of which each teaches half.

Three English schools teach which captions of stamps belong to every other category, three Spanish ones the categories
between; heads are solved from their sums in one exchange (k = 3). Each language is then asked for what only the other
one's schools were taught, on captions of held-out stamps, beside schools that were taught it in the language itself. So
it is for eight more languages in which nobody teaches. Nothing is chosen: the head is as a device has it. `centred`,
which no device does: the same where each language's mean is taken off its vectors, so that no category is told by the
language that it was taught in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from examples.vocabulary import stamps
from examples.vocabulary.splits import Row, load, share
from homeroom.contract.manifest import Task
from homeroom.contract.statistics.accumulate import BlockVectors
from homeroom.contract.statistics.sums import Statistics, merge
from homeroom.data.preprocess import prepare
from homeroom.runtime.backend import load as load_graph
from homeroom.train.solve.base import Blocks, Strength
from homeroom.train.solve.kinds import solver_of
from homeroom.train.solve.task_vectors import TaskVectors
from homeroom.train.solve.vectors import surface
from homeroom.train.solve.vectors.projection import Projection
from homeroom.train.solve.vectors.raw import mean_of_taps
from homeroom_exporter.check.check import compute
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.export.statistics import fit_projection, raw_groups
from peers.verdict import limited
from solved_vocabulary import received

TAUGHT = ("en", "es")
ASKED = ("en", "es", "fr", "de", "it", "nl", "pt", "pl", "ru", "ja")
SCHOOLS, PUPILS = 3, 12  # of each language, of each school
BLOCK = "0" * 64
KEPT = 0.9  # of what schools have that were taught in the language itself

Stamp = tuple[Row, Mapping[str, str]]  # captions by language


def lesson(captions_of: Callable[[Path], dict[str, str]]) -> list[Stamp]:
    """The stamps of the vocabulary lesson with their captions in all languages."""
    folder, rows = stamps.fetch(), load()
    return [(row, captions_of(folder / f"{name}.txt")) for name, row in rows.items()]


class Reader:
    """Reads texts with the encoder: vectors on the grid, as sums are made of them. means: taken off, by language."""

    def __init__(self, made: Backbone, calibration: Sequence[str]) -> None:
        self.made, self.graph = made, load_graph(made.graphs[made.lowest], threads=1)
        groups = raw_groups("text", made.modality, made.scale.astype(np.float64))
        projection = fit_projection(self._raw(calibration), groups)
        assert projection is not None
        self.projection: Projection = projection
        self.means: Mapping[str, np.ndarray] = {}

    def _raw(self, texts: Sequence[str]) -> np.ndarray:
        modality, files = self.made.modality, self.made.files.__getitem__
        ready = {str(n).encode(): prepare(modality, text, files) for n, text in enumerate(texts)}
        features = compute(modality, self.graph, ready)
        taps = np.stack([mean_of_taps(features[str(number).encode()]) for number in range(len(texts))])
        return np.concatenate([taps, np.stack([surface.surface_numbers(text) for text in texts])], axis=1)

    def grid(self, texts: Sequence[str]) -> np.ndarray:
        return self.projection(self._raw(texts))

    def __call__(self, texts: Sequence[str], language: str) -> TaskVectors:
        values = self.grid(texts) - self.means.get(language, 0)
        return TaskVectors((BlockVectors(BLOCK, values, np.ones(len(texts), bool)),))


def category(row: Row) -> str:
    return row.name.split("/")[0]


def taught(task: Task, reader: Reader, known: Sequence[Stamp], language: str) -> dict[str, dict[str, Statistics]]:
    """Sums by school and pupil of training stamps that have a caption in a language; a group goes to one pupil."""
    solver, parts = solver_of(task), dict[str, dict[str, Statistics]]()
    assert solver
    by_pupil: dict[tuple[str, str], list[Stamp]] = {}
    for row, captions in known:
        school, pupil = (f"{kind}-{int(share(kind, row.group) * n)}" for kind, n in (("at", SCHOOLS), ("of", PUPILS)))
        by_pupil.setdefault((f"{language} {school}", pupil), []).append((row, captions))
    for (school, pupil), some in by_pupil.items():
        targets = np.array([[category(row) == label for label in task.labels] for row, _ in some], np.float32)
        vectors = reader([captions[language] for _, captions in some], language)
        parts.setdefault(school, {})[f"{school} {pupil}"] = solver.sums(task, vectors, targets)
    return parts


def right(task: Task, reader: Reader, total: Statistics, asked: Sequence[Stamp], language: str) -> float:
    """The share of captions whose category the head finds among all."""
    solver = solver_of(task)
    assert solver
    head = solver.head(task, total, Blocks([(BLOCK, reader.projection.matrix.shape[1])]), Strength())
    found = head.outputs(reader([captions[language] for _, captions in asked], language)).argmax(1)
    return float(np.mean([task.labels[n] == category(row) for n, (row, _) in zip(found, asked, strict=True)]))


def asked_of(
    task: Task,
    reader: Reader,
    usable: Mapping[str, Sequence[Stamp]],
    test: Sequence[Stamp],
    halves: Mapping[str, AbstractSet[str]],
) -> dict[str, Any]:
    """Right shares by language. usable: training stamps by language; halves: categories that a language is taught."""
    parts: dict[str, dict[str, Statistics]] = {}
    for code in TAUGHT:
        parts |= taught(task, reader, [one for one in usable[code] if category(one[0]) in halves[code]], code)
    total, withheld = received(parts)
    found: dict[str, Any] = {"schools": len(parts), "withheld cells": withheld, "languages": {}}
    for code, some in usable.items():
        unseen = set(task.labels) - halves.get(code, set())
        asked = [one for one in test if code in one[1] and category(one[0]) in unseen]
        own = merge(one for by_pupil in taught(task, reader, some, code).values() for one in by_pupil.values())
        shares = [right(task, reader, each, asked, code) for each in (total, own)]
        found["languages"][code] = {"asked": len(asked), "from others": shares[0], "from its own": shares[1]}
    return found


def measure(
    captions_of: Callable[[Path], dict[str, str]], build: Callable[[Sequence[str], Path], Backbone]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Shares by language, from what others taught and from what was taught in it; and the targets."""
    every = lesson(captions_of)
    labels = tuple(sorted({category(row) for row, _ in every}))
    task = Task(name="category", kind="classification", reads=("word",), labels=labels, width=len(labels))
    halves = {"en": set(labels[::2]), "es": set(labels[1::2])}
    train, test = ([one for one in every if one[0].part == part] for part in ("train", "test"))
    shown = [captions[code] for _, captions in train[::4] for code in ASKED if code in captions]
    with TemporaryDirectory(prefix="homeroom-languages-") as folder:
        reader = Reader(build(shown, Path(folder)), shown)
        usable = {code: [one for one in train if code in one[1]] for code in ASKED}
        found = asked_of(task, reader, usable, test, halves)
        reader.means = {
            code: np.rint(reader.grid([captions[code] for _, captions in some]).mean(0)).astype(np.int64)
            for code, some in usable.items()
        }
        centred = asked_of(task, reader, usable, test, halves)
    for code, one in found["languages"].items():
        one["centred"] = {name: centred["languages"][code][name] for name in ("from others", "from its own")}
        shares = (one["asked"], *(each[name] for each in (one, one["centred"]) for name in one["centred"]))
        print("{}: {} captions, from others {:.3f}, from its own {:.3f}; centred {:.3f}, {:.3f}".format(code, *shares))
    kept = {code: one["from others"] / one["from its own"] for code, one in found["languages"].items()}
    return found, [
        limited(
            f"schools of two languages, {code}: what only the others were taught, of its own",
            kept[code],
            KEPT,
            at_least=True,
        )
        for code in TAUGHT
    ]
