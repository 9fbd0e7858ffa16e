"""Benchmark of update codecs: bytes and score of top-k with error feedback against the exact codec, and codec speed.

    python benchmarks/codecs.py --json codecs.json      short answers and spoken digits
    python benchmarks/codecs.py --vocabulary            the vocabulary lesson too, three seeds at most
    python benchmarks/codecs.py --quick                 one seed

Twenty rounds of a few schools run in one process (`homeroom_aggregator.simulation.federate`), with the product's own
training, signed updates and merge. `fixed32` sends four bytes a value, as float32 would.

* Score: of the last global theta on test samples: macro-F1 of short answers and of digits, mean accuracy over the
  vocabulary lesson's tasks and schools. It is compared seed by seed, so both sides saw the same batches. A school has
  whole questions, or the clips of one speaker; the test is answers to the same questions, or a speaker unknown to all.
* Downloads: a version as its difference from the one before (`homeroom.contract.delta`).
* Speed: the median of repeated runs, in megabytes of float32 a second of this thread's processor time, so that other
  processes do not count; the same by the clock beside it.

Runs to its end whether or not the targets are met.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.vocabulary.bundle import make_bundle
from examples.vocabulary.lesson import accuracies, mean, round_settings
from examples.vocabulary.schools import write_all
from examples.vocabulary.splits import lesson_stamps
from examples.vocabulary.stamps import NoStampsError, cache_folder
from federation import FeatureCache
from homeroom.contract.codecs import Codec, decode, encode
from homeroom.contract.delta import make_delta
from homeroom.contract.round import RoundConfiguration
from homeroom.data.ingest import read_samples
from homeroom.errors import HomeroomError
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import simulate
from peers import lessons
from peers.verdict import finish, target

ROUNDS = 20
CODECS: tuple[Codec, ...] = get_args(Codec)
SHARE, WITHIN, SPEED = 1 / 16, 0.5, 200.0
SCHOOLS = 5  # at most: each has whole questions, or the clips of one speaker
VALUES = 1 << 22  # of the speed test: 16.8 MB of float32
REPEATS = 9

Tell = Callable[[str], None]
Split = Callable[[int], tuple[list[int], list[int]]]  # by seed: places of the samples to learn from, and of the test


@dataclass(frozen=True)
class Task:
    """Schools of one seed; `score` is what a theta reaches on their test, in points."""

    name: str
    seed: int
    bundle: Bundle
    graphs: Graphs
    schools: Sequence[SchoolData]
    settings: Callable[[int], Settings]
    score: Callable[[np.ndarray], float]


def run(task: Task, codec: Codec, *, feedback: bool = True) -> dict[str, float]:
    asked = RoundConfiguration(bundle_id=task.bundle.bundle_id, codec=codec, buffer_size=len(task.schools))
    found = simulate(
        task.bundle, task.schools, ROUNDS, task.settings, asked, seed=task.seed, graphs=task.graphs, feedback=feedback
    )
    sent = sum(facts.sent_bytes for facts in found.rounds)
    thetas = [task.bundle.theta(), *(facts.theta for facts in found.rounds)]
    down = [len(make_delta(old, new.tobytes())) / new.nbytes for old, new in pairwise(thetas)]
    return {
        "score": task.score(found.theta),
        "bytes_up_a_round": sent / ROUNDS,
        "difference_down_of_float32": float(np.mean(down)),
    }


# The tasks, one for each seed


def unheard(clips: lessons.Lesson, seed: int) -> tuple[list[int], list[int]]:
    """One speaker's clips are the test: of speakers who are known, every method knows every digit."""
    speakers = sorted({str(sample.subject) for sample in clips.samples})
    held = [sample.subject == speakers[seed % len(speakers)] for sample in clips.samples]
    return [i for i, out in enumerate(held) if not out], [i for i, out in enumerate(held) if out]


