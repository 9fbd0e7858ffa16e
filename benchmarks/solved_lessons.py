"""Lessons of `benchmarks/solved.py` on real data: solved heads beside theta, both together, and simple peers.

Short answers right or wrong (SciEntsBank, Beetle), reading levels (OneStopEnglish), spoken digits (free spoken digit
dataset), each with whole groups held out for the test and others for validation: questions, articles, speakers.
Handwritten digits (UCI), picture by picture. Everything that is
chosen (shrinkage, prior, the peers' strength, the weight of both) is chosen on the validation part; then the solved
head, theta and the peers are fitted again on training and validation samples.
"""

from __future__ import annotations

import gzip
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homeroom import Sample
from homeroom.contract.manifest import Task
from homeroom.contract.statistics.sums import Statistics
from homeroom.data.samples import StoredSample
from homeroom.data.tasks import probabilities
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import labelled_outputs
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom.train.solve.base import Blocks, SolvedHead, Strength
from homeroom.train.solve.combine import SolvedOutputs, answered, choose_weight
from homeroom.train.solve.kinds import SOLVERS
from homeroom.train.solve.task_vectors import TaskVectors
from homeroom.train.solve.vectors.overlap import overlap_numbers
from homeroom.train.solve.vectors.projection import read_projections
from homeroom.train.solve.vectors.samples import sample_vectors
from homeroom.train.solve.vectors.surface import surface_numbers
from homeroom_exporter.export.design import draft
from homeroom_exporter.export.statistics import fit_statistics
from homeroom_exporter.recipe.recipe import parse_recipe
from peers import data as answers
from peers import digits
from peers.bundles import assembled, signed

READING_FILE = "readability/onestop_english.jsonl.gz"
READING_SHA256 = "1de8e83fc21ee037eefefebdf31c483d8e86ece09aa171c3b6ad0af056728942"
RIGHT_OR_WRONG = ("correct", "incorrect")
MOST_ANSWERS = 1500  # of a corpus, spread over its questions
LEVELS = ("elementary", "intermediate", "advanced")
STRENGTHS = [Strength(shrinkage, power) for shrinkage in (0.1, 0.3, 1.0, 3.0, 10.0) for power in (0.0, 0.5)]
CALIBRATION = 400
LOST = re.compile(r"[^\x20-\x7e]|['\"]")
RECIPE = """\
name = "lesson"
version = 1
saliency = false
hidden = 64
[encoders.{modality}]
quantize = "none"
{encoder}
[slots]
{slots}
[tasks.label]
kind = "{kind}"
{task}
"""
MINILM = 'source = "pip:minilm"\ntaps = [2, 4, 6]\nbuckets = [16, 32, 64]'


@dataclass(frozen=True)
class Lesson:
    """Samples with a label and the group that is held out whole.

    always_test: samples that no split trains on. epochs: of theta
    """

    name: str
    recipe: str
    samples: tuple[Sample, ...]
    groups: tuple[str, ...]
    epochs: int
    numbers: Callable[[Sample], np.ndarray]
    words: Callable[[Sample], str] | None
    always_test: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ready:
    """A lesson's bundle, and the examples and vectors of all its samples."""

    lesson: Lesson
    bundle: Bundle
    graphs: Graphs
    ready: Sequence[Example]
    vectors: TaskVectors
    task: Task
    targets: np.ndarray
    classes: np.ndarray


def _recipe(modality: str, encoder: str, slots: str, kind: str, task: str) -> str:
    return RECIPE.format(modality=modality, encoder=encoder, slots=slots, kind=kind, task=task)


