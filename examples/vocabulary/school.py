"""One school's process: an ordinary device, run by an interpreter that has no torch.

It learns alone first, goes back to the bundle's theta, and takes part in every round of the district that it joined. It
is tested as it answers: by theta, and by heads solved from its own sums and, once they reached it, the other schools'.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from examples.vocabulary.lesson import (
    ALONE,
    OWN,
    Accuracies,
    Example,
    Round,
    SchoolResult,
    accuracies,
    mean,
    round_settings,
)
from homeroom import Device, Sample
from homeroom.data.ingest import read_samples
from homeroom.data.samples import StoredSample
from homeroom.device.model_in_use import model_in_use
from homeroom.device.solved import HeadsInUse
from homeroom.errors import NetworkError
from homeroom.federation.statistics import others_total
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.solve.evaluate import evaluate_both, trained_scores

WAIT_S = 300.0
POLL_S = 0.3
SHOWN = 6
FORBIDDEN = ("torch", "transformers", "onnx")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo asks of the process; no `rounds`: all data in one place, no federation."""

    name: str
    folder: str
    bundle: str
    root: str
    train: str
    test: str
    out: str
    rounds: int = 0
    harder: str = ""  # the school's test with wrong options that are alike
    others: dict[str, str] = {}  # further tests by school, for the theta that was trained alone


@dataclass(frozen=True)
class HeldOut:
    """A test whose features are computed once."""

    device: Device
    samples: Sequence[StoredSample]
    dataset: Dataset

    def now(self) -> Accuracies:
        """How often the device is right as it would answer at this moment."""
        device = self.device
        model = model_in_use(device.store, device.graphs, HeadsInUse())
        part = model.part(self.samples, self.dataset.examples)
        scores = evaluate_both(device.graphs, self.dataset, model.theta, part, model.temperatures)
        parts = {task: score.parts for task, score in scores.items() if score.parts is not msgspec.UNSET}
        solved = {task: one["solved"] for task, one in parts.items()}
        trained = {task: parts[task]["theta"] if task in parts else score for task, score in scores.items()}
        return Accuracies(accuracies(scores), accuracies(trained), accuracies(solved))


def read_test(device: Device, path: str) -> HeldOut:
    stored, manifest = list(read_samples(Path(path), device.bundle.manifest)), device.bundle.manifest
    return HeldOut(device, stored, Dataset(manifest, examples(None, device.bundle, device.graphs, stored)))


def run(job: Job) -> SchoolResult:
    began = time.monotonic()
    with Device.open(job.folder, bundle=job.bundle, root=job.root, threads=1) as device:
        ids = device.add(Path(job.train), gates=False)  # chosen by hand, and the same in every setting
        test = read_test(device, job.test)
        before, tasks = test.now(), device.bundle.manifest.tasks
        labelled = zip(tasks, test.dataset.labelled.T, strict=True)
        counts = {task.name: int((column > 0).sum()) for task, column in labelled if (column > 0).any()}
        device.train(minutes=5, settings=ALONE)
        result = SchoolResult(name=job.name, samples=len(ids), tested=counts, before=before, alone=test.now())
        result.alone_minutes = (time.monotonic() - began) / 60
        for name, path in job.others.items():
            result.elsewhere[name] = read_test(device, path).now()
        if job.rounds:
            started = time.monotonic()
            device.rollback()
            for number in range(job.rounds):
                take_part(device, job, number, result, test)
            result.together_minutes = (time.monotonic() - started) / 60
            result.released = bool(others_total(device.store, device.bundle).cells)
            if job.harder:
                result.harder = read_test(device, job.harder).now().answers
            result.examples = shown(device, Path(job.test))
            result.own = own_epochs(device, result, test)
    result.minutes = (time.monotonic() - began) / 60
    result.peak_mb = peak_mb()
    return result


def take_part(device: Device, job: Job, number: int, result: SchoolResult, test: HeldOut) -> None:
    """Train, and sync until the sum of all updates has made the next global theta."""
    device.train(minutes=5, settings=round_settings(number, job.rounds))
    deadline, validation = time.monotonic() + WAIT_S, dict[str, float]()
    while True:
        report = device.sync()
        result.sent_bytes += report.sent_bytes
        result.received_bytes += report.received_bytes
        validation = accuracies(report.global_scores) or validation
        if report.version is not None and report.version > number:
            break
        if time.monotonic() > deadline:
            raise NetworkError(f"no new theta within {WAIT_S:.0f} seconds", where=f"round {number + 1}")
        time.sleep(POLL_S)
    result.rounds.append(Round(report.version, validation, test.now()))


def own_epochs(device: Device, result: SchoolResult, test: HeldOut) -> Accuracies:
    """Some epochs of the school's own after the rounds; what does better on its validation pupils counts."""
    together, report = result.rounds[-1], device.train(minutes=5, settings=OWN)
    better = mean(accuracies(trained_scores(report.scores))) > mean(together.validation)
    return test.now() if better else together.test


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
