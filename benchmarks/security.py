"""Security: every attack that the tests try, what the attacker got, and what honest devices noticed.

    python benchmarks/security.py --json security.json

A row is an attack, run against the true processes: a test marked `attack(section, title)`, or several of one title. The
attacker got nothing where each of them passes and reports 0 (the fixture `attack`). Sections are those of
docs/threat-model.md. The JSON is written every few seconds and at any end: what did not end counts as a failure. How
often a removed check is noticed is measured by `benchmarks/mutations.py`; how honest devices fare beside a thousand
hostile ones, by `benchmarks/aggregator.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.verdict import finish, limited, target

ROOT = Path(__file__).resolve().parents[1]
LEAST_ATTACKS = 45
WRITE_INTERVAL_S = 5.0


@dataclass
class Row:
    """An attack: how often it was tried and withstood, what the attacker got in all, what was noticed, seconds."""

    section: str
    attack: str
    tried: int = 0
    withstood: int = 0
    got: int = 0
    noticed: str = ""
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return self.withstood == self.tried > 0 and self.got == 0


def run(tests: Sequence[str], workers: int) -> Iterator[Path]:
    """Runs the tests marked `attack`; yields the path of their report every few seconds, and at any end."""
    with tempfile.TemporaryDirectory(prefix="homeroom-security-") as folder:
        report = Path(folder) / "report.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "attack", "-n", str(workers), "--dist", "loadfile"]
        command += ["-p", "no:cacheprovider", "-p", "security_plugin", *tests]
        paths = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "SECURITY_REPORT": str(report)}
        with subprocess.Popen(command, cwd=ROOT, env=env, stdout=sys.stderr) as pytest:
            try:
                while pytest.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        pytest.wait(WRITE_INTERVAL_S)
                    yield report
            except (KeyboardInterrupt, GeneratorExit):
                pytest.terminate()
                raise
        yield report


def read(report: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a report, and how many tests there are; a last line that was cut short is left out."""
    lines = []
    for line in report.read_text("utf-8").splitlines() if report.exists() else ():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if "test" in line], sum(line.get("tests", 0) for line in lines)


def rows(lines: Sequence[dict[str, Any]]) -> list[Row]:
    """The attacks of a report, by section and title. A skipped test was not tried; one that did not end has failed."""
    tests: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        tests.setdefault(line["test"], []).append(line)
    found: dict[tuple[str, str], Row] = {}
    for phases in tests.values():
        properties = phases[-1]["properties"]
        if "attack" not in properties:
            continue
        key = (properties["section"], properties["attack"])
        row = found.setdefault(key, Row(*key))
        if any(phase["outcome"] == "skipped" for phase in phases):
            continue
        problems = [problem for phase in phases for problem in phase["problems"]]
        problems += [] if phases[-1]["phase"] == "teardown" else ["it did not end"]
        row.tried += 1
        row.withstood += not problems
        row.got += int(properties.get("got", 0))
        row.noticed = row.noticed or properties.get("noticed", "")
        row.seconds = round(row.seconds + sum(phase["seconds"] for phase in phases), 1)
        row.failures += [problem[:300] for problem in problems]
    return [found[key] for key in sorted(found)]


def document(report: Path, began: float) -> dict[str, Any]:
    """What the benchmark writes, of a report as far as it has come."""
    lines, tests = read(report)
    attacks, minutes = rows(lines), round((time.monotonic() - began) / 60, 1)
    ended = sum(line["phase"] == "teardown" for line in lines)
    checked = [limited("tests that ended", ended, max(tests, 1), at_least=True), *targets(attacks)]
    return {"attacks": [asdict(row) for row in attacks], "targets": checked, "minutes": minutes}


def shown(row: Row) -> str:
    """An attack on a line."""
    verdict = "held  " if row.held else "FAILED" if row.tried else "no run"
    noticed = f"; {row.noticed}" if row.noticed else ""
    return f"{verdict}  {row.attack}: tried {row.tried}, attacker got {row.got}{noticed} ({row.seconds:g} s)"


def targets(attacks: Sequence[Row]) -> list[dict[str, Any]]:
    """Enough attacks, and each withstood."""
    return [
        limited("attacks", len(attacks), LEAST_ATTACKS, at_least=True),
        *(target(f"{row.section}: {row.attack}", row.got, "0, each try withstood", row.held) for row in attacks),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workers", type=int, default=2, help="test files at a time")
    parser.add_argument("tests", nargs="*", default=["tests"], help="files or folders of tests")
    options = parser.parse_args()
    began, result = time.monotonic(), dict[str, Any]()
    try:
        for report in run(options.tests, options.workers):
            result = document(report, began)
            if options.json:
                options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    finally:
        show([Row(**row) for row in result.get("attacks", ())])
        finish(result or {"attacks": [], "targets": targets([]), "minutes": 0.0}, options.json)


def show(attacks: Sequence[Row]) -> None:
    """Prints the attacks by their sections."""
    section = ""
    for row in attacks:
        if row.section != section:
            section = row.section
            print(f"\n{section}")
        print("  " + shown(row))
    print()


if __name__ == "__main__":
    main()
