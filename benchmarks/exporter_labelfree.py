"""Section `labelfree`: points that unlabelled samples add to a tenth of the labels, on real sound and real answers.

Spoken digits (400 clips of 4 speakers, Whisper's encoder) and short answers (Beetle, MiniLM). A tenth of each training
part keeps its labels, in each class the same share; the bundle's objectives learn from the rest: consistency, which the
target is about, and masked features. All variants train for as many steps, by the device's own path.

On short answers the target is not met; `docs/measurements/objectives.md` lists what else was tried there.
"""

from __future__ import annotations

import hashlib
import io
import statistics
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from exporter_section import Section, Target
from homeroom import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom_exporter.export.design import draft
from homeroom_exporter.recipe.recipe import Recipe, parse_recipe
from peers import data as answers
from peers.bundles import assembled, signed

DIGITS = "spoken_digits/spoken_digits.zip"
DIGITS_SHA256 = "473b9414d0ea99c32968433a8f6e4722bb630346bdf376ce71ea3fc1cdc25208"
SHARE = 0.1  # of the training samples that keep their label
SEEDS = 5
KINDS = ("masked", "consistency")
OBJECTIVES = """
[objectives.masked]
kind = "masked"
reads = {reads}
weight = 0.1
[objectives.consistency]
kind = "consistency"
reads = {reads}
"""
SOUND = """\
name = "digits"
version = 1
saliency = false
[encoders.audio]
source = "pip:whisper-tiny-en"
seconds = 0.8
[slots]
clip = "audio"
[tasks.label]
kind = "classification"
reads = ["clip"]
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""
TEXT = """\
name = "answers"
version = 1
saliency = false
[encoders.text]
source = "pip:minilm"
taps = [2, 4, 6]
buckets = [32, 64]
[slots]
reference = "text"
answer = "text"
[tasks.label]
kind = "classification"
head = "pair"
reads = ["reference", "answer"]
labels = ["correct", "contradictory", "incorrect"]
"""


@dataclass(frozen=True)
class Corpus:
    """`epochs` over all training samples; those of the labels alone are in proportion."""

    title: str
    recipe: Recipe
    train: Sequence[Sample]
    test: Sequence[Sample]
    epochs: int


def digits(data: Path, seed: int, quick: bool) -> Corpus:
    """A quarter of the clips held out, of each speaker and digit alike; which, by the seed."""
    packed = (data / DIGITS).read_bytes()
    if hashlib.sha256(packed).hexdigest() != DIGITS_SHA256:
        raise ValueError(f"{data / DIGITS} is not the file this benchmark was made for (sha256 {DIGITS_SHA256})")
    rng = np.random.default_rng(seed)
    train, test = list[Sample](), list[Sample]()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = sorted(archive.namelist())
        for start in range(0, len(names), 10):  # ten takes of a digit by a speaker
            for place, name in zip(rng.permutation(10), names[start : start + 10], strict=True):
                digit, speaker = name.split("_")[:2]
                sample = Sample(clip=archive.read(name), labels={"label": digit}, subject=f"{speaker} {name}")
                (test if place < 3 else train).append(sample)
    recipe = parse_recipe(SOUND + OBJECTIVES.format(reads='["clip"]'))
    return Corpus("spoken digits", recipe, train[:: 3 if quick else 1], test, 5 if quick else 40)


def short_answers(data: Path, seed: int, quick: bool) -> Corpus:
    found = answers.split(data, "beetle", seed)
    train, test = (
        [
            Sample(reference=a.reference, answer=a.answer, labels={"label": a.label}, subject=f"{a.question} {i}")
            for i, a in enumerate(part)
        ]
        for part in (found.train[: 200 if quick else None], found.test)
    )
    recipe = parse_recipe(TEXT + OBJECTIVES.format(reads='["reference", "answer"]'))
    return Corpus("short answers", recipe, train, test, 2 if quick else 10)


def export(corpus: Corpus, folder: Path) -> Bundle:
    """The bundle without the self-check's tables; calibrated on the training part, whose labels are not used."""
    recipe = corpus.recipe
    samples = [resolve(sample, draft(recipe)) for sample in corpus.train[:: max(1, len(corpus.train) // 200)]]
    contents, _ = assembled(recipe, samples, folder)
    return signed(contents, folder)


def tenth(rows: Sequence[Example], seed: int) -> set[int]:
    """Rows that keep their labels: of each class a tenth, at least two."""
    rng = np.random.default_rng(seed)
    classes = np.array([example.targets["label"].argmax() for example in rows])
    kept: set[int] = set()
    for one in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == one))
        kept |= set(map(int, members[: max(2, round(SHARE * len(members)))]))
    return kept


def trained(
    bundle: Bundle, graphs: Graphs, rows: Sequence[Example], kinds: Sequence[str], epochs: int, seed: int
) -> np.ndarray:
    """Theta after learning from `rows` with the objectives of these kinds; all of its epochs, no validation."""
    objectives = tuple(
        msgspec.structs.replace(one, weight=one.weight if one.kind in kinds else 0.0)
        for one in bundle.manifest.objectives
    )
    manifest = msgspec.structs.replace(bundle.manifest, objectives=objectives)
    settings = Settings(epochs=epochs, seed=seed, patience=epochs, learning_rate=2e-3)
    return fit(graphs, Dataset(manifest, rows), None, bundle.theta(), settings).theta


def compare(make: object, data: Path, quick: bool) -> tuple[str, dict[str, list[float]], tuple[int, int]]:
    """Macro-F1 on the test part, in points, by what was learned from; and how many were labelled, of how many."""
    scores: dict[str, list[float]] = {}
    count = (0, 0)
    with tempfile.TemporaryDirectory() as folder:
        first: Corpus = make(data, 0, quick)  # type: ignore[operator]
        bundle = export(first, Path(folder))
        graphs = Graphs(bundle, threads=1)
        for seed in range(1 if quick else SEEDS):
            corpus: Corpus = make(data, seed, quick)  # type: ignore[operator]
            train, test = (
                examples(None, bundle, graphs, [resolve(sample, bundle.manifest) for sample in part])
                for part in (corpus.train, corpus.test)
            )
            kept = tenth(train, seed)
            labelled = [train[row] for row in sorted(kept)]
            mixed = [one if row in kept else replace(one, targets={}) for row, one in enumerate(train)]
            count = (len(kept), len(train))
            batch = corpus.recipe.batch
            longer = round(corpus.epochs * -(-len(train) // batch) / -(-len(labelled) // batch))
            runs: list[tuple[str, list[Example], Sequence[str], int]] = [
                ("labels alone", labelled, (), longer),
                ("with masked features", mixed, KINDS[:1], corpus.epochs),
                ("with consistency", mixed, KINDS[1:], corpus.epochs),
                ("with both", mixed, KINDS, corpus.epochs),
                ("all labels", train, (), corpus.epochs),
            ]
            for name, rows, kinds, epochs in runs:
                theta = trained(bundle, graphs, rows, kinds, epochs, seed)
                found = evaluate(graphs, Dataset(bundle.manifest, test), theta)["label"].macro_f1
                scores.setdefault(name, []).append(100 * found)
    return first.title, scores, count


def run(quick: bool, data: Path) -> Section:
    rows = [["", "learned from", "macro-F1", "spread", "gain", "its spread", "worst"]]
    figures, targets, notes = {}, [], []
    for make in (digits, short_answers):
        title, scores, (labelled, total) = compare(make, data, quick)
        alone = scores["labels alone"]
        for name, values in scores.items():
            gains = [a - b for a, b in zip(values, alone, strict=True)]
            spread = [statistics.stdev(one) if len(one) > 1 else 0.0 for one in (values, gains)]
            cells = [statistics.mean(values), spread[0], statistics.mean(gains), spread[1], min(gains)]
            rows.append([title, name, *(f"{cell:.1f}" for cell in cells)])
        gain = statistics.mean(scores["with consistency"]) - statistics.mean(alone)
        figures[title] = {"scores": scores, "labelled": labelled, "samples": total, "gain": gain}
        targets.append(Target(f"{title}: points that consistency without labels adds", gain, 2.0, at_least=True))
        notes.append(f"{title}: {labelled} of {total} samples labelled, {len(alone)} seeds, as many steps for all")
    return Section(
        title="a tenth of the labels, with and without samples that have none",
        rows=rows,
        figures=figures,
        targets=targets,
        notes=notes,
    )
