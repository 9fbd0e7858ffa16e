"""Handwritten digits for benchmarks/privacy.py: a small real bundle, many virtual devices of a few samples, and a test.

scikit-learn's digits (UCI, CC BY 4.0), each pixel a column of a table. So the backbone is the standardised row itself
and theta is small: noise hurts with every trained value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from homeroom import Sample
from homeroom.contract.signing import certify, new_key
from homeroom.data.validation import resolve
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples

TEST = 397  # of 1,797 pictures; the others go to the devices
DIGITS = load_digits()
USED = np.flatnonzero(DIGITS.data.std(0) > 0.5)  # pixels that are ever drawn on


def write_recipe(folder: Path, count: int = 10, version: int = 1) -> Path:
    """count: of the digits that it names, from 0."""
    pixels = DIGITS.data
    columns = ", ".join(
        f'{{name = "p{i}", mean = {pixels[:, i].mean():.3f}, std = {pixels[:, i].std():.3f}}}' for i in USED
    )
    labels = json.dumps([str(digit) for digit in range(count)])
    path = folder / "digits.toml"
    path.write_text(
        f'name = "digits"\nversion = {version}\nseed = 1\nbatch = 8\nwidth = 16\nhidden = 16\n'
        "golden = 4\nsaliency = false\n"
        f'[encoders.table]\nsource = "table"\ncolumns = [{columns}]\n'
        f'[slots]\npicture = "table"\n[tasks.digit]\nkind = "classification"\nreads = ["picture"]\nlabels = {labels}\n'
    )
    return path


def rows(order: np.ndarray) -> list[dict[str, object]]:
    return [
        {
            "picture": {f"p{i}": float(DIGITS.data[n, i]) for i in USED},
            "labels": {"digit": str(DIGITS.target[n])},
            "subject": f"pupil-{n}",
        }
        for n in order
    ]


def make_bundle(folder: Path) -> Bundle:
    """Export it, signed under a root of its own."""
    from homeroom_exporter.export.pipeline import export
    from homeroom_exporter.recipe.recipe import read_recipe

    root, key = new_key(), new_key()
    calibration = folder / "calibration.jsonl"
    calibration.write_text("".join(json.dumps(row) + "\n" for row in rows(np.arange(200))))
    made = export(
        read_recipe(write_recipe(folder)), calibration, folder / "bundle", key, certify(root, "exporter", key, "bench")
    )
    return open_bundle(made.path, root=None)


@dataclass(frozen=True)
class Data:
    """`devices`: one small training set each; `test`: pictures that no device has."""

    devices: list[Dataset]
    test: Dataset


def load(bundle: Bundle, graphs: Graphs, count: int, seed: int) -> Data:
    """The pictures of one seed, dealt to `count` devices."""
    order = np.random.default_rng(seed).permutation(len(DIGITS.target))
    stored = [resolve(Sample(**row), bundle.manifest) for row in rows(order)]  # type: ignore[arg-type]
    every = examples(None, bundle, graphs, stored)
    parts = np.array_split(np.arange(TEST, len(every)), count)
    devices = [Dataset(bundle.manifest, [every[n] for n in part]) for part in parts]
    return Data(devices, Dataset(bundle.manifest, every[:TEST]))


def accuracy(graphs: Graphs, test: Dataset, theta: np.ndarray) -> float:
    return float(evaluate(graphs, test, theta)["digit"].accuracy)


@lru_cache(maxsize=1)
def opened(path: Path) -> tuple[Bundle, Graphs]:
    """The bundle and its graphs, once a process."""
    bundle = open_bundle(path, root=None)
    return bundle, open_graphs(bundle)


def open_graphs(bundle: Bundle) -> Graphs:
    return Graphs(bundle, golden.choose_precision(bundle), threads=1)
