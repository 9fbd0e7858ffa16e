"""Benchmark of the SDK inside an app: threads, cancelling, a second process, inputs in memory, and the public names.

    python benchmarks/apps.py --json apps.json           exports MiniLM for short answers first: some minutes
    python benchmarks/apps.py --quick                    on the tests' tiny bundle: a minute; throughput is a hint only

Beetle's short answers (Dzikovska et al. 2013, CC BY-SA 3.0). A device predicts from eight threads while another thread
trains and a third adds, and each answer is compared, bit for bit, with that of one thread alone. Throughput is measured
on two cores with nothing else running in the device, one thread and eight in turns. The second process opens the same
directory with `Device.read` while the first trains. Names are those of `homeroom`; their examples (docs/api.md) run as
tests and are type-checked as an app would be, strictly.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peers.verdict import finish, limited, target

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / ".." / "shared" / "data"
THREADS, REPEATS = 8, 5
LEAST_SPEEDUP, LONGEST_CANCEL_S = 1.5, 1.0
API_TESTS = ("tests/sdk/device/test_api_page.py", "tests/aggregator/server/test_api_page.py")
SECOND_PROCESS = """
import json, sys, time
from dataclasses import asdict
from homeroom import Device, Sample
asked = json.loads(sys.stdin.readline())
with Device.read(sys.argv[1], threads=1) as reader:
    began = time.monotonic()
    answers = [reader.predict(Sample(**row)) for row in asked]
    seconds = time.monotonic() - began
print(json.dumps({"answers": [{task: asdict(one) for task, one in each.items()} for each in answers], "s": seconds}))
"""


def lesson(work: Path, data: Path, quick: bool) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    """The bundle, labelled rows to learn from, and rows to ask."""
    if quick:
        sys.path.insert(0, str(ROOT / "tests"))
        import tiny

        rows = [{k: v for k, v in row.items() if k != "pictures"} for row in tiny.samples(60, 0)]
        for row in rows:
            row["labels"].pop("which_picture", None)
        asked = [{k: row[k] for k in ("word", "answer", "reference")} for row in tiny.samples(40, 1)]
        return tiny.bundle().path, rows, asked
    from peers import data as answers
    from peers import prepare

    training, test = answers.read(data, "beetle")
    rows = [
        {"reference": a.reference, "answer": a.answer, "labels": {"grade": a.label}, "subject": f"p-{n % 40}"}
        for n, a in enumerate(training[:: max(1, len(training) // 400)][:400])
    ]
    asked = [{"reference": a.reference, "answer": a.answer} for a in test[:: max(1, len(test) // 60)][:60]]
    return prepare.export(data, "beetle", work / "bundle"), rows, asked


def busy(device: Any, asked: Sequence[Any], more: Sequence[Any], expected: list[Any]) -> dict[str, Any]:
    """Eight threads ask while one trains and one adds; how many answers differ, and when the two ended."""
    from homeroom import Settings

    started, cancel = threading.Event(), threading.Event()
    endless = Settings(epochs=100_000, patience=100_000)
    with ThreadPoolExecutor(THREADS + 2) as pool:
        training = pool.submit(
            device.train, minutes=30, settings=endless, cancel=cancel, progress=lambda stage, *_: started.set()
        )
        started.wait(300)
        adding = pool.submit(device.add, *more)
        answers = list(pool.map(device.predict, [*asked] * 2))
        meanwhile = not training.done() and not adding.done()
        cancel.set()
        training.result(60)
        added = len(adding.result(60))
    differing = sum(answer != wanted for answer, wanted in zip(answers, expected * 2, strict=True))
    return {"answers": len(answers), "differing": differing, "while_both_ran": meanwhile, "added": added}


def throughput(predict: Callable[[Any], Any], asked: Sequence[Any]) -> dict[str, Any]:
    """Answers a second of one thread and of eight, in turns; the median of the ratios of each turn."""
    one, many = list[float](), list[float]()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(predict, asked))
        for _ in range(REPEATS):
            began = time.monotonic()
            for sample in asked:
                predict(sample)
            one.append(len(asked) / (time.monotonic() - began))
            began = time.monotonic()
            list(pool.map(predict, asked))
            many.append(len(asked) / (time.monotonic() - began))
    ratios = [eight / single for eight, single in zip(many, one, strict=True)]
    return {"one_a_second": one, "eight_a_second": many, "ratio": statistics.median(ratios), "ratios": ratios}


def cancelling(device: Any) -> tuple[list[float], list[float]]:
    """Seconds from the token to the end of `train`, after some steps, and those of the processor."""
    from homeroom import Settings

    took, busy_s = list[float](), list[float]()
    for steps in (1, 40, 200):
        cancel, ready, seen = threading.Event(), threading.Event(), [0]

        def count(stage: str, *_: int, seen: list[int] = seen, ready: Any = ready, steps: int = steps) -> None:
            seen[0] += stage == "training"
            if seen[0] >= steps:
                ready.set()

        with ThreadPoolExecutor(1) as pool:
            settings = Settings(epochs=100_000, patience=100_000)
            training = pool.submit(device.train, minutes=30, settings=settings, cancel=cancel, progress=count)
            ready.wait(300)
            began, began_cpu = time.monotonic(), time.process_time()
            cancel.set()
            training.result(300)
            took.append(time.monotonic() - began)
            busy_s.append(time.process_time() - began_cpu)
    return took, busy_s


def second_process(device: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A second process asks while this one trains; whether it trained to the end, and how many answers differ."""
    from homeroom import Sample, Settings

    expected = [device.predict(Sample(**row)) for row in rows]
    started, cancel = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        settings = Settings(epochs=100_000, patience=100_000)
        training = pool.submit(
            device.train, minutes=30, settings=settings, cancel=cancel, progress=lambda *_: started.set()
        )
        started.wait(300)
        command = [sys.executable, "-c", SECOND_PROCESS, str(device.directory)]
        done = subprocess.run(command, input=json.dumps(rows), capture_output=True, text=True, check=True, timeout=300)
        meanwhile = not training.done()
        cancel.set()
        training.result(60)
    said = json.loads(done.stdout)
    wanted = [{task: dict(one.probabilities) for task, one in each.items()} for each in expected]
    given = [{task: one["probabilities"] for task, one in each.items()} for each in said["answers"]]
    differing = sum(a != b for a, b in zip(wanted, given, strict=True))
    return {"answers": len(given), "differing": differing, "while_it_trained": meanwhile, "seconds": said["s"]}


