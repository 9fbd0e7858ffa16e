"""Security: every attack that the tests try, what the attacker got, and what honest devices noticed.

    python benchmarks/security.py --json security.json

A row is an attack, run against the true processes: a test marked `attack(section, title)`, or several of one title. The
attacker got nothing where each of them passes and reports 0 (the fixture `attack`). Sections are those of
docs/threat-model.md. How often a removed check is noticed is measured by `benchmarks/mutations.py`; how honest devices
fare beside a thousand hostile ones, by `benchmarks/aggregator.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.verdict import finish, limited, target

ROOT = Path(__file__).resolve().parents[1]
LEAST_ATTACKS = 45


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


def run(tests: Sequence[str], workers: int) -> Path:
    """Runs the tests marked `attack`; the path of their report as JUnit XML."""
    report = Path(tempfile.mkdtemp(prefix="homeroom-security-")) / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "attack", "-n", str(workers), "--dist", "loadfile"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=sys.stderr, check=False)
    return report


def rows(report: Path) -> list[Row]:
    """The attacks of a report, by section and title. A skipped test was not tried."""
    found: dict[tuple[str, str], Row] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        properties = {one.get("name", ""): one.get("value", "") for one in case.iter("property")}
        if "attack" not in properties:
            continue
        key = (properties["section"], properties["attack"])
        row = found.setdefault(key, Row(*key))
        if case.find("skipped") is not None:
            continue
        problems = [one.get("message", "") for kind in ("failure", "error") for one in case.iter(kind)]
        row.tried += 1
        row.withstood += not problems
        row.got += int(properties.get("got", "0"))
        row.noticed = row.noticed or properties.get("noticed", "")
        row.seconds = round(row.seconds + float(case.get("time", "0")), 1)
        row.failures += [problem[:300] for problem in problems]
    return [found[key] for key in sorted(found)]


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
    began = time.monotonic()
    attacks = rows(run(options.tests, options.workers))
    section = ""
    for row in attacks:
        if row.section != section:
            section = row.section
            print(f"\n{section}")
        print("  " + shown(row))
    print()
    minutes = round((time.monotonic() - began) / 60, 1)
    finish({"attacks": [asdict(row) for row in attacks], "targets": targets(attacks), "minutes": minutes}, options.json)


if __name__ == "__main__":
    main()
