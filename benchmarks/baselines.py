"""Benchmark of trivial baselines: what a device learns beside five simple peers on the same samples.

    python benchmarks/baselines.py --json baselines.json --data DATA
    python benchmarks/baselines.py --only "digits;spoken" --splits 2

Macro-F1 on groups that are held out whole: articles, questions, speakers; single pictures of digits. Peers: logistic
regression on character n-grams, on surface numbers, on overlap with the reference, and on the encoder's mean; gradient
boosting on the latter with all numbers. Their strength, and which of them counts, are chosen on validation groups; then
all are fitted again with these. The device's side is a solved head and theta as a training makes and mixes them, its
weight chosen on validation groups, both fitted again on all. `peers/splits.json` has the digest of each test part: it
was written before anything was trained, and another split is an error.

Short answers: SciEntsBank, Beetle (Dzikovska et al. 2013, CC BY-SA 3.0), two and three labels; OneStopEnglish (Vajjala
and Lucic 2018, CC BY-SA 4.0); free spoken digits (Jackson et al., CC BY-SA 4.0); scikit-learn's (UCI, CC BY 4.0).
Not shown yet: MathAchieve by school. Runs to its end whether or not the targets are met.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import solved_lessons as lessons
from homeroom.data.tasks import probabilities
from homeroom.data.tasks.metrics import macro_f1
from homeroom.train.solve.base import Strength
from homeroom.train.solve.combine import answered, choose_weight
from peers.data import LABELS
from peers.verdict import finish, limited

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
SPLITS_FILE = Path(__file__).parent / "peers" / "splits.json"
SPLITS = 10
MOST_BEHIND, MOST_BEHIND_READING = 0.01, 0.02  # of the best peer, mean over splits

Rows = np.ndarray
Peer = Callable[[Rows, Rows], Rows]  # (to learn from, to answer) to the classes of the latter
LESSONS: dict[str, Callable[[Path], lessons.Lesson]] = {
    "digits": lambda data: lessons.handwritten_digits(),
    "spoken": lessons.spoken_digits,
    "reading": lessons.reading_level,
    "beetle": lambda data: lessons.short_answers(data, "beetle"),
    "beetle, three labels": lambda data: lessons.short_answers(data, "beetle", labels=LABELS),
    "scientsbank": lambda data: lessons.short_answers(data, "sciEntsBank"),
    "scientsbank, three labels": lambda data: lessons.short_answers(data, "sciEntsBank", labels=LABELS),
}


def digest(lesson: lessons.Lesson, seed: int) -> str:
    """Of the groups and numbers of the samples that a split holds out."""
    held_out = lessons.split(lesson, seed)[2]
    return sha256(json.dumps([[int(row), lesson.groups[row]] for row in held_out]).encode()).hexdigest()[:16]


def check_split(name: str, lesson: lessons.Lesson, seed: int) -> None:
    """Ends the benchmark where a split is another than the one that was committed, or shares a group."""
    committed = json.loads(SPLITS_FILE.read_text("utf-8"))[name][seed]
    if committed != digest(lesson, seed):
        raise SystemExit(f"{name}, split {seed}: another test part than in {SPLITS_FILE.name}")
    train, validation, test = ({lesson.groups[row] for row in rows} for rows in lessons.split(lesson, seed))
    assert train.isdisjoint(test | validation)
    assert validation.isdisjoint(test)


def device_classes(made: lessons.Ready, seed: int) -> Rows:
    """What a solved head and theta answer together for the test samples."""
    train, validation, test = lessons.split(made.lesson, seed)
    both, task, section = np.concatenate([train, validation]), made.task, made.bundle.manifest.statistics
    strength = Strength(section.shrinkage, section.prior_power)  # type: ignore[union-attr]
    early = lessons.theta_outputs(made, validation, lessons.train_theta(made, train, seed))
    first = lessons.solve(made, train, strength).outputs(made.vectors.subset(validation))
    mix = choose_weight(task, early, lessons._all_known(first), made.targets[validation])
    solved = lessons.solve(made, both, strength).outputs(made.vectors.subset(test))
    trained = lessons.theta_outputs(made, test, lessons.train_theta(made, both, seed))
    return np.asarray(probabilities(task, answered(mix, trained, lessons._all_known(solved))).argmax(1))


def peers(made: lessons.Ready) -> dict[str, list[Peer]]:
    """By name, each peer with several strengths; those that the lesson has inputs for."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    warnings.simplefilter("ignore")  # fits that end before they converge are good enough for a peer
    lesson, classes = made.lesson, made.classes
    mean = np.stack([np.concatenate([a.mean(1).ravel() for a in e.inputs.values()]) for e in made.ready])
    numbers = np.stack([lesson.numbers(sample) for sample in lesson.samples])

    def linear(x: np.ndarray, strength: float) -> Peer:
        def peer(learn: Rows, ask: Rows) -> Rows:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
            return np.asarray(model.fit(x[learn], classes[learn]).predict(x[ask]))

        return peer

    def boosted(x: np.ndarray, leaves: int) -> Peer:
        def peer(learn: Rows, ask: Rows) -> Rows:
            model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=leaves, random_state=0)
            return np.asarray(model.fit(x[learn], classes[learn]).predict(x[ask]))

        return peer

    views = {"encoder's mean": mean}
    if numbers.shape[1]:
        views["overlap" if len(made.task.reads) > 1 else "surface"] = numbers
    found = {name: [linear(x, strength) for strength in (0.01, 0.1, 1.0)] for name, x in views.items()}
    found["gradient boosting"] = [boosted(np.concatenate([mean, numbers], 1), leaves) for leaves in (7, 31)]
    if lesson.words:
        found["n-grams"] = [grams(made, strength) for strength in (0.1, 1.0, 10.0)]
    return found


