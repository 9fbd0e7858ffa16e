"""Section `tracing`: knowledge tracing on a device without torch, against logistic regression and a DKT in torch.

pyBKT's own generator (`pyBKT.generate.synthetic_data`, from its wheel, whose hash is pinned) draws the interactions
with the parameters below, mixed over as many skills as a pupil practises at a time. The ceiling is the expectation of
the model that drew them (Corbett and Anderson 1994, equations 1 to 5).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporter_section import Section, Target
from homeroom.contract.signing import certify, new_key
from homeroom.data.tasks.metrics import auc
from homeroom_exporter.encoders.packages import Package, importable
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.recipe.recipe import parse_recipe
from peers import dkt

PYBKT = Package(
    name="pyBKT",
    version="1.4.3",
    file="pybkt-1.4.3-py3-none-any.whl",
    sha256="846fae72ec13a3a8f6f030cbaa8ccdf4203cc5d0189df6442c63fc1a3718aee2",
    subject="pyBKT (code)",
    licence="MIT",
    licence_text="whisper-mit.txt",
    origin="CAHLR/pyBKT",
)
SKILLS = (  # known before, learned at a step, guessed, slipped; nothing is forgotten
    *((0.26, 0.07, 0.23, 0.06), (0.37, 0.12, 0.11, 0.13), (0.12, 0.13, 0.11, 0.06), (0.31, 0.21, 0.12, 0.08)),
    *((0.41, 0.24, 0.22, 0.11), (0.59, 0.05, 0.27, 0.09), (0.17, 0.06, 0.16, 0.17), (0.19, 0.16, 0.23, 0.11)),
    *((0.37, 0.05, 0.11, 0.08), (0.44, 0.13, 0.16, 0.14), (0.33, 0.10, 0.26, 0.15), (0.22, 0.16, 0.21, 0.18)),
    *((0.46, 0.10, 0.30, 0.07), (0.31, 0.20, 0.13, 0.12), (0.12, 0.18, 0.25, 0.14), (0.54, 0.11, 0.24, 0.14)),
    *((0.39, 0.14, 0.27, 0.19), (0.34, 0.18, 0.11, 0.16), (0.42, 0.25, 0.26, 0.09), (0.29, 0.18, 0.10, 0.12)),
)
PRACTISED = 8  # skills of one pupil
EACH = (5, 12)  # interactions of one pupil with one skill, from and to
PUPILS, TESTED, SEEDS = 1600, 500, 3
TIMED_EPOCHS = 2  # of the DKT, each with its validation as the device's
QUICK = (200, 100, 1)
RECIPE = """\
name = "practice"
version = 1
saliency = false
[encoders.sequence]
source = "interactions"
skills = {skills}
buckets = [64, 80, 100]
[slots]
history = "sequence"
[tasks.next_answer]
kind = "tracing"
reads = ["history"]
[training]
learning_rate = 1e-2
epochs = 25
"""

History = list[tuple[int, bool]]


def draw(pupils: int, seed: int) -> list[History]:
    """Histories of (skill, right), each pupil's skills mixed at random, each skill's answers in the order drawn."""
    rng = np.random.default_rng(seed)
    practised = [rng.permutation(len(SKILLS))[:PRACTISED] for _ in range(pupils)]
    lengths = {(p, int(s)): int(rng.integers(EACH[0], EACH[1] + 1)) for p, few in enumerate(practised) for s in few}
    answers: dict[tuple[int, int], list[bool]] = {}
    with importable(PYBKT):
        from pyBKT.generate.synthetic_data import synthetic_data
    np.random.seed(seed)  # pyBKT draws from numpy's global generator
    for skill, (prior, learn, guess, slip) in enumerate(SKILLS):
        here = [key for key in lengths if key[1] == skill]
        model = {"prior": prior, **{name: np.array([value]) for name, value in (("learns", learn), ("forgets", 0.0))}}
        model |= {"guesses": np.array([guess]), "slips": np.array([slip])}
        counts = np.array([lengths[key] for key in here])
        drawn = synthetic_data(model, counts)["data"][0] == 2
        for key, part in zip(here, np.split(drawn, np.cumsum(counts)[:-1]), strict=True):
            answers[key] = part.tolist()
    found: list[History] = []
    for p, few in enumerate(practised):
        order = rng.permutation(np.repeat(few, [lengths[p, int(s)] for s in few]))
        left = {int(s): iter(answers[p, int(s)]) for s in few}
        found.append([(int(s), next(left[int(s)])) for s in order])
    return found


def ceiling(histories: Sequence[History]) -> tuple[np.ndarray, np.ndarray]:
    """Truth, and the chance that the drawing model itself gave each answer, knowing those before."""
    truth, chances = [], []
    for steps in histories:
        known = {skill: SKILLS[skill][0] for skill, _ in steps}
        for skill, right in steps:
            _, learn, guess, slip = SKILLS[skill]
            p = known[skill]
            chance = p * (1 - slip) + (1 - p) * guess
            truth.append(right)
            chances.append(chance)
            p = p * (1 - slip) / chance if right else p * slip / (1 - chance)
            known[skill] = p + (1 - p) * learn
    return np.array(truth), np.array(chances)


def logistic(train: Sequence[History], test: Sequence[History], *, logs: bool) -> float:
    """AUC of a logistic-regression tracer: PFA (Pavlik et al. 2009), or with `logs` Best-LR (Gervet et al. 2020).

    PFA: a weight a skill, and one each for its right and wrong answers so far. Best-LR: these counts as log(1 + n), and
    those over all skills beside them.
    """
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    def table(histories: Sequence[History]) -> tuple[Any, np.ndarray]:
        rows, columns, values, truth = [], [], [], []
        for steps in histories:
            right, wrong = np.zeros(len(SKILLS)), np.zeros(len(SKILLS))
            for skill, correct in steps:
                counts = [1.0, right[skill], wrong[skill], *([right.sum(), wrong.sum()] if logs else [])]
                places = [skill, len(SKILLS) + skill, 2 * len(SKILLS) + skill, 3 * len(SKILLS), 3 * len(SKILLS) + 1]
                rows += [len(truth)] * len(counts)
                columns += places[: len(counts)]
                values += [1.0, *(np.log1p(counts[1:]) if logs else counts[1:])]
                truth.append(correct)
                (right if correct else wrong)[skill] += 1
        return csr_matrix((values, (rows, columns)), (len(truth), 3 * len(SKILLS) + 2)), np.array(truth)

    model = LogisticRegression(max_iter=1000).fit(*table(train))
    features, truth = table(test)
    return auc(truth, model.decision_function(features)) or 0.0


def write(path: Path, histories: Sequence[History]) -> Path:
    lines = [
        {"history": [(f"skill {skill}", right) for skill, right in steps], "subject": f"{path.stem} {i}"}
        for i, steps in enumerate(histories)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def on_device(folder: Path, bundle: Path, train: Path, test: Path, seed: int) -> dict[str, Any]:
    out = folder / f"device {seed}.json"
    command = [sys.executable, "-m", "peers.tracer", *map(str, (bundle, train, test, seed, out))]
    subprocess.run(command, check=True, cwd=Path(__file__).parent, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def run(quick: bool, data: Path) -> Section:
    import torch

    torch.set_num_threads(1)
    pupils, tested, seeds = QUICK if quick else (PUPILS, TESTED, SEEDS)
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = json.dumps([f"skill {i}" for i in range(len(SKILLS))])
        root, key = new_key(), new_key()
        made = export(
            parse_recipe(RECIPE.format(skills=names)),
            write(folder / "calibration.jsonl", draw(50, 1000)),
            folder / "bundle",
            key,
            certify(root, "exporter", key, "benchmark"),
            threads=1,
        )
        size = made.manifest.layout.size
        hidden = dkt.hidden_of(len(SKILLS), size)
        for seed in range(seeds):
            train, test = draw(pupils, seed), draw(tested, 100 + seed)
            files = write(folder / "train.jsonl", train), write(folder / "test.jsonl", test)
            device = on_device(folder, made.path, *files, seed)
            if device["torch"]:
                raise RuntimeError("the device loaded torch")
            began = time.monotonic()
            held = len(train) // 5
            model = dkt.train(train[held:], train[:held], len(SKILLS), hidden, seed, 5 if quick else dkt.EPOCHS)
            seconds = time.monotonic() - began
            processor = time.process_time()
            dkt.train(train[held:], train[:held], len(SKILLS), hidden, seed, TIMED_EPOCHS)
            epoch_s = (time.process_time() - processor) / TIMED_EPOCHS
            runs.append(
                {
                    "device": device["auc"],
                    "DKT": auc(*dkt.predicted(model, test, len(SKILLS))) or 0.0,
                    "PFA": logistic(train, test, logs=False),
                    "Best-LR": logistic(train, test, logs=True),
                    "ceiling": auc(*ceiling(test)) or 0.0,
                    "device seconds": device["seconds"],
                    "DKT seconds": seconds,
                    "device epoch s": device["processor_s"] / (device["epochs"] + device["epochs_of_refit"]),
                    "device training s": device["processor_s"],
                    "DKT epoch s": epoch_s,
                    "device MB": device["peak_rss_mb"],
                    "interactions": device["interactions"],
                }
            )
    middle = {name: statistics.median(one[name] for one in runs) for name in runs[0]}
    sizes = {"device": size, "DKT": dkt.parameters(len(SKILLS), hidden), "PFA": 3 * len(SKILLS) + 1}
    sizes |= {"Best-LR": 3 * len(SKILLS) + 3, "ceiling": 4 * len(SKILLS)}
    titles = {"device": "Homeroom's device", "DKT": "DKT, torch", "ceiling": "the model that drew them"}
    rows = [["tracer", "parameters", "AUC", "lowest", "highest", "train s"]]
    for name in ("device", "DKT", "PFA", "Best-LR", "ceiling"):
        values = [one[name] for one in runs]
        took = middle.get(f"{name} seconds")
        spread = [f"{value:.4f}" for value in (middle[name], min(values), max(values))]
        rows.append([titles.get(name, name), f"{sizes[name]:,}", *spread, "" if took is None else f"{took:.1f}"])
    linear = min(one["device"] - max(one["PFA"], one["Best-LR"]) for one in runs)
    return Section(
        title="knowledge tracing on histories that pyBKT drew",
        rows=rows,
        figures={"runs": runs, "medians": middle, "sizes": sizes, "worst lead over logistic regression": linear},
        targets=[
            Target(
                "AUC, minus that of the better logistic-regression tracer",
                statistics.median(one["device"] - max(one["PFA"], one["Best-LR"]) for one in runs),
                0.0,
                at_least=True,
            ),
            Target(
                "AUC, minus that of a DKT of the same size in torch",
                statistics.median(one["device"] - one["DKT"] for one in runs),
                -0.01,
                at_least=True,
            ),
            Target(
                "processor time of an epoch, over that of a DKT of the same size in torch",
                statistics.median(one["device epoch s"] / one["DKT epoch s"] for one in runs),
                0.7,
            ),
        ],
        notes=[
            f"an epoch: {middle['device epoch s']:.2f} s of processor time, the DKT's {middle['DKT epoch s']:.2f} s, "
            f"each with its validation; a training of the device, both fits: {middle['device training s']:.1f} s",
            f"{pupils} pupils to learn from, {tested} others asked, {len(SKILLS)} skills; {seeds} seeds, medians",
            f"the device ran without torch, at most {middle['device MB']:.0f} MB; all with one thread",
        ],
    )
