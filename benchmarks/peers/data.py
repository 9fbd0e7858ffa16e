"""The short answers every method of `benchmarks/device.py` sees: one split, one score; standard library only.

Source: SciEntsBank and Beetle, the student response analysis task of SemEval-2013 (Dzikovska et al.), CC BY-SA 3.0.
The file is not part of this project; its hash is.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
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


def read(folder: Path, corpus: str) -> tuple[list[Answer], list[Answer]]:
    """Answers of the official training part and of the unseen-answers test; ValueError when the file is another."""
    path = folder / FILE
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{path} is not the file this benchmark was made for (sha256 {SHA256})")
    rows = [row for row in map(json.loads, gzip.decompress(data).decode().splitlines()) if row["corpus"] == corpus]

    def part(name: str) -> list[Answer]:
        return [Answer(r["question"], r["reference"], r["answer"], r["label3"]) for r in rows if r["split"] == name]

    return part("training"), part("test-unseen-answers")


def split(folder: Path, corpus: str, seed: int) -> Split:
    """TRAIN + VALIDATION answers drawn by `seed` from the training part.

    A training answer that also occurs in the test (same question, reference and words) is left out, and one text is
    never in both train and validation: pupils often give the same answer.
    """
    training, test = read(folder, corpus)

    def key(a: Answer) -> tuple[str, str, str]:
        return a.question, a.reference, " ".join(a.answer.lower().split())

    seen = {key(a) for a in test}
    pool: dict[tuple[str, str, str], Answer] = {}
    for answer in training:
        if key(answer) not in seen:
            pool.setdefault(key(answer), answer)
    drawn = list(pool.values())
    random.Random(f"{corpus}-{seed}").shuffle(drawn)
    return Split(tuple(drawn[:TRAIN]), tuple(drawn[TRAIN : TRAIN + VALIDATION]), tuple(test))


def macro_f1(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Mean over LABELS of the F1 of each; a class without support and without predictions counts 0."""
    total = 0.0
    for name in LABELS:
        hits = sum(a == name == b for a, b in zip(labels, predictions, strict=True))
        total += 2 * hits / max(1, labels.count(name) + predictions.count(name))
    return total / len(LABELS)
