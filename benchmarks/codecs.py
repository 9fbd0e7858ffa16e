"""How few bytes an update needs: top-k with error feedback against the exact codec, and how fast each codec is.

    python benchmarks/codecs.py --json codecs.json              three seeds, the vocabulary lesson and short answers
    python benchmarks/codecs.py --quick                         one seed, short answers alone

Twenty rounds of five schools in one process (`homeroom_aggregator.simulate`): training, updates as signed bytes, and
the merge are the product's own code. `fixed32` sends four bytes a value, as float32 would. The score is that of the
last global theta on test samples: mean accuracy over the lesson's tasks and schools, macro-F1 of short answers; it is
compared seed by seed, so both sides saw the same batches. What comes down is measured too: a version as its difference
from the one before (`homeroom.contract.delta`). Speeds are medians of repeated runs, in megabytes of float32
a second of this thread's processor time: one thread does the work, and what else the machine does is not the codec's.
Beside it stands the same by the clock. Runs to its end whether or not the targets are met.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.vocabulary import lesson
from examples.vocabulary.bundle import make_bundle
from examples.vocabulary.lesson import accuracies, mean
from examples.vocabulary.schools import write_all
from examples.vocabulary.splits import lesson_stamps
from examples.vocabulary.stamps import NoStampsError, cache_folder
from federation import FeatureCache
from homeroom import Sample, golden
from homeroom.bundle import Bundle, open_bundle
from homeroom.collect import examples
from homeroom.contract.codecs import Codec, decode, encode
from homeroom.contract.delta import make_delta
from homeroom.contract.update import RoundConfiguration
from homeroom.dataset import Dataset
from homeroom.errors import HomeroomError
from homeroom.ingest import read_samples
from homeroom.runtime import Graphs
from homeroom.samples import resolve
from homeroom.training import Settings, evaluate
from homeroom_aggregator.simulate import SchoolData, simulate
from peers import data, prepare

ROUNDS = 20
CODECS: tuple[Codec, ...] = get_args(Codec)
SHARE, WITHIN, SPEED = 1 / 16, 0.5, 200.0
SCHOOLS = 5  # of short answers; each gets whole questions, in a Dirichlet mix
VALUES = 1 << 22  # of the speed test: 16.8 MB of float32
REPEATS = 9

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Schools of one seed; `score` is what a theta reaches on their test, in points."""

    name: str
    bundle: Bundle
    graphs: Graphs
    schools: Sequence[SchoolData]
    settings: Callable[[int], Settings]
    score: Callable[[np.ndarray], float]


def run(task: Task, codec: Codec, seed: int, *, feedback: bool = True) -> dict[str, float]:
    asked = RoundConfiguration(bundle_id=task.bundle.bundle_id, codec=codec, buffer_size=len(task.schools))
    found = simulate(
        task.bundle, task.schools, ROUNDS, task.settings, asked, seed=seed, graphs=task.graphs, feedback=feedback
    )
    sent = sum(facts.sent_bytes for facts in found.rounds)
    thetas = [task.bundle.theta(), *(facts.theta for facts in found.rounds)]
    down = [len(make_delta(old, new.tobytes())) / new.nbytes for old, new in pairwise(thetas)]
    return {
        "score": task.score(found.theta),
        "bytes_up_a_round": sent / ROUNDS,
        "difference_down_of_float32": float(np.mean(down)),
    }


# The two tasks