def grams(made: lessons.Ready, strength: float) -> Peer:
    """Logistic regression on character n-grams of what the pupil wrote."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    assert made.lesson.words
    texts = np.array([made.lesson.words(sample) for sample in made.lesson.samples], object)

    def peer(learn: Rows, ask: Rows) -> Rows:
        words = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(1, 4), min_df=3, max_features=20_000, sublinear_tf=True
        )
        model = make_pipeline(words, LogisticRegression(C=strength, max_iter=200))
        return np.asarray(model.fit(texts[learn], made.classes[learn]).predict(texts[ask]))

    return peer


def run(name: str, made: lessons.Ready, seed: int) -> dict[str, Any]:
    """Macro-F1 of one split: the device, each peer, and the one that validation chose."""
    check_split(name, made.lesson, seed)
    train, validation, test = lessons.split(made.lesson, seed)
    both, classes = np.concatenate([train, validation]), made.classes
    found, judged = dict[str, float](), dict[str, float]()
    for peer_name, strengths in peers(made).items():
        scores = [macro_f1(classes[validation], peer(train, validation)) for peer in strengths]
        judged[peer_name] = max(scores)
        found[peer_name] = macro_f1(classes[test], strengths[int(np.argmax(scores))](both, test))
    chosen = max(judged, key=lambda peer: judged[peer])
    return {
        "device": macro_f1(classes[test], device_classes(made, seed)),
        "peer": found[chosen],
        "chosen": chosen,
        "peers": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--splits", type=int, default=SPLITS, choices=range(1, SPLITS + 1))
    parser.add_argument("--only", default=";".join(LESSONS), help=f"names between semicolons, of {'; '.join(LESSONS)}")
    parser.add_argument("--write-splits", action="store_true", help="write peers/splits.json and end")
    args = parser.parse_args()
    if args.write_splits:
        made_by = {name: make(args.data) for name, make in LESSONS.items()}
        digests = {name: [digest(one, seed) for seed in range(SPLITS)] for name, one in made_by.items()}
        SPLITS_FILE.write_text(json.dumps(digests, indent=1) + "\n", "utf-8")
        return
    began, document = time.monotonic(), dict[str, Any](splits=args.splits, targets=[])
    ahead = []
    for name in args.only.split(";"):
        with TemporaryDirectory() as work:
            made = lessons.prepare(LESSONS[name](args.data), Path(work) / "lesson")
            runs = [run(name, made, seed) for seed in range(args.splits)]
        mean = {side: float(np.mean([one[side] for one in runs])) for side in ("device", "peer")}
        document[name] = {"mean": mean, "runs": runs}
        ahead.append(mean["device"] - mean["peer"])
        print(name, mean, [one["chosen"] for one in runs], flush=True)
        least = -(MOST_BEHIND_READING if name == "reading" else MOST_BEHIND)
        words = f"{name}: macro-F1 above that of the best peer, mean of {args.splits} splits"
        document["targets"].append(limited(words, ahead[-1], least, at_least=True))
    document["targets"].append(limited("all lessons: above the best peer", float(np.mean(ahead)), 0.0, at_least=True))
    document["minutes"] = round((time.monotonic() - began) / 60, 1)
    finish(document, args.json)


if __name__ == "__main__":
    main()
