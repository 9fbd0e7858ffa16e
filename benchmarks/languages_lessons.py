"""Short answers and reading levels in `benchmarks/languages.py`: the encoder of sixteen languages beside MiniLM.

English lessons of `solved_lessons`, whole questions or articles held out, trained and solved heads together. What ships
is the encoder that `homeroom bundle recipe new` writes for these texts; the better one on validation groups stands
beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from homeroom_exporter.recipe.look import look
from homeroom_exporter.recipe.propose import propose
from homeroom_exporter.recipe.recipe import parse_recipe
from peers.verdict import limited
from solved_lessons import MINILM, Lesson, prepare, reading_level, run, short_answers

MULTILINGUAL = 'source = "pip:use-multilingual"\ntaps = ["ngrams", "sentence"]\nbuckets = [16, 32, 64]'
ENCODERS = {"pip:minilm": MINILM, "pip:use-multilingual": MULTILINGUAL}
MOST_LOST = 0.005
LESSONS: Mapping[str, Callable[[Path], Lesson]] = {
    "short answers, Beetle": lambda data: short_answers(data, "beetle"),
    "short answers, SciEntsBank": lambda data: short_answers(data, "sciEntsBank"),
    "reading level": reading_level,
}


def measure(data: Path, seeds: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Accuracies by lesson, encoder and test, and what the shipped encoder loses beside MiniLM."""
    found, targets = dict[str, Any](), []
    for name, read in LESSONS.items():
        lesson = read(data)
        runs = {encoder: _runs(lesson, lines, seeds) for encoder, lines in ENCODERS.items()}
        means = {encoder: _means(own) for encoder, own in runs.items()}
        ships = shipped(lesson)
        better = max(means, key=lambda encoder: means[encoder]["validation"])
        found[name] = {"accuracy": means, "ships": ships, "better on validation": better, "seeds": runs}
        print(name, means, f"ships {ships}, better on validation {better}", flush=True)
        for test in (test for test in means[ships] if test != "validation"):
            gained = means[ships][test] - means["pip:minilm"][test]
            targets.append(limited(f"{name}, {test}: what ships less MiniLM", gained, -MOST_LOST, at_least=True))
    return found, targets


def shipped(lesson: Lesson) -> str:
    """The text encoder of the recipe that is written for a lesson's samples."""
    with TemporaryDirectory(prefix="homeroom-languages-") as folder:
        path = Path(folder) / "samples.jsonl"
        rows = ({**one.inputs, "labels": one.labels} for one in lesson.samples)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        [encoder] = parse_recipe(propose(look(path), "lesson").text).encoders
    return encoder.source


def _runs(lesson: Lesson, lines: str, seeds: int) -> list[dict[str, Any]]:
    assert MINILM in lesson.recipe, "another encoder is replaced"
    with TemporaryDirectory(prefix="homeroom-languages-") as folder:
        made = prepare(replace(lesson, recipe=lesson.recipe.replace(MINILM, lines)), Path(folder) / "lesson")
        return [run(made, seed, compare=False) for seed in range(seeds)]


def _means(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Of both parts together, by test, and on validation groups."""
    tests = {test: float(np.mean([one["both"][test] for one in runs])) for test in runs[0]["both"]}
    return tests | {"validation": float(np.mean([one["validation"] for one in runs]))}
