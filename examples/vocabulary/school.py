"""One school's process: an ordinary device, run by an interpreter that has no torch.

It learns alone first, goes back to the bundle's theta, joins the aggregator and takes part in every round.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from examples.vocabulary.lesson import (
    ALONE,
    OWN,
    ROUNDS,
    Example,
    Round,
    SchoolResult,
    accuracies,
    mean,
    round_settings,
)
from homeroom import Device, Sample
from homeroom.data.ingest import read_samples
from homeroom.errors import NetworkError
from homeroom.federation.versions import newest_global, theta_of
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples

WAIT_S = 300.0
POLL_S = 0.3
SHOWN = 6
FORBIDDEN = ("torch", "transformers", "onnx")

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
    harder: str = ""  # the school's test with wrong options that are alike
    others: dict[str, str] = {}  # further tests by school, for the theta that was trained alone


def run(job: Job) -> SchoolResult:
    began = time.monotonic()
    with Device.open(job.folder, bundle=job.bundle, root=job.root, threads=1) as device:
        ids = device.add(Path(job.train), gates=False)  # chosen by hand, and the same in every setting
        test = dataset(device, job.test)

        def tested(theta: np.ndarray) -> dict[str, float]:
            return accuracies(evaluate(device.graphs, test, theta))

        def in_use() -> np.ndarray:
            return theta_of(device.store, device.bundle, device.store.versions.current())

        scores = evaluate(device.graphs, test, in_use())
        before, counts = accuracies(scores), {task: score.n for task, score in scores.items() if score.n}
        device.train(minutes=5, settings=ALONE)
        result = SchoolResult(name=job.name, samples=len(ids), tested=counts, before=before, alone=tested(in_use()))
        result.alone_minutes = (time.monotonic() - began) / 60
        for name, path in job.others.items():
            result.elsewhere[name] = accuracies(evaluate(device.graphs, dataset(device, path), in_use()))
        if job.invitation:
            started = time.monotonic()
            device.rollback()
            device.join(job.invitation)
            for number in range(job.rounds):
                take_part(device, job, number, result, tested)
            result.together_minutes = (time.monotonic() - started) / 60
            newest = theta_of(device.store, device.bundle, newest_global(device.store, device.bundle))
            if job.harder:
                result.harder = accuracies(evaluate(device.graphs, dataset(device, job.harder), newest))
            result.examples = shown(device, Path(job.test))
            result.own = own_epochs(device, result, tested)
    result.minutes = (time.monotonic() - began) / 60
    result.peak_mb = peak_mb()
    return result


def dataset(device: Device, path: str) -> Dataset:
    stored = list(read_samples(Path(path), device.bundle.manifest))
    return Dataset(device.bundle.manifest, examples(None, device.bundle, device.graphs, stored))


def take_part(device: Device, job: Job, number: int, result: SchoolResult, tested: Tested) -> None:
    """Train, send, and wait until the others' updates have made the next global theta."""
    device.train(minutes=5, settings=round_settings(number, job.rounds))
    address = json.loads(Path(job.invitation).read_text("utf-8"))["address"]
    deadline = time.monotonic() + WAIT_S
    while True:
        report = device.sync()
        result.sent_bytes += report.sent_bytes
        result.received_bytes += report.received_bytes
        if report.version is not None and report.version > number:
            break
        while httpx.get(f"{address}/v1/health").json()["version"] <= number:
            if time.monotonic() > deadline:
                raise NetworkError(f"no new theta within {WAIT_S:.0f} seconds", where=f"round {number + 1}")
            time.sleep(POLL_S)
    theta = theta_of(device.store, device.bundle, newest_global(device.store, device.bundle))
    result.rounds.append(Round(report.version, accuracies(report.global_scores), tested(theta)))


def own_epochs(device: Device, result: SchoolResult, tested: Tested) -> dict[str, float]:
    """Some epochs of the school's own after the rounds; what does better on its validation pupils counts."""
    together = theta_of(device.store, device.bundle, newest_global(device.store, device.bundle))
    report = device.train(minutes=5, settings=OWN)
    better = mean(accuracies(report.scores)) > mean(result.rounds[-1].validation)
    return tested(theta_of(device.store, device.bundle, device.store.versions.current()) if better else together)


def shown(device: Device, path: Path) -> list[Example]:
    """A few test samples with the answers of the newest global theta, for the report."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    chosen = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
    return [_example(device, row, path.parent) for row in chosen]


def _example(device: Device, row: dict[str, Any], folder: Path) -> Example:
    def here(name: str) -> Path:
        return folder / name

    sample: dict[str, Any] = {"subject": row["subject"]}
    if "picture" in row:
        sample["picture"] = here(row["picture"])  # the category from the picture alone
    else:
        sample |= {"word": row["word"], "speech": here(row["speech"])} if "speech" in row else {"word": row["word"]}
    said = device.predict(Sample(**sample))["category"]
    options, right, chosen = [], -1, -1
    if "pictures" in row:
        options = [str(here(name)) for name in row["pictures"]]
        asked = Sample(word=row["word"], pictures=[here(name) for name in row["pictures"]], subject=row["subject"])
        chosen, right = _index(device.predict(asked)["picture_of_word"].best), row["labels"]["picture_of_word"]
    elif "words" in row:
        options = row["words"]
        asked = Sample(speech=here(row["speech"]), words=row["words"], subject=row["subject"])
        chosen, right = _index(device.predict(asked)["word_of_speech"].best), row["labels"]["word_of_speech"]
    return Example(
        source=str(here(row["picture"])) if "picture" in row else "",
        word=row["word"],
        truth=row["labels"]["category"],
        answer=str(said.best),
        probability=round(max(said.probabilities.values(), default=0.0), 3),
        sure=said.sure,
        options=options,
        right=right,
        chosen=chosen,
    )


def _index(best: Any) -> int:
    return -1 if best is None else int(best)


def peak_mb() -> float:
    """Most memory that this process held, in MB; Linux and macOS."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    job = msgspec.convert(json.loads(Path(sys.argv[1]).read_text("utf-8")), Job)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    result = run(job)
    if loaded := [name for name in FORBIDDEN if name in sys.modules]:
        raise SystemExit(f"a school's process loaded {', '.join(loaded)}")
    Path(job.out).write_bytes(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
