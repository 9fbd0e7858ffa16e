"""The short answers every method of `benchmarks/device.py` sees: one split, one score; standard library only.

Source: SciEntsBank and Beetle, the student response analysis task of SemEval-2013 (Dzikovska et al.), CC BY-SA 3.0.
The file is not part of this project; its hash is.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = "short_answers/short_answers.jsonl.gz"
SHA256 = "abfcaf345943c166d9b2c5b9a628eba5fc93bd1c1a260aff953ce6d05452173b"
CORPORA = ("beetle", "sciEntsBank")
LABELS = ("correct", "contradictory", "incorrect")
TRAIN = 1500
VALIDATION = 300  # further answers of the official training part


@dataclass(frozen=True)
class Answer:
    question: str
    reference: str
    answer: str
    label: str


@dataclass(frozen=True)
class Split:
    train: tuple[Answer, ...]
    validation: tuple[Answer, ...]
    test: tuple[Answer, ...]  # the official unseen answers, all of them


def pinned(folder: Path, name: str, sha256: str) -> bytes:
    """A data set's file; where it is missing or another, the benchmark ends with a sentence."""
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as problem:
        sys.exit(f"{path}: {problem.strerror}; say with --data in which folder the data sets are")
    if hashlib.sha256(data).hexdigest() != sha256:
        sys.exit(f"{path} is not the file that this benchmark was made for (sha256 {sha256})")
    return data


def read(folder: Path, corpus: str) -> tuple[list[Answer], list[Answer]]:
    """Answers of the official training part and of the unseen-answers test."""
    data = pinned(folder, FILE, SHA256)
    rows = [row for row in map(json.loads, gzip.decompress(data).decode().splitlines()) if row["corpus"] == corpus]

    def part(name: str) -> list[Answer]:
        return [Answer(r["question"], r["reference"], r["answer"], r["label3"]) for r in rows if r["split"] == name]

    return part("training"), part("test-unseen-answers")


def split(folder: Path, corpus: str, seed: int) -> Split:
    """TRAIN, then VALIDATION answers drawn by `seed` from the official training part; the official test as it is.

    No answer is validated that stands in the drawn training part too: pupils often give the same one.
    """
    pool, test = read(folder, corpus)
    random.Random(f"{corpus}-{seed}").shuffle(pool)
    train = pool[:TRAIN]
    known = {_key(a) for a in train}
    validation = [a for a in pool[TRAIN:] if _key(a) not in known][:VALIDATION]
    return Split(tuple(train), tuple(validation), tuple(test))


def repeated(split: Split) -> int:
    """How many test answers stand word for word in the training answers; the official test has such."""
    known = {_key(a) for a in split.train}
    return sum(_key(a) in known for a in split.test)


def _key(a: Answer) -> tuple[str, str, str]:
    return a.question, a.reference, " ".join(a.answer.lower().split())


def macro_f1(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over LABELS of the F1 of each; a class without support and without predictions counts 0."""
    total = 0.0
    for name in LABELS:
        hits = sum(a == name == b for a, b in zip(labels, predictions, strict=True))
        total += 2 * hits / max(1, labels.count(name) + predictions.count(name))
    return total / len(LABELS)
