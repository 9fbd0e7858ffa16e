"""Three real lessons that `benchmarks/exporter.py` judges backbones by: answers, handwritten and spoken digits.

Beetle's short answers with MiniLM, scikit-learn's handwritten digits with EfficientNet-Lite0, the free spoken digits
with Whisper's encoder. Backbones are built as the exporter builds them, adapters trained as a device trains them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from homeroom import Sample
from homeroom.contract.manifest import Precision
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.export.design import draft
from homeroom_exporter.recipe.recipe import parse_recipe
from peers import data as answers
from peers import digits
from peers.bundles import assembled, signed

TASK = "label"
RATE, DECAY = 2e-3, 3e-2  # of AdamW
CALIBRATION = {"text": 300, "image": 128, "audio": 96}  # samples shown to the exporter, all of the training part
HEAD = """\
name = "{name}"
version = 1
saliency = false
hidden = 64
[encoders.{name}]
quantize = "{quantize}"
{encoder}
[slots]
{slots}
[tasks.label]
kind = "classification"
"""


@dataclass(frozen=True)
class Lesson:
    """`samples`: all there are; a split by seed gives the places of those to learn from and of those held out."""

    name: str  # of the modality
    title: str
    encoder: str
    slots: str
    task: str
    samples: Sequence[Sample]
    epochs: int

    def recipe(self, quantize: str) -> str:
        head = HEAD.format(name=self.name, quantize=quantize, encoder=self.encoder, slots=self.slots)
        return head + self.task

    def split(self, seed: int, quick: bool = False) -> tuple[list[int], list[int]]:
        rng = np.random.default_rng(seed)
        train: list[int]
        if self.name == "text":  # the official unseen answers are the test of every seed
            pool = [i for i, s in enumerate(self.samples) if str(s.source).startswith("train")]
            test = [i for i, s in enumerate(self.samples) if str(s.source).startswith("test")]
            train = [pool[i] for i in rng.permutation(len(pool))[: 300 if quick else answers.TRAIN]]
        elif self.name == "audio":  # of each speaker's ten takes of a digit, three
            train, test = [], []
            for start in range(0, len(self.samples), 10):
                for place, take in enumerate(rng.permutation(10)):
                    (test if place < 3 else train).append(start + int(take))
        else:
            order = [int(i) for i in rng.permutation(len(self.samples))]
            train, test = order[: len(order) // 3], order[len(order) // 3 :]
        return train, test


def text(data: Path) -> Lesson:
    pool, test = answers.read(data, "beetle")
    samples = [
        Sample(reference=a.reference, answer=a.answer, labels={TASK: a.label}, subject=a.question, source=f"{part}-{i}")
        for part, rows in (("train", pool), ("test", test))
        for i, a in enumerate(rows)
    ]
    encoder = 'source = "pip:minilm"\ntaps = [2, 4, 6]\nbuckets = [16, 32, 64]'
    task = f'head = "pair"\nreads = ["reference", "answer"]\nlabels = {_list(answers.LABELS)}\n'
    return Lesson(
        "text", "short answers (Beetle), MiniLM", encoder, 'reference = "text"\nanswer = "text"', task, samples, 10
    )


def image(_: Path, limit: int = 1797) -> Lesson:
    from PIL import Image
    from sklearn.datasets import load_digits

    samples = []
    for i, (pixels, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        if i == limit:
            break
        out = io.BytesIO()
        grey = (255 - 15.9 * pixels.reshape(8, 8)).astype(np.uint8)
        Image.fromarray(grey).resize((128, 128), Image.Resampling.BICUBIC).convert("RGB").save(out, "PNG")
        samples.append(Sample(picture=out.getvalue(), labels={TASK: str(label)}, subject=f"writer {i}"))
    task = f'reads = ["picture"]\nlabels = {_list(map(str, range(10)))}\n'
    # With the usual drift of 0.02 some twenty layers stay in float32: no point gained, and half the speed lost.
    encoder = 'source = "pip:efficientnet-lite0"\ndrift = 0.08'
    return Lesson("image", "handwritten digits, EfficientNet-Lite0", encoder, 'picture = "image"', task, samples, 20)


def audio(data: Path) -> Lesson:
    samples = [
        Sample(clip=clip.data, labels={TASK: str(clip.digit)}, subject=clip.name.split("_")[1], source=clip.name)
        for clip in digits.clips(data)
    ]
    task = f'reads = ["clip"]\nlabels = {_list(map(str, range(10)))}\n'
    encoder = 'source = "pip:whisper-tiny-en"\nseconds = 0.8'
    return Lesson("audio", "spoken digits, Whisper tiny.en encoder", encoder, 'clip = "audio"', task, samples, 40)


LESSONS = {"text": text, "image": image, "audio": audio}


def export(lesson: Lesson, folder: Path, quantize: str) -> tuple[Bundle, Backbone]:
    """A bundle of the lesson in `folder`, its backbone in float32 and as `quantize` says; without the self-check."""
    folder.mkdir(parents=True)
    recipe = parse_recipe(lesson.recipe(quantize))
    train, _ = lesson.split(0)
    shown = train[:: max(1, len(train) // CALIBRATION[lesson.name])]
    samples = [resolve(lesson.samples[i], draft(recipe)) for i in shown]
    contents, made = assembled(recipe, samples, folder, progress=lambda stage: print("   ", stage))
    return signed(contents, folder), made[lesson.name]


def features(lesson: Lesson, bundle: Bundle, precision: Precision, rows: Sequence[int]) -> dict[int, Example]:
    """The examples of the samples `rows`, their features computed here in one precision."""
    stored = [resolve(lesson.samples[i], bundle.manifest) for i in rows]
    graphs = Graphs(bundle, {lesson.name: precision}, threads=1)
    return dict(zip(rows, examples(None, bundle, graphs, stored), strict=True))


def trained(
    lesson: Lesson, bundle: Bundle, made: Mapping[int, Example], train: Sequence[int], seed: int, quick: bool = False
) -> np.ndarray:
    """Theta after the lesson's epochs, all of them, on these features."""
    rows = Dataset(bundle.manifest, [made[i] for i in train])
    settings = Settings(epochs=3 if quick else lesson.epochs, learning_rate=RATE, weight_decay=DECAY, seed=seed)
    return fit(_steps(bundle), rows, None, bundle.theta(), settings).theta


def score(bundle: Bundle, made: Mapping[int, Example], test: Sequence[int], theta: np.ndarray) -> float:
    """Macro-F1 in points."""
    rows = Dataset(bundle.manifest, [made[i] for i in test])
    return 100 * evaluate(_steps(bundle), rows, theta)[TASK].macro_f1


def _steps(bundle: Bundle) -> Graphs:
    if bundle.bundle_id not in _loaded:
        _loaded[bundle.bundle_id] = Graphs(bundle, threads=1)
    return _loaded[bundle.bundle_id]


_loaded: dict[str, Graphs] = {}


def _list(names: Iterator[str] | Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