def short_answers(data: Path, corpus: str, *, labels: Sequence[str] = RIGHT_OR_WRONG) -> Lesson:
    """Answers of the training part by question, and those to known questions as a test that every split has.

    labels: the two of RIGHT_OR_WRONG, or the three of the corpus.
    """
    pool, known = answers.read(data, corpus)
    pool = pool[:: max(1, len(pool) // MOST_ANSWERS)]
    samples = [
        Sample(
            reference=a.reference,
            answer=a.answer,
            labels={"label": a.label if a.label in labels else RIGHT_OR_WRONG[1]},
            subject=sha256(a.question.encode()).hexdigest(),
            language="en",
        )
        for a in (*pool, *known)
    ]
    slots = 'reference = "text"\nanswer = "text"'
    named = ", ".join(f'"{label}"' for label in labels)
    task = f'head = "pair"\nreads = ["reference", "answer"]\nlabels = [{named}]'
    return Lesson(
        name=f"short answers, {corpus}",
        recipe=_recipe("text", MINILM, slots, "classification", task),
        samples=tuple(samples),
        groups=tuple(a.question for a in (*pool, *known)),
        epochs=6,
        numbers=lambda s: overlap_numbers(s.inputs["reference"], s.inputs["answer"], "en"),
        words=lambda s: s.inputs["answer"],
        always_test=tuple(range(len(pool), len(samples))),
    )


def reading_level(data: Path) -> Lesson:
    """The texts without quotes, long dashes, foreign signs and line breaks.

    The intermediate ones lost them when the corpus was made, which alone would tell the levels apart.
    """
    raw = answers.pinned(data, READING_FILE, READING_SHA256)
    rows = [json.loads(line) for line in gzip.decompress(raw).decode().splitlines()]

    def plain(text: str) -> str:
        return " ".join(LOST.sub("", text.replace("\n", " ")).split())

    samples = [Sample(text=plain(r["text"]), labels={"label": r["level"]}, subject=r["article"]) for r in rows]
    labels = ", ".join(f'"{level}"' for level in LEVELS)
    task = f'reads = ["text"]\nlabels = [{labels}]'
    return Lesson(
        name="reading level",
        recipe=_recipe("text", MINILM, 'text = "text"', "ordinal", task),
        samples=tuple(samples),
        groups=tuple(r["article"] for r in rows),
        epochs=12,
        numbers=lambda s: surface_numbers(s.inputs["text"]),
        words=lambda s: s.inputs["text"],
    )


def spoken_digits(data: Path) -> Lesson:
    clips = digits.clips(data)
    samples = [
        Sample(clip=clip.data, labels={"label": str(clip.digit)}, subject=clip.name.split("_")[1]) for clip in clips
    ]
    labels = ", ".join(f'"{digit}"' for digit in range(10))
    encoder = 'source = "pip:speech-embedding"\nseconds = 0.8'
    task = f'reads = ["clip"]\nlabels = [{labels}]'
    return Lesson(
        name="spoken digits",
        recipe=_recipe("audio", encoder, 'clip = "audio"', "classification", task),
        samples=tuple(samples),
        groups=tuple(clip.name.split("_")[1] for clip in clips),
        epochs=20,
        numbers=lambda s: np.zeros(0, np.float32),
        words=None,
    )


def handwritten_digits() -> Lesson:
    from sklearn.datasets import load_digits

    pictures, classes = load_digits(return_X_y=True)
    columns = ", ".join(f'{{name = "p{i:02d}", mean = 5.0, std = 6.0}}' for i in range(64))
    labels = ", ".join(f'"{digit}"' for digit in range(10))
    samples = [
        Sample(pixels={f"p{i:02d}": float(v) for i, v in enumerate(picture)}, labels={"label": str(digit)})
        for picture, digit in zip(pictures, classes, strict=True)
    ]
    task = f'reads = ["pixels"]\nlabels = [{labels}]'
    return Lesson(
        name="handwritten digits",
        recipe=_recipe("table", f'source = "table"\ncolumns = [{columns}]', 'pixels = "table"', "classification", task),
        samples=tuple(samples),
        groups=tuple(f"{i:04d}" for i in range(len(samples))),
        epochs=20,
        numbers=lambda s: np.zeros(0, np.float32),
        words=None,
    )


def prepare(lesson: Lesson, folder: Path) -> Ready:
    """The lesson's bundle with statistics of calibration samples, and what a device makes of all samples."""
    folder.mkdir(parents=True)
    recipe = parse_recipe(lesson.recipe)
    early = draft(recipe)
    free = np.setdiff1d(np.arange(len(lesson.samples)), lesson.always_test)
    shown = [resolve(lesson.samples[i], early) for i in free[:: max(1, len(free) // CALIBRATION)]]
    contents, backbones = assembled(recipe, shown, folder)
    whole = msgspec.structs.replace(early, modalities=contents.design.modalities)
    fitted = fit_statistics(whole, backbones, shown, threads=1, theta_values=contents.theta.size)
    bundle = signed(replace(contents, statistics=fitted), folder)
    stored = [resolve(sample, bundle.manifest) for sample in lesson.samples]
    graphs = Graphs(bundle, threads=1)
    ready = examples(None, bundle, graphs, stored)
    vectors = vectors_of(bundle, stored, ready)
    task = bundle.manifest.task("label")
    targets = np.stack([example.targets["label"] for example in ready])
    classes = np.array([task.labels.index(str(sample.labels["label"])) for sample in lesson.samples])
    return Ready(lesson, bundle, graphs, ready, vectors.of_task(task), task, targets, classes)


def vectors_of(bundle: Bundle, stored: Sequence[StoredSample], ready: Sequence[Example]) -> Any:
    inputs = [example.inputs for example in ready]
    return sample_vectors(bundle.manifest, read_projections(bundle), stored, inputs, lambda _, value: value)


def split(lesson: Lesson, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the samples for (training, validation, test): whole groups, a quarter of them tested."""
    free = np.setdiff1d(np.arange(len(lesson.samples)), lesson.always_test)
    groups = np.array(lesson.groups)
    names = np.unique(groups[free])
    order = np.random.default_rng([seed, 0x501]).permutation(names)
    share = max(1, len(names) // 4)
    of = {name: 0 if i < share else 1 if i < 2 * share else 2 for i, name in enumerate(order)}
    part = np.array([of[groups[i]] for i in free])
    return free[part == 2], free[part == 1], free[part == 0]


def accuracy(task: Task, outputs: np.ndarray, classes: np.ndarray) -> float:
    return float((probabilities(task, outputs).argmax(1) == classes).mean())


def solve(made: Ready, rows: np.ndarray, strength: Strength) -> SolvedHead:
    """A head of the samples with these numbers."""
    solver = SOLVERS[made.task.kind]
    sums: Statistics = solver.sums(made.task, made.vectors.subset(rows), made.targets[rows])
    blocks = Blocks([(block.statistics_id, block.values.shape[1]) for block in made.vectors.blocks])
    return solver.head(made.task, sums, blocks, strength)


def train_theta(made: Ready, rows: np.ndarray, seed: int) -> np.ndarray:
    dataset = Dataset(made.bundle.manifest, [made.ready[i] for i in rows])
    settings = Settings(epochs=made.lesson.epochs, seed=seed, weight_decay=3e-2)
    return fit(made.graphs, dataset, None, made.bundle.theta(), settings).theta


def theta_outputs(made: Ready, rows: np.ndarray, theta: np.ndarray) -> np.ndarray:
    dataset = Dataset(made.bundle.manifest, [made.ready[i] for i in rows])
    return labelled_outputs(made.graphs, dataset, theta)["label"][0]


def run(made: Ready, seed: int, *, compare: bool = True) -> dict[str, Any]:
    """Accuracies of one seed, by part and test. compare: also of the peers."""
    task, lesson = made.task, made.lesson
    train, validation, test = split(lesson, seed)
    both = np.concatenate([train, validation])
    tests = {"held out": test} | ({"known": np.array(lesson.always_test)} if lesson.always_test else {})
    check = made.vectors.subset(validation)
    expected = made.targets[validation]
    known = made.classes[validation]
    strength = max(STRENGTHS, key=lambda each: accuracy(task, solve(made, train, each).outputs(check), known))
    first, head = solve(made, train, strength), solve(made, both, strength)
    result: dict[str, Any] = {"strength": [strength.shrinkage, strength.prior_power]}
    solved = {name: head.outputs(made.vectors.subset(rows)) for name, rows in tests.items()}
    result["solved"] = {name: accuracy(task, solved[name], made.classes[rows]) for name, rows in tests.items()}
    early = theta_outputs(made, validation, train_theta(made, train, seed))
    mix = choose_weight(task, early, _all_known(first.outputs(check)), expected)
    theta = train_theta(made, both, seed)
    outputs = {name: theta_outputs(made, rows, theta) for name, rows in tests.items()}
    result["trained"] = {name: accuracy(task, outputs[name], made.classes[rows]) for name, rows in tests.items()}
    result["both"] = {
        name: accuracy(task, answered(mix, outputs[name], _all_known(solved[name])), made.classes[rows])
        for name, rows in tests.items()
    }
    result["weight_of_solved"] = mix.solved
    own = answered(mix, early, _all_known(first.outputs(check)))
    result["validation"] = accuracy(task, own, known)  # of both parts, before they learned from it
    if compare:
        result["peers"] = {name: peers(made, train, validation, rows) for name, rows in tests.items()}
    return result


def _all_known(values: np.ndarray) -> SolvedOutputs:
    """Outputs of a head that was taught each class with each input."""
    return SolvedOutputs(values, np.ones(values.shape, bool))


def peers(made: Ready, train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Accuracy of logistic regression on other views of the samples, its strength chosen on validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    lesson, both, found = made.lesson, np.concatenate([train, validation]), dict[str, float]()
    views: dict[str, Any] = {
        "encoder's mean": np.stack(
            [np.concatenate([array.mean(1).ravel() for array in example.inputs.values()]) for example in made.ready]
        )
    }
    numbers = np.stack([lesson.numbers(sample) for sample in lesson.samples])
    if numbers.shape[1]:
        views["surface or overlap numbers"] = numbers
    for name, x in views.items():
        scaled = StandardScaler().fit(x[both]).transform(x)
        found[name] = _logistic(LogisticRegression, scaled, made.classes, train, validation, test)
    if lesson.words:
        texts = [lesson.words(sample) for sample in lesson.samples]
        grams = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(1, 4), min_df=3, max_features=20_000, sublinear_tf=True
        )
        grams.fit([texts[i] for i in both])
        found["character n-grams"] = _logistic(
            LogisticRegression, grams.transform(texts), made.classes, train, validation, test
        )
    return found


def _logistic(
    model: Any, x: Any, classes: np.ndarray, train: np.ndarray, validation: np.ndarray, test: np.ndarray
) -> float:
    warnings.simplefilter("ignore")  # fits that end before they converge are good enough for a peer

    def score(strength: float, rows: np.ndarray, judged: np.ndarray) -> float:
        return float(model(C=strength, max_iter=200).fit(x[rows], classes[rows]).score(x[judged], classes[judged]))

    best = max((0.01, 0.1, 1.0), key=lambda strength: score(strength, train, validation))
    return score(best, np.concatenate([train, validation]), test)