def tasks_of(lesson: lessons.Lesson, split: Split, work: Path, seeds: Sequence[int]) -> list[Task]:
    bundle, _ = lessons.export(lesson, work / lesson.name, "int8")
    graphs = Graphs(bundle, threads=1)
    made = lessons.features(lesson, bundle, "int8", range(len(lesson.samples)))

    def settings(number: int) -> Settings:
        """The lesson's epochs and rate, spread over the rounds."""
        falling = lessons.RATE * (1 - (number - 1) / ROUNDS)
        epochs = max(1, lesson.epochs // ROUNDS)
        return Settings(epochs=epochs, learning_rate=falling, weight_decay=lessons.DECAY, constant_rate=True)

    def task(seed: int) -> Task:
        train, test = split(seed)
        subjects = np.random.default_rng([seed, 0xC0]).permutation(sorted({lesson.samples[i].subject for i in train}))
        parts = [set(subjects[n::SCHOOLS]) for n in range(min(SCHOOLS, len(subjects)))]
        schools = [
            SchoolData(
                f"school {n}", Dataset(bundle.manifest, [made[i] for i in train if lesson.samples[i].subject in part])
            )
            for n, part in enumerate(parts)
        ]
        score = partial(lessons.score, bundle, made, test)
        return Task(lesson.title, seed, bundle, graphs, schools, settings, score)

    return [task(seed) for seed in seeds]


def vocabulary_tasks(work: Path, seeds: Sequence[int], tell: Tell) -> list[Task]:
    pairs = lesson_stamps()
    bundle = open_bundle(make_bundle(pairs, work / "vocabulary", tell), root=None)
    graphs = Graphs(bundle, golden.choose_precision(bundle))
    cache = FeatureCache(cache_folder() / "vocabulary-features")  # as `federation.py` leaves them

    def dataset(path: Path) -> Dataset:
        stored = list(read_samples(path, bundle.manifest))
        return Dataset(bundle.manifest, examples(cache, bundle, graphs, stored))  # type: ignore[arg-type]

    def task(seed: int) -> Task:
        with tempfile.TemporaryDirectory(prefix="homeroom-codecs-") as folder:
            files = write_all(pairs, Path(folder), seed)
            schools = [SchoolData(name, dataset(parts["train"])) for name, parts in files.items()]
            tests = [dataset(parts["test"]) for parts in files.values()]

        def score(theta: np.ndarray) -> float:
            return 100 * float(np.mean([mean(accuracies(evaluate(graphs, test, theta))) for test in tests]))

        return Task("vocabulary", seed, bundle, graphs, schools, lambda n: round_settings(n - 1, ROUNDS), score)

    return [task(seed) for seed in seeds]


# Speed


def speeds() -> dict[str, dict[str, float]]:
    """Megabytes of float32 a second, by codec: median of REPEATS runs over VALUES values, few large, most small."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(VALUES) * rng.lognormal(-7, 1, VALUES)).astype(np.float32)
    asked = RoundConfiguration(bundle_id="0" * 64)
    found = {}
    for codec in CODECS:
        encoded = encode(values, codec, asked.scale_bits, asked.keep)
        up = _rate(lambda c=codec: encode(values, c, asked.scale_bits, asked.keep))
        down = _rate(lambda c=codec, e=encoded: decode(e, c, VALUES, asked.scale_bits))
        found[codec] = {
            "encode_mb_s": up[0],
            "encode_clock_mb_s": up[1],
            "decode_mb_s": down[0],
            "decode_clock_mb_s": down[1],
            "share_of_float32": encoded.nbytes / values.nbytes,
        }
    return found


def _rate(work: Callable[[], Any]) -> tuple[float, float]:
    """By the thread's processor time, and by the clock."""
    taken = []
    for _ in range(REPEATS):
        began, clock = time.thread_time(), time.perf_counter()
        work()
        taken.append((time.thread_time() - began, time.perf_counter() - clock))
    rates = 4e-6 * VALUES / np.median(taken, axis=0)
    return float(rates[0]), float(rates[1])


# Together


def measure(args: argparse.Namespace, work: Path, tell: Tell) -> dict[str, Any]:
    speed = speeds()
    for codec, one in speed.items():
        rates = f"encode {one['encode_mb_s']:6.0f} MB/s, decode {one['decode_mb_s']:6.0f} MB/s"
        tell(f"{codec:8} {rates}, {one['share_of_float32']:.4f} of float32")
    seeds = range(1 if args.quick else args.seeds)
    answers, clips = lessons.text(args.data), lessons.audio(args.data)
    tasks = tasks_of(answers, answers.split, work, seeds) + tasks_of(clips, partial(unheard, clips), work, seeds)
    if args.vocabulary:
        tasks += vocabulary_tasks(work, seeds[:3], tell)
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for task in tasks:
        rows = runs.setdefault(task.name, {})
        ways: list[tuple[str, Codec, bool]] = [("fixed32", "fixed32", True), ("topk", "topk", True)]
        if task.seed == 0 and not args.quick:
            ways += [("int8", "int8", True), ("int4", "int4", True), ("topk, no feedback", "topk", False)]
        for name, codec, feedback in ways:
            one = run(task, codec, feedback=feedback)
            rows.setdefault(name, []).append(one)
            line = f"{one['score']:6.2f} points, {one['bytes_up_a_round']:,.0f} bytes up a round, "
            line += f"{one['difference_down_of_float32']:.3f} of float32 down"
            tell(f"{task.name:14} seed {task.seed}  {name:18} {line}")
    return {
        "rounds": ROUNDS,
        "seeds": len(seeds),
        "keep": RoundConfiguration(bundle_id="0" * 64).keep,
        "parameters": {task.name: task.bundle.manifest.layout.size for task in tasks},
        "before": {task.name: task.score(task.bundle.theta()) for task in tasks if task.seed == 0},
        "runs": runs,
        "speed": speed,
        "targets": targets(runs, speed),
    }


def targets(
    runs: dict[str, dict[str, list[dict[str, float]]]], speed: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    found = []
    for task, rows in runs.items():
        pairs = list(zip(rows["fixed32"], rows["topk"], strict=True))
        share = float(np.mean([b["bytes_up_a_round"] / a["bytes_up_a_round"] for a, b in pairs]))
        behind = float(np.mean([a["score"] - b["score"] for a, b in pairs]))
        found.append(target(f"{task}: topk, bytes up a round against float32", share, f"<= {SHARE:g}", share <= SHARE))
        found.append(target(f"{task}: fixed32 minus topk, points", behind, f"<= {WITHIN:g}", behind <= WITHIN))
    for codec, one in speed.items():
        for way in ("encode", "decode"):
            value = one[f"{way}_mb_s"]
            found.append(target(f"{codec}: {way}, MB/s of processor time", value, f">= {SPEED:g}", value >= SPEED))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--vocabulary", action="store_true", help="a third task, whose pictures are downloaded")
    parser.add_argument("--quick", action="store_true", help="one seed")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="homeroom-codecs-") as work:
        try:
            document = measure(args, Path(work), lambda line: print(line, flush=True))
        except (OSError, ValueError, HomeroomError, NoStampsError) as problem:
            folders = "short_answers/ and spoken_digits/"
            raise SystemExit(f"codecs: {problem}; --data names the folder that holds {folders}") from None
    document["minutes"] = round((time.monotonic() - began) / 60, 2)
    finish(document, args.json)


if __name__ == "__main__":
    main()
