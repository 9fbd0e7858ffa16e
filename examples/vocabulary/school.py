"""One school's process: an ordinary device, run by an interpreter that has no torch.

It learns alone first, goes back to the bundle's theta, joins the aggregator and takes part in every round.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from examples.vocabulary.lesson import ALONE, OWN, ROUNDS, Round, SchoolResult, round_settings
from homeroom import Device
from homeroom.collect import examples
from homeroom.dataset import Dataset
from homeroom.errors import NetworkError
from homeroom.ingest import read_samples
from homeroom.ingest.jsonl import read_jsonl
from homeroom.lineage import newest_global, theta_of
from homeroom.training import Score, evaluate

WAIT_S = 300.0
SHOWN = 6

Tested = Callable[[np.ndarray], dict[str, float]]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo asks of the process; `invitation` empty: all data in one place, no federation."""

    name: str
    folder: str
    bundle: str
    root: str
    train: str
    test: str
    out: str
    invitation: str = ""
    rounds: int = ROUNDS
    others: dict[str, str] = {}  # further tests by school, for the theta that was trained alone


def accuracies(scores: Mapping[str, Score]) -> dict[str, float]:
    return {task: score.accuracy for task, score in scores.items() if score.n}


def run(job: Job) -> SchoolResult:
    began = time.monotonic()
    with Device.open(job.folder, bundle=job.bundle, root=job.root, threads=1) as device:
        ids = device.add(Path(job.train))
        test = dataset(device, job.test)

        def tested(theta: np.ndarray) -> dict[str, float]:
            return accuracies(evaluate(device.graphs, test, theta))

        def in_use() -> np.ndarray:
            return theta_of(device.store, device.bundle, device.store.current())

        before = tested(in_use())
        device.train(minutes=5, settings=ALONE)
        result = SchoolResult(name=job.name, samples=len(ids), tested=len(test), before=before, alone=tested(in_use()))
        for name, path in job.others.items():
            result.elsewhere[name] = accuracies(evaluate(device.graphs, dataset(device, path), in_use()))
        if job.invitation:
            device.rollback()
            device.join(job.invitation)
            for number in range(job.rounds):
                take_part(device, number, job.rounds, result, tested)
            device.train(minutes=5, settings=OWN)
            result.own = tested(in_use())
        result.examples = shown(device, Path(job.test))
    result.minutes = (time.monotonic() - began) / 60
    result.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def dataset(device: Device, path: str) -> Dataset:
    stored = list(read_samples(Path(path), device.bundle.manifest))
    return Dataset(device.bundle.manifest, examples(None, device.bundle, device.graphs, stored))


def take_part(device: Device, number: int, rounds: int, result: SchoolResult, tested: Tested) -> None:
    """Train, send, and wait until the others' updates have made the next global theta."""
    device.train(minutes=5, settings=round_settings(number, rounds))
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        report = device.sync()
        result.sent_bytes += report.sent_bytes
        result.received_bytes += report.received_bytes
        if report.version is not None and report.version > number:
            break
        time.sleep(0.2)
    else:
        raise NetworkError(f"no new theta within {WAIT_S:.0f} seconds", where=f"round {number + 1}")
    theta = theta_of(device.store, device.bundle, newest_global(device.store, device.bundle))
    result.rounds.append(Round(report.version, accuracies(report.global_scores), tested(theta)))


def shown(device: Device, path: Path) -> list[dict[str, str | float | bool]]:
    """A few test samples with the answer to their category, for the report."""
    samples = list(read_jsonl(path))
    chosen = samples[:: max(1, len(samples) // SHOWN)][:SHOWN]
    found: list[dict[str, str | float | bool]] = []
    for sample, answers in zip(chosen, device.predict_many(chosen), strict=True):
        said = answers["category"]
        found.append(
            {
                "source": sample.source or "",
                "truth": str(sample.labels["category"]),
                "answer": str(said.best),
                "probability": round(max(said.probabilities.values()), 3),
                "sure": said.sure,
            }
        )
    return found


def main() -> None:
    job = msgspec.convert(json.loads(Path(sys.argv[1]).read_text("utf-8")), Job)
    if any(name in sys.modules for name in ("torch", "transformers", "onnx")):
        raise SystemExit("a school must not need torch")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    Path(job.out).write_bytes(msgspec.json.encode(run(job)))


if __name__ == "__main__":
    main()
