"""Benchmark of missing senses and wrong labels: the vocabulary lesson with any subset of senses.

    python benchmarks/modalities.py --json modalities.json
    python benchmarks/modalities.py --quick               one seed, Spanish alone, two rates
    python benchmarks/modalities.py --bundle DIR          a bundle of the lesson, in place of a new export

Every stamp with a picture, a word and a recording is one sample. Subsets: one model, trained with all senses until its
rate is 0, is tested with every subset of them, beside models that never had the missing sense, and beside the same
without modality dropout. Faults, at 10 to 50 percent (the rates of FedMultimodal, Feng et al. 2023, section 4):

* a sense missing: each input is, at the rate, replaced by a device's recording of nothing (a covered or blinded lens,
  an unplugged microphone, a text without letters or of one key), never all three. The test has another cover, another
  hum, another key than training, since a model without gates learns those of training by heart. Without gates it
  counts as an input; with them, inputs found poor are left out. At the test, in training, and in both.
* a sense poor: in Spanish, at the middle rate, pictures are blurred and recordings over-driven, in training and test.
  Left out; with the weight that validation pupils teach, as on a device; in full. Reported without a target.
* a label missing: the sample is not there to learn the category from.
* a label wrong: another category, in training. The gate quarantines label errors found by cross-validation.

Losses are counted from the model of good data on good questions. Where a question lacks a sense, a part of the loss is
unavoidable: the floor, printed beside the ratio, is the loss of models of good data, one trained for each subset of
senses, each asked where exactly its senses are there. The test stamps are used only to report. Runs to its end whether
or not the targets are met.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import time
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.vocabulary import lesson
from examples.vocabulary.bundle import make_bundle
from examples.vocabulary.media import square
from examples.vocabulary.schools import Pair, School, has
from examples.vocabulary.splits import lesson_stamps, share
from examples.vocabulary.stamps import NoStampsError, cache_folder
from federation import FeatureCache
from homeroom.data.preprocess import audio
from homeroom.data.quality import poor_inputs
from homeroom.data.quality.finding import DEFAULT_INPUT_WEIGHT
from homeroom.data.samples import Sample, StoredSample
from homeroom.data.validation import resolve
from homeroom.errors import HomeroomError
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.input_weights import learn_input_weights, with_input_weight
from homeroom.train.label_errors import suspect_labels
from homeroom.train.settings import Settings
from peers.verdict import finish, target

TASK, SENSES = "category", ("word", "picture", "speech")
RATES = (0.1, 0.2, 0.3, 0.4, 0.5)
BLUR, OVERDRIVEN = 7, 60  # pixels of 256; times its loudest
EPOCHS = 20  # all of them, so that the rate falls to 0: best in cross-validation over the pupils of training
BEHIND, HALF = 1.0, 0.5
SUBSETS = [s for n in (3, 2, 1) for s in itertools.combinations(SENSES, n)]
WHERE = ("test", "training", "both")


@dataclass(frozen=True)
class Empty:
    """What is recorded of a sense where nothing is there: its features, and whether the gates find it empty."""

    features: np.ndarray
    noticed: bool


@dataclass(frozen=True)
class Asked:
    """A sample as it is given, the senses of it that the gates find empty, and those that they find poor.

    there: the senses in which there is something. spoilt: the features of its picture blurred and its recording
    over-driven, where they are asked for.
    """

    example: Example
    there: tuple[str, ...] = SENSES
    empty: frozenset[str] = frozenset()
    poor: frozenset[str] = frozenset()
    spoilt: Mapping[str, np.ndarray] = field(default_factory=dict)

    def gated(self, weight: float = DEFAULT_INPUT_WEIGHT) -> Example:
        """The example as a device takes it; weight: what a poor sense counts, 0 if it is left out too."""
        out = self.empty if weight else self.empty | self.poor
        if not set(SENSES) - out:
            return self.example
        return replace(
            only(self.example, [s for s in SENSES if s not in out]),
            input_weights={(s, 0): weight for s in self.poor - out},
        )


@dataclass(frozen=True)
class Lesson:
    graphs: Graphs
    bundle: Bundle
    train: Sequence[Asked]
    test: Sequence[Asked]
    empty: Mapping[str, Mapping[str, Sequence[Empty]]]  # by part and sense
    settings: Settings

    @property
    def parts(self) -> dict[str, Sequence[Asked]]:
        return {"train": self.train, "test": self.test}

    def learn(self, found: Sequence[Example], **changes: Any) -> np.ndarray:
        """Theta after training on these examples, its epoch chosen on validation pupils among them."""
        train, validation = Dataset(self.bundle.manifest, found).split(0.2, 0)
        settings = lesson.changed(self.settings, **changes)
        return fit(self.graphs, train, validation, self.bundle.theta(), settings).theta

    def points(self, theta: np.ndarray, found: Sequence[Example]) -> float:
        """Accuracy over 100."""
        return 100 * evaluate(self.graphs, Dataset(self.bundle.manifest, found), theta)[TASK].accuracy


def load(bundle: Bundle, graphs: Graphs, pairs: Sequence[Pair], languages: Sequence[str], settings: Settings) -> Lesson:
    cache = cast(Store, FeatureCache(cache_folder() / "vocabulary-features"))
    parts: dict[str, list[Asked]] = {"train": [], "test": []}
    for language in languages:
        usable = [pair for pair in pairs if has(pair[0], School("everybody", language, SENSES, 0, 1.0))]
        stored = [resolve(_sample(pair, language), bundle.manifest) for pair in usable]
        made = examples(cache, bundle, graphs, stored)
        badly = [resolve(_spoilt(pair, language), bundle.manifest) for pair in usable if language == languages[0]]
        inputs = [e.inputs for e in examples(cache, bundle, graphs, badly)] or [{}] * len(usable)
        for pair, sample, example, bad in zip(usable, stored, made, inputs, strict=True):
            spoilt = {sense: array for (sense, _), array in bad.items()}
            parts[pair[1].part].append(Asked(example, SENSES, *_flaws(sample, bundle), spoilt))
    nothing = {part: empties(bundle, graphs, values) for part, values in recorded_of_nothing().items()}
    return Lesson(graphs, bundle, parts["train"], parts["test"], nothing, settings)


def _sample(pair: Pair, language: str) -> Sample:
    stamp, row = pair
    return Sample(
        word=stamp.captions[language],
        picture=square(stamp.picture).read_bytes(),
        speech=stamp.sounds[language].read_bytes(),
        labels={TASK: stamp.category},
        subject=f"pupil-{int(share('pupil', row.group) * 12)}",
        language=language,
    )


def _flaws(sample: StoredSample, bundle: Bundle) -> tuple[frozenset[str], frozenset[str]]:
    """The senses that are empty, and those that are poor."""
    found = {slot: flaw.empty for (slot, _), flaw in poor_inputs(sample, bundle.manifest).items()}
    return frozenset(s for s, empty in found.items() if empty), frozenset(s for s, empty in found.items() if not empty)


def _spoilt(pair: Pair, language: str) -> Sample:
    stamp, _ = pair
    wave, rate = audio.decode(stamp.sounds[language].read_bytes())
    loud = np.clip(wave / max(float(np.abs(wave).max()), 1e-6) * OVERDRIVEN, -1, 1)
    picture = Image.open(square(stamp.picture)).convert("RGB").filter(ImageFilter.GaussianBlur(BLUR))
    return Sample(picture=_png(np.asarray(picture)), speech=_wav(loud, rate), language=language)


def recorded_of_nothing() -> dict[str, dict[str, list[Any]]]:
    """By part and sense what a device records where nothing is there: no two alike, and of other kinds at the test."""
    rng = np.random.default_rng(0xE391)
    dark, grain = (lambda: np.abs(rng.normal(0, 2, (160, 160, 3)))), (lambda: rng.normal(0, 1, (160, 160, 3)))
    seconds = np.arange(32_000) / 16_000
    hum = 8e-4 * np.sin(2 * np.pi * 50 * seconds)
    return {
        "train": {
            "word": ["?", "...", "-", "aaaaaaaaaaaa", "ssssssssssssssss", "llllllllllll"],
            "picture": [_png(array) for _ in range(3) for array in (dark(), 255 - dark() / 2)],
            "speech": [_wav(rng.normal(0, 5e-4, 32_000)) for _ in range(6)],
        },
        "test": {
            "word": ["?!", "!!", "***", "kkkkkkkkkkkkkkkk", "eeeeeeeeeeeee", "uuuuuuuuuuu"],
            "picture": [_png(array) for _ in range(2) for array in (10 + grain(), 252 + grain(), 128 + grain())],
            "speech": [_wav(quiet) for _ in range(3) for quiet in (hum + rng.normal(0, 1e-4, 32_000), 0 * hum)],
        },
    }


def empties(bundle: Bundle, graphs: Graphs, values: Mapping[str, Sequence[Any]]) -> dict[str, list[Empty]]:
    found = {}
    for sense, given in values.items():
        stored = [resolve(Sample(**{sense: value}), bundle.manifest) for value in given]
        made = examples(None, bundle, graphs, stored)
        found[sense] = [
            Empty(example.inputs[sense, 0], bool(_flaws(sample, bundle)[0]))
            for sample, example in zip(stored, made, strict=True)
        ]
    return found


def _png(grey: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


# Subsets


def only(example: Example, senses: Sequence[str]) -> Example:
    return replace(example, inputs={key: array for key, array in example.inputs.items() if key[0] in senses})


def specialists(one: Lesson, good: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
    """By subset of the senses, theta taught with these alone."""
    train = [p.example for p in one.train]
    return {s: good if s == SENSES else one.learn([only(e, s) for e in train]) for s in SUBSETS}


def subsets(one: Lesson, good: np.ndarray, alone: Mapping[tuple[str, ...], np.ndarray]) -> dict[str, dict[str, float]]:
    """By subset of the senses, the points of the one model, of one without dropout, of one that had only these."""
    test, found = [p.example for p in one.test], {}
    thetas = {"one model": good, "no dropout": one.learn([p.example for p in one.train], modality_dropout=0.0)}
    for senses in SUBSETS:
        there = [only(e, senses) for e in test]
        every = thetas | {"taught with these alone": alone[senses]}
        found["+".join(senses)] = {name: one.points(theta, there) for name, theta in every.items()}
    return found


# Faults


def faults(
    one: Lesson, good: np.ndarray, alone: Mapping[tuple[str, ...], np.ndarray], rates: Sequence[float], seed: int
) -> dict[str, Any]:
    """Points on the test by fault and rate; "none" is without any."""
    test = [p.example for p in one.test]
    found: dict[str, Any] = {"none": one.points(good, test), FLOOR: {}}
    for name in (*(f"sense missing, {w}, {g}" for w in WHERE for g in ("no gates", "gates")), *LABELS, *BADLY):
        found[name] = {}
    for rate in rates:
        rng = np.random.default_rng([seed, round(100 * rate)])
        taught, asked = ([without_some(one, p, part, rate, rng) for p in of] for part, of in one.parts.items())
        found[FLOOR][str(rate)] = floor(one, alone, asked)
        for gates, as_given in (("no gates", lambda p: p.example), ("gates", Asked.gated)):
            given: Callable[[Asked], Example] = as_given
            theta, questions = one.learn([given(p) for p in taught]), [given(p) for p in asked]
            points = (one.points(good, questions), one.points(theta, test), one.points(theta, questions))
            for where, value in zip(WHERE, points, strict=True):
                found[f"sense missing, {where}, {gates}"][str(rate)] = value
        values = labels(one, rate, rng) | (seen_badly(one, rate, rng) if rate == rates[len(rates) // 2] else {})
        for name, value in values.items():
            found[name][str(rate)] = value
    return found


FLOOR = "sense missing, each subset's own model"


def floor(one: Lesson, alone: Mapping[tuple[str, ...], np.ndarray], asked: Sequence[Asked]) -> float:
    """Points where each question is answered by the model taught with exactly the senses that are there."""
    right = 0.0
    for senses, theta in alone.items():
        some = [only(p.example, senses) for p in asked if p.there == senses]
        right += len(some) * one.points(theta, some) if some else 0.0
    return right / len(asked)


def seen_badly(one: Lesson, rate: float, rng: np.random.Generator) -> dict[str, float]:
    taught, asked = ([spoil_some(p, rate, rng) for p in part if p.spoilt] for part in (one.train, one.test))
    found = {}
    for name, weight in zip(BADLY, (0.0, DEFAULT_INPUT_WEIGHT, 1.0), strict=True):
        given, questions = ([p.gated(weight) for p in part] for part in (taught, asked))
        theta = one.learn(given)
        if weight == DEFAULT_INPUT_WEIGHT:
            _, validation = Dataset(one.bundle.manifest, given).split(0.2, 0)
            for modality, learned in (
                learn_input_weights(one.graphs, validation, theta, {}).items() if validation else ()
            ):
                slots = {slot for slot, its, _ in one.bundle.manifest.inputs if its == modality}
                questions = [with_input_weight(e, slots, learned) for e in questions]
        found[name] = one.points(theta, questions)
    return found


BADLY = ("sense poor, left out", "sense poor, weighed", "sense poor, in full")


LABELS = ("label missing", "label wrong, no gates", "label wrong, gates")


def labels(one: Lesson, rate: float, rng: np.random.Generator) -> dict[str, float]:
    train, test = [p.example for p in one.train], [p.example for p in one.test]
    given = [e for e in train if rng.random() >= rate]
    wrong = [_mislabelled(e, rate, rng) for e in train]
    doubts = suspect_labels(one.graphs, one.bundle.theta(), Dataset(one.bundle.manifest, wrong), one.settings)
    doubted = {doubt.row for doubt in doubts}
    kept = [e for row, e in enumerate(wrong) if row not in doubted]
    return dict(zip(LABELS, (one.points(one.learn(some), test) for some in (given, wrong, kept)), strict=True))


def without_some(one: Lesson, asked: Asked, part: str, rate: float, rng: np.random.Generator) -> Asked:
    gone = [sense for sense in SENSES if rng.random() < rate]
    if len(gone) == len(SENSES):
        gone.pop(int(rng.integers(len(SENSES))))
    inputs, empty = dict(asked.example.inputs), set(asked.empty) - set(gone)
    for sense in gone:
        nothing = one.empty[part][sense][int(rng.integers(len(one.empty[part][sense])))]
        inputs[sense, 0] = nothing.features
        empty |= {sense} if nothing.noticed else set()
    return replace(
        asked,
        example=replace(asked.example, inputs=inputs, longest=None),
        there=tuple(sense for sense in SENSES if sense not in gone),
        empty=frozenset(empty),
        poor=asked.poor - set(gone),
    )


def spoil_some(asked: Asked, rate: float, rng: np.random.Generator) -> Asked:
    spoilt = {sense: array for sense, array in asked.spoilt.items() if rng.random() < rate}
    inputs = {**asked.example.inputs, **{(sense, 0): array for sense, array in spoilt.items()}}
    return replace(asked, example=replace(asked.example, inputs=inputs, longest=None), poor=asked.poor | set(spoilt))


def _mislabelled(example: Example, rate: float, rng: np.random.Generator) -> Example:
    target = example.targets[TASK]
    shift, wrong = int(rng.integers(1, len(target))), rng.random() < rate
    return replace(example, targets={TASK: np.roll(target, shift)}) if wrong else example


# Targets


def targets(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the seeds of what is compared within each; losses are means over the rates."""
    found = []
    for senses in (s for s in SUBSETS if len(s) == 2):
        of = [run["subsets"]["+".join(senses)] for run in runs]
        ahead = float(np.median([one["one model"] - one["taught with these alone"] for one in of]))
        missing = next(s for s in SENSES if s not in senses)
        what = f"{missing} missing at the test: the one model minus one taught without it, points"
        found.append(target(what, ahead, f">= -{BEHIND:g}", ahead >= -BEHIND))
    for fault in (*(f"sense missing, {where}" for where in WHERE), "label wrong"):
        ours, theirs = (float(np.median([lost(run["faults"], f"{fault}, {g}") for run in runs])) for g in GATES)
        ratio = ours / theirs if theirs > 0 else float("inf")
        what = f"{fault}: points that gates lose ({ours:.1f}) of what no gates lose ({theirs:.1f})"
        if fault.endswith(("test", "both")):
            least = float(np.median([lost(run["faults"], FLOOR) for run in runs]))
            what += f"; the floor is {least:.1f}, a ratio of {least / theirs if theirs > 0 else float('inf'):.2f}"
        found.append(target(what, ratio, f"< {HALF:g}", ratio < HALF))
    return found


