"""The main job, end to end: export the model, five schools without torch, a real aggregator, and an honest report.

Run from the repository's root: python -m examples.vocabulary.demo. --device-python or HOMEROOM_DEVICE_PYTHON names the
schools' interpreter, one without torch; the present one is used if neither is given.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console
from rich.text import Text

from examples.vocabulary import digits, report
from examples.vocabulary.bundle import DIGITS, LANGUAGES, calibrate
from examples.vocabulary.harder import length_alone, sounding_seconds, write_harder
from examples.vocabulary.lesson import DEMO_ROUNDS, SchoolResult
from examples.vocabulary.page import as_page
from examples.vocabulary.school import Job
from examples.vocabulary.schools import SCHOOLS, Pair, School, write_all
from examples.vocabulary.splits import lesson_stamps
from examples.vocabulary.stamps import NoStampsError
from homeroom import Device
from homeroom.contract.signing import fingerprint, public_hex, read_key
from homeroom.errors import HomeroomError

ROOT = Path(__file__).parents[2]
LEAST_IN_SUM = 3  # schools

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "demo-report.html", help="the report")
    parser.add_argument("--rounds", type=int, default=DEMO_ROUNDS)
    parser.add_argument("--seed", type=int, default=0, help="how the stamps are dealt to the schools")
    parser.add_argument("--reduced", action="store_true", help="the lesson for machines without Debian's stamps")
    parser.add_argument("--device-python", default=os.environ.get("HOMEROOM_DEVICE_PYTHON", sys.executable))
    parser.add_argument("--bundle", type=Path, help="use this bundle in place of a new export; with --root-key")
    parser.add_argument("--root-key", type=Path)
    options = parser.parse_args()
    try:
        lesson = choose(options.reduced)
        with TemporaryDirectory(prefix="homeroom-demo-") as folder:
            teach(lesson, Path(folder), options)
    except HomeroomError as problem:
        raise SystemExit(f"demo: {problem}") from None


@dataclass(frozen=True)
class Lesson:
    """What is taught to whom. `note`: what the reader must know of a reduced lesson."""

    pairs: Sequence[Pair]
    schools: Sequence[School]
    recipe: Path
    note: str = ""


def choose(reduced: bool) -> Lesson:
    """The stamps, or the digits where they cannot be had or were asked for."""
    why = "as asked"
    if not reduced:
        try:
            return Lesson(lesson_stamps(), SCHOOLS, LANGUAGES)
        except NoStampsError as problem:
            why = f"the stamps cannot be had here: {problem}"
    note = f"Reduced lesson ({why}): handwritten digits and their names, no sound. Its figures are not the lesson's."
    console.print(f"[yellow]{note}[/]")
    return Lesson(digits.pairs(), digits.schools(), DIGITS, note)


def teach(lesson: Lesson, folder: Path, options: argparse.Namespace) -> None:
    began, clock, out, rounds = time.monotonic(), report.Clock(), options.out, options.rounds
    keys, bundle = folder / "keys", options.bundle or folder / "bundle"
    os.environ["HOMEROOM_KEYS"] = str(folder / "keys of devices")  # outside the devices' directories
    root_key = options.root_key or keys / "root.pem"
    with clock.stage("samples"), console.status("Dealing the stamps to five schools"):
        files = write_all(lesson.pairs, folder / "data", options.seed, lesson.schools)
        harder = write_harder(lesson.pairs, folder / "data", lesson.schools)
    if not options.bundle:
        with clock.stage("export"), console.status("Exporting the model"):
            keys.mkdir(mode=0o700)
            homeroom("trust", "root", root_key)
            certify = ("trust", "certify", "exporter", keys / "exporter.pem", "--root-key", root_key, "--name", "Demo")
            homeroom(*certify)
            calibration = calibrate(lesson.pairs, folder / "calibration")
            signed = ("--key", keys / "exporter.pem", "--certificate", keys / "exporter.json")
            said = homeroom("bundle", "export", lesson.recipe, bundle, "--calibration", calibration, *signed)
        console.print(Text(said.strip()))

    root = fingerprint(public_hex(read_key(root_key)))
    devices = {school.name: folder / "devices" / school.name for school in lesson.schools}
    district = folder / "district"
    with clock.stage("joining"), console.status("Five schools join a district of secure rounds"):
        roster, port = enrol(district, list(devices.values()), bundle, root_key)
    with serving(district, "--roster", roster, "--port", port):
        jobs = [
            Job(
                name=school.name,
                folder=str(devices[school.name]),
                bundle=str(bundle),
                root=root,
                train=str(files[school.name]["train"]),
                test=str(files[school.name]["test"]),
                out=str(folder / f"{school.name}.json"),
                rounds=rounds,
                harder=str(harder[school.name]) if harder[school.name].stat().st_size else "",
            )
            for school in lesson.schools
        ]
        with clock.stage("five schools"), console.status(f"Five schools learn alone, then together, {rounds} rounds"):
            results = run_all(jobs, folder, options.device_python)
    homeroom("district", "rebuild", district)  # every version again from the log, bit for bit
    pooled = Job(
        name="all data in one place",
        folder=str(folder / "devices" / "pooled"),
        bundle=str(bundle),
        root=root,
        train=str(files["everything"]["train"]),
        test=jobs[0].test,
        out=str(folder / "pooled.json"),
        others={job.name: job.test for job in jobs},
    )
    with clock.stage("all in one place"), console.status("All data in one place, to compare"):
        [central] = run_all([pooled], folder, options.device_python)
    shown = report.Shown(
        schools=results,
        facts={school.name: school for school in lesson.schools},
        central=central,
        stages=clock.seconds,
        seconds=time.monotonic() - began,
        stamps=len(lesson.pairs),
        note=lesson.note,
    )
    console.print(report.as_table(shown))
    lengths = [length_alone(files[name]["train"], path, sounding_seconds) for name, path in harder.items()]
    told = (shown.losses(), shown.parts(), report.harder_line(results, [n for n in lengths if n is not None]))
    for line in filter(None, (*told, shown.unreached())):
        console.print(line)
    out.write_text(as_page(shown), "utf-8")
    stages = ", ".join(f"{name} {seconds / 60:.1f}" for name, seconds in clock.seconds.items())
    console.print(f"Minutes: {stages}; in all {shown.seconds / 60:.1f}")
    console.print(f"Report: {out}")


def homeroom(*words: object) -> str:
    """Run the command line; its message is the demo's, should it fail."""
    command = [sys.executable, "-m", "homeroom", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"demo: homeroom {words[0]}: {done.stderr.strip()}")
    return done.stdout