class Memory:
    """The two methods of the device's store that `collect.examples` calls: features are computed once."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, bytes], np.ndarray] = {}

    def read_features(self, variant: str, keys: set[tuple[str, bytes]]) -> dict[tuple[str, bytes], np.ndarray]:
        return {key: self.known[variant, key[1]] for key in keys if (variant, key[1]) in self.known}

    def write_features(self, variant: str, features: dict[tuple[str, bytes], np.ndarray]) -> None:
        self.known |= {(variant, digest): array for (_, digest), array in features.items()}


def prepared(path: Path) -> tuple[Bundle, Graphs]:
    bundle = open_bundle(path, root=None)
    return bundle, Graphs(bundle, golden.choose_precision(bundle))


def lesson_tasks(work: Path, seeds: int, tell: Tell) -> list[Task]:
    pairs = lesson_stamps()
    path = work / "lesson" / "bundle"
    bundle, graphs = prepared(path if path.exists() else make_bundle(pairs, work / "lesson", tell))
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

        return Task("lesson", bundle, graphs, schools, lambda n: lesson.round_settings(n - 1, ROUNDS), score)

    return [task(seed) for seed in range(seeds)]


def answer_tasks(folder: Path, work: Path, seeds: int, corpus: str = "beetle") -> list[Task]:
    bundle, graphs = prepared(prepare.export(folder, corpus, work / f"bundle-{corpus}"))
    training, test = data.read(folder, corpus)
    memory = Memory()

    def dataset(answers: Sequence[data.Answer]) -> Dataset:
        stored = [
            resolve(
                Sample(reference=a.reference, answer=a.answer, labels={"grade": a.label}, source=str(n)),
                bundle.manifest,
            )
            for n, a in enumerate(answers)
        ]
        return Dataset(bundle.manifest, examples(memory, bundle, graphs, stored))  # type: ignore[arg-type]

    tested, advice = dataset(test), bundle.manifest.training

    def settings(number: int) -> Settings:
        return Settings(
            epochs=1,
            learning_rate=advice.learning_rate * (1 - (number - 1) / ROUNDS),
            weight_decay=advice.weight_decay,
            constant_rate=True,
        )

    def task(seed: int) -> Task:
        rng = np.random.default_rng([seed, 0xC0])
        questions = sorted({a.question for a in training})
        owner = dict(zip(questions, rng.permutation(len(questions)) % SCHOOLS, strict=True))
        schools = [
            SchoolData(f"school {n}", dataset([a for a in training if owner[a.question] == n])) for n in range(SCHOOLS)
        ]
        return Task(
            "short answers",
            bundle,
            graphs,
            schools,
            settings,
            lambda theta: 100 * evaluate(graphs, tested, theta)["grade"].macro_f1,
        )

    return [task(seed) for seed in range(seeds)]


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
    seeds = 1 if args.quick else args.seeds
    tasks = answer_tasks(args.data, work, seeds)
    if not args.quick:
        tasks += lesson_tasks(work, seeds, tell)
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for number, task in enumerate(tasks):
        seed = number % seeds
        rows = runs.setdefault(task.name, {})
        ways: list[tuple[str, Codec, bool]] = [("fixed32", "fixed32", True), ("topk", "topk", True)]
        if seed == 0 and not args.quick:
            ways += [("int8", "int8", True), ("int4", "int4", True), ("topk, no feedback", "topk", False)]
        for name, codec, feedback in ways:
            one = run(task, codec, seed, feedback=feedback)
            rows.setdefault(name, []).append(one)
            line = f"{one['score']:6.2f} points, {one['bytes_up_a_round']:,.0f} bytes up a round, "
            line += f"{one['difference_down_of_float32']:.3f} of float32 down"
            tell(f"{task.name:14} seed {seed}  {name:18} {line}")
    return {
        "rounds": ROUNDS,
        "seeds": seeds,
        "keep": RoundConfiguration(bundle_id="0" * 64).keep,
        "parameters": {task.name: task.bundle.manifest.layout.size for task in tasks},
        "before": {task.name: task.score(task.bundle.theta()) for task in tasks[::seeds]},
        "runs": runs,
        "speed": speed,
        "targets": targets(runs, speed),
    }


def targets(
    runs: dict[str, dict[str, list[dict[str, float]]]], speed: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    found = []
    for task, rows in runs.items():
        share = np.mean([b["bytes_up_a_round"] / a["bytes_up_a_round"] for a, b in _pairs(rows)])
        behind = np.mean([a["score"] - b["score"] for a, b in _pairs(rows)])
        found.append(_target(f"{task}: topk, bytes up a round against float32", share, SHARE, share <= SHARE, "<="))
        found.append(_target(f"{task}: fixed32 minus topk, points", behind, WITHIN, behind <= WITHIN, "<="))
    for codec, one in speed.items():
        for way in ("encode", "decode"):
            value = one[f"{way}_mb_s"]
            found.append(_target(f"{codec}: {way}, MB/s of processor time", value, SPEED, value >= SPEED, ">="))
    return found


def _pairs(rows: dict[str, list[dict[str, float]]]) -> list[tuple[dict[str, float], dict[str, float]]]:
    return list(zip(rows["fixed32"], rows["topk"], strict=True))


def _target(name: str, value: Any, bound: float, met: Any, sign: str) -> dict[str, Any]:
    return {"name": name, "value": round(float(value), 4), "bound": f"{sign} {bound:g}", "met": bool(met)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, short answers alone")
    parser.add_argument("--work", type=Path, help="keep the exported bundles in this folder")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="homeroom-codecs-") as scratch:
        work = (args.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        try:
            document = measure(args, work, lambda line: print(line, flush=True))
        except (OSError, ValueError, HomeroomError, NoStampsError) as problem:
            raise SystemExit(f"codecs: {problem}; --data names the folder that holds short_answers/") from None
    document["minutes"] = round((time.monotonic() - began) / 60, 2)
    if args.json:
        args.json.write_bytes(msgspec.json.format(json.dumps(document).encode(), indent=1) + b"\n")
    for target in document["targets"]:
        print(f"{'met    ' if target['met'] else 'NOT MET'}  {target['name']}: {target['value']} ({target['bound']})")
    print(f"{document['minutes']} minutes")


if __name__ == "__main__":
    main()