GATES = ("gates", "no gates")


def lost(one: Mapping[str, Any], name: str) -> float:
    """Points below the model of good data on good questions, mean over the rates."""
    return float(np.mean([one["none"] - value for value in one[name].values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--languages", nargs="+", default=["es", "fr"])
    parser.add_argument("--bundle", type=Path, help="a bundle of the lesson, in place of a new export")
    parser.add_argument("--quick", action="store_true", help="minutes; targets are then a hint only")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        with TemporaryDirectory(prefix="homeroom-modalities-") as folder:
            document = measure(options, Path(folder))
    except (HomeroomError, NoStampsError) as problem:
        raise SystemExit(f"modalities: {problem}") from None
    document["minutes"] = round((time.monotonic() - began) / 60, 2)
    finish(document, options.json)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    pairs = lesson_stamps()
    bundle = open_bundle(options.bundle or make_bundle(pairs, folder, lambda line: print(line, flush=True)), root=None)
    graphs = Graphs(bundle, golden.choose_precision(bundle), threads=1)
    languages, seeds, rates = options.languages, options.seeds, RATES
    if options.quick:
        languages, seeds, rates = ["es"], 1, (0.1, 0.5)
    advice = bundle.manifest.training
    settings = lesson.changed(lesson.ALONE, epochs=EPOCHS, patience=EPOCHS, modality_dropout=advice.modality_dropout)
    one = load(bundle, graphs, pairs, languages, settings)
    alarms = 100 * float(np.mean([bool(p.empty or p.poor) for p in (*one.train, *one.test)]))
    noticed = 100 * float(np.mean([e.noticed for of in one.empty.values() for some in of.values() for e in some]))
    print(
        f"{len(one.train)} samples, {len(one.test)} for the test; gates find an input of {alarms:.1f} % of these poor, "
        f"and notice {noticed:.0f} % of the empty inputs",
        flush=True,
    )
    document = {
        "bundle_id": bundle.bundle_id,
        "settings": {"quick": options.quick, "languages": languages, "seeds": seeds, "epochs": EPOCHS, "rates": rates},
        "samples": {"train": len(one.train), "test": len(one.test)},
        "gates": {"good samples with an input found poor": alarms, "empty inputs noticed": noticed},
    }
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        seeded = replace(one, settings=lesson.changed(settings, seed=seed))
        good = seeded.learn([p.example for p in one.train])
        alone = specialists(seeded, good)
        run = {"subsets": subsets(seeded, good, alone), "faults": faults(seeded, good, alone, rates, seed)}
        for name, figures in run["subsets"].items():
            print(f"seed {seed}: {name:20} " + "  ".join(f"{k} {v:.1f}" for k, v in figures.items()), flush=True)
        for name, value in run["faults"].items():
            shown = value if isinstance(value, dict) else {"": value}
            print(f"seed {seed}: {name:38} " + "  ".join(f"{k} {v:.1f}" for k, v in shown.items()), flush=True)
        runs.append(run)
        if options.json:  # what is done so far, for a run that is cut short
            options.json.write_text(json.dumps(document | {"runs": runs, "targets": targets(runs)}, indent=1), "utf-8")
    return document | {"runs": runs, "targets": targets(runs)}


if __name__ == "__main__":
    main()