def names() -> dict[str, Any]:
    """The public names: whether the tests of docs/api.md pass, and what mypy says of its examples."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / p) for p in ("sdk", "exporter", "aggregator")),
    }
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *API_TESTS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    sys.path.insert(0, str(ROOT / "tests"))
    import api_page

    import homeroom

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "examples.py"
        script.write_text("\n".join(code for codes in api_page.examples().values() for code in codes))
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", folder, str(script)]
        typed = subprocess.run(
            command, cwd=folder, env={**environment, "MYPYPATH": str(ROOT / "sdk")}, capture_output=True, text=True
        )
    return {
        "names": len(homeroom.__all__),
        "tests_pass": tests.returncode == 0,
        "tests": tests.stdout.splitlines()[-1:],
        "typed": typed.returncode == 0,
        "mypy": typed.stdout.splitlines()[-1:],
    }


def judged(document: dict[str, Any], quick: bool) -> list[dict[str, Any]]:
    """The targets."""
    threads, other, speed = document["threads"], document["second_process"], document["throughput"]["ratio"]
    public = document["public"]
    hint = " (a hint)" if quick else ""
    return [
        target(
            f"answers of {THREADS} threads that differ, while one trains and one adds",
            threads["differing"],
            "0",
            threads["differing"] == 0 and threads["while_both_ran"],
        ),
        limited(f"throughput of {THREADS} threads over one's{hint}", speed, LEAST_SPEEDUP, at_least=True),
        limited("seconds until a cancelled training ends, the longest", max(document["cancel_s"]), LONGEST_CANCEL_S),
        target(
            "answers of a second process that differ, while the first trains",
            other["differing"],
            "0",
            other["differing"] == 0 and other["while_it_trained"],
        ),
        target(
            "public names: each documented, and shown by an example that runs",
            public["tests"],
            "the tests of docs/api.md pass",
            public["tests_pass"],
        ),
        target("public names: their examples are typed, strictly", public["mypy"], "no error", public["typed"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, help="where the bundle is kept for the next run")
    options = parser.parse_args()
    began, cores = time.monotonic(), sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
    if cores:
        os.sched_setaffinity(0, cores)
    with tempfile.TemporaryDirectory(prefix="homeroom-apps-") as scratch:
        os.environ["HOMEROOM_KEYS"] = str(Path(scratch) / "keys")
        from homeroom import Device, Sample, Settings

        bundle, rows, asked_rows = lesson(options.work or Path(scratch), options.data, options.quick)
        samples, asked = [Sample(**row) for row in rows], [Sample(**row) for row in asked_rows]
        with Device.open(Path(scratch) / "device", bundle, threads=1) as device:
            device.add(*samples[:-20], gates=False)
            device.train(settings=Settings(epochs=2))
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            speed = throughput(device.predict, asked)
            expected = [device.predict(sample) for sample in asked]
            threads = busy(device, asked, samples[-20:], expected)
            cancel_s, cancel_cpu_s = cancelling(device)
            document = {
                "settings": {"threads": THREADS, "repeats": REPEATS, "quick": options.quick, "cores": len(cores)},
                "load_before": load,
                "throughput": speed,
                "threads": threads,
                "cancel_s": cancel_s,
                "cancel_cpu_s": cancel_cpu_s,
                "second_process": second_process(device, asked_rows),
            }
    document["public"] = names()
    document["targets"] = judged(document, options.quick)
    document["minutes"] = round((time.monotonic() - began) / 60, 2)
    finish(document, options.json)


if __name__ == "__main__":
    main()
