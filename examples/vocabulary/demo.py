"""The main job, end to end: export the model, five schools without torch, a real aggregator, and an honest report.

Run from the repository's root: python -m examples.vocabulary.demo. HOMEROOM_DEVICE_PYTHON names the schools'
interpreter, one without torch; the present one is used if it is not set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console

from examples.vocabulary import report
from examples.vocabulary.lesson import ROUNDS, SchoolResult
from examples.vocabulary.school import Job
from examples.vocabulary.schools import SCHOOLS, Pair, School, exercises, has, write, write_all
from examples.vocabulary.splits import lesson_stamps
from examples.vocabulary.stamps import NoStampsError
from homeroom.errors import HomeroomError

ROOT = Path(__file__).parents[2]
RECIPE = Path(__file__).with_name("recipe.toml")
SEED = 0
CALIBRATION = School("calibration", "en", (), 0, 1.0)

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "demo-report.html", help="the report")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    try:
        pairs = lesson_stamps()
    except NoStampsError as problem:
        from examples.vocabulary import digits

        console.print(f"[yellow]The stamps cannot be had here ({problem}).[/]")
        console.print("[yellow]A reduced lesson takes their place: handwritten digits and their names, no sound.[/]")
        pairs = digits.pairs()
    try:
        with TemporaryDirectory(prefix="homeroom-demo-") as folder:
            teach(pairs, Path(folder), options.out, options.rounds)
    except HomeroomError as problem:
        raise SystemExit(f"demo: {problem}") from None


def teach(pairs: Sequence[Pair], folder: Path, out: Path, rounds: int) -> None:
    began = time.monotonic()
    clock = report.Clock()
    keys, bundle = folder / "keys", folder / "bundle"
    files = write_all(pairs, folder / "data", SEED)
    everything = folder / "data" / "everything.jsonl"
    everything.write_text("".join(files[school.name]["train"].read_text("utf-8") for school in SCHOOLS), "utf-8")

    homeroom("trust", "root", keys / "root.pem")
    homeroom("trust", "certify", "exporter", keys / "exporter.pem", "--root-key", keys / "root.pem", "--name", "Demo")
    with clock.stage("export"), console.status("Exporting the model"):
        calibration = calibrate(pairs, folder / "data")
        signed = ("--key", keys / "exporter.pem", "--certificate", keys / "exporter.json")
        said = homeroom("export", RECIPE, bundle, "--calibration", calibration, *signed)
    console.print(said.strip())

    with serving(folder / "district", bundle, keys / "root.pem") as (address, root):
        homeroom("invite", folder / "district", "--count", len(SCHOOLS), "--address", address, "--out", folder)
        jobs = [
            Job(
                name=school.name,
                folder=str(folder / "devices" / school.name),
                bundle=str(bundle),
                root=root,
                train=str(files[school.name]["train"]),
                test=str(files[school.name]["test"]),
                out=str(folder / f"{school.name}.json"),
                invitation=str(folder / f"invitation-{number}.json"),
                rounds=rounds,
            )
            for number, school in enumerate(SCHOOLS, 1)
        ]
        with clock.stage("five schools"), console.status(f"Five schools learn alone, then together, {rounds} rounds"):
            results = run_all(jobs, folder)
    homeroom("rebuild", folder / "district")  # every version again from the log, bit for bit
    pooled = Job(
        name="all data in one place",
        folder=str(folder / "devices" / "pooled"),
        bundle=str(bundle),
        root=root,
        train=str(everything),
        test=jobs[0].test,
        out=str(folder / "pooled.json"),
        others={job.name: job.test for job in jobs},
    )
    with clock.stage("all in one place"), console.status("All data in one place, to compare"):
        [central] = run_all([pooled], folder)
    lesson = report.Lesson(results, central, clock.seconds, time.monotonic() - began, len(pairs))
    console.print(report.as_table(lesson))
    pictures = {stamp.name: stamp.picture for stamp, _ in pairs}
    out.write_text(report.as_page(lesson, pictures), "utf-8")
    console.print(f"Report: {out}")


def calibrate(pairs: Sequence[Pair], folder: Path) -> Path:
    """Samples that the exporter fits its compression on: training stamps with all senses, in every language."""
    train = [pair for pair in pairs if pair[1].part == "train"]
    rows = []
    for language in ("en", "es", "fr"):
        senses = ("word", "picture") if language == "en" else ("word", "picture", "speech")
        school = replace(CALIBRATION, language=language, senses=senses)
        usable = [pair for pair in train if has(pair[0], school)]
        rows += exercises(school, usable[::3], SEED, repeats=1)
    return write(rows, folder / "calibration.jsonl")


def homeroom(*words: object) -> str:
    """Run the command line; its message is the demo's, should it fail."""
    command = [sys.executable, "-m", "homeroom", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"demo: homeroom {words[0]}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def serving(folder: Path, bundle: Path, root_key: Path) -> Iterator[tuple[str, str]]:
    """A real aggregator in its own process; (address, fingerprint of the root)."""
    command = [sys.executable, "-m", "homeroom", "serve", folder, "--bundle", bundle, "--root-key", root_key]
    process = subprocess.Popen(
        [*map(str, command), "--port", "0", "--buffer", str(len(SCHOOLS)), "--institution", "Demo district"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        root = process.stdout.readline().rpartition(" ")[2].strip()
        address = process.stdout.readline().rpartition(" ")[2].strip()
        if not address:
            raise SystemExit("demo: the aggregator did not start")
        yield address, root
    finally:
        process.terminate()
        process.wait(30)


def run_all(jobs: Sequence[Job], folder: Path) -> list[SchoolResult]:
    """Each job in its own process, at the same time; the first failure ends the demo."""
    python = os.environ.get("HOMEROOM_DEVICE_PYTHON", sys.executable)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOMEROOM_KEYS": str(folder / "keyring")}
    running = []
    for job in jobs:
        path = Path(job.out).with_suffix(".job")
        path.write_bytes(msgspec.json.encode(job))
        command = [python, "-m", "examples.vocabulary.school", str(path)]
        running.append((job, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)))
    for job, process in running:
        _, errors = process.communicate()
        if process.returncode:
            for _, other in running:
                other.kill()
            raise SystemExit(f"demo: {job.name} failed:\n{errors.strip()[-2000:]}")
    return [msgspec.json.decode(Path(job.out).read_bytes(), type=SchoolResult) for job in jobs]


if __name__ == "__main__":
    main()