def enrol(district: Path, devices: Sequence[Path], bundle: Path, root_key: Path) -> tuple[Path, int]:
    """The roster and the port of a new district of secure rounds, which these devices join; any three make a sum."""
    folder, root = district.parent, fingerprint(public_hex(read_key(root_key)))
    new = ("--bundle", bundle, "--root-key", root_key, "--institution", "Demo district", "--port", 0)
    secure = ("--secure", "--cohort", len(devices), "--min-devices", LEAST_IN_SUM, "--statistics", "secure")
    with serving(district, *new, *secure) as address:
        homeroom("district", "invite", district, "--count", len(devices), "--address", address, "--out", folder)
        for number, device in enumerate(devices, 1):
            with Device.open(device, bundle=bundle, root=root) as opened:
                opened.join(folder / f"invitation-{number}.json")
    signer, roster = folder / "signer.pem", folder / "roster.json"
    homeroom("trust", "certify", "roster", signer, "--root-key", root_key, "--name", "Demo district")
    homeroom("trust", "roster", roster, "--key", signer, "--members", district, "--minimum", LEAST_IN_SUM)
    return roster, int(address.rpartition(":")[2])


@contextmanager
def serving(district: Path, *words: object) -> Iterator[str]:
    """A real aggregator in its own process; its address."""
    command = [sys.executable, "-m", "homeroom", "district", "serve", district, *words]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # the root
        address = process.stdout.readline().rpartition(" ")[2].strip()
        if not address:
            raise SystemExit("demo: the aggregator did not start")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def run_all(jobs: Sequence[Job], folder: Path, python: str) -> list[SchoolResult]:
    """Each job in its own process, at the same time; the first failure ends the demo."""
    running: list[tuple[Job, subprocess.Popen[bytes], Path]] = []
    try:
        for job in jobs:
            path, errors = Path(job.out).with_suffix(".job"), Path(job.out).with_suffix(".errors")
            path.write_bytes(msgspec.json.encode(job))
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            with errors.open("wb") as file:
                command = [python, "-m", "examples.vocabulary.school", str(path)]
                running.append((job, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file), errors))
        while any(process.poll() is None for _, process, _ in running):
            _raise_failed(running)
            time.sleep(0.2)
        _raise_failed(running)
    finally:
        for _, process, _ in running:
            process.kill()
            process.wait()
    return [msgspec.json.decode(Path(job.out).read_bytes(), type=SchoolResult) for job in jobs]


def _raise_failed(running: Sequence[tuple[Job, subprocess.Popen[bytes], Path]]) -> None:
    for job, process, errors in running:
        if process.poll():
            raise SystemExit(f"demo: {job.name} failed:\n{errors.read_text('utf-8', 'replace').strip()[-2000:]}")


if __name__ == "__main__":
    main()
