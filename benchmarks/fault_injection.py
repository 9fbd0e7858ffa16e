"""Fault injection: how often each fault was tried, and how often it was survived.

    python benchmarks/fault_injection.py --json faults.json          200 kills, a thousand syncs (about half an hour)
    python benchmarks/fault_injection.py --quick                     a few of each (a few minutes)

Survived means: nothing accepted is lost, nothing is counted or sent twice, and damage, refusals and impossible requests
are reported in one sentence. A trial is a check that can fail; its first failure is shown. Seeds are in the code, so
that a failure can be repeated. Trials that a system does not offer (strace, mounting as a user) are reported as left
out. Needs the tests' folder, whose recorders, proxies and tiny bundle it uses. Runs to its end whatever fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import faults_device
import faults_network
import faults_store
from peers.verdict import target

Trial = tuple[int, Callable[[], object]]  # how many tries it stands for; raises where one was not survived

FAULTS: dict[str, tuple[str, Callable[[Path, bool], Iterator[Trial]]]] = {
    **faults_store.FAULTS,
    **faults_device.FAULTS,
    **faults_network.FAULTS,
}


@dataclass
class Row:
    """One fault: tries, how many were survived, seconds in all, and the first failure or why it was left out."""

    fault: str
    promise: str
    tried: int = 0
    survived: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    left_out: str = ""


def measure(name: str, quick: bool) -> Row:
    """Try one fault in a folder of its own until its trials end."""
    promise, trials = FAULTS[name]
    row, began = Row(name, promise), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="homeroom-faults-") as folder, environment(Path(folder)):
        try:
            for weight, trial in trials(Path(folder), quick):
                row.tried += weight
                try:
                    with contextlib.redirect_stdout(sys.stderr):
                        trial()
                except Exception as problem:
                    row.failures.append(f"{type(problem).__name__}: {problem}"[:500])
                else:
                    row.survived += weight
        except faults_store.LeftOutError as reason:
            row.left_out = str(reason)
    row.seconds = round(time.monotonic() - began, 1)
    return row


@contextlib.contextmanager
def environment(folder: Path) -> Iterator[None]:
    """Keys of its own, one thread a process."""
    before = dict(os.environ)
    os.environ |= {"HOMEROOM_KEYS": str(folder / "keys"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    (folder / "keys").mkdir()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def shown(row: Row) -> str:
    state = (
        f"left out: {row.left_out}" if row.left_out else f"{row.survived:5d} of {row.tried:5d}  {row.seconds:7.1f} s"
    )
    return f"{row.fault:58} {state}" + (f"\n    {row.failures[0]}" if row.failures else "")


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every fault was tried, and each try survived."""
    found = []
    for row in rows:
        share, name = 100 * row.survived / max(1, row.tried), f"{row.fault}: survived, percent of {row.tried}"
        found.append(target(name, share, "= 100", share == 100))
    kills = sum(row.tried for row in rows if row.fault.startswith("kill -9"))
    return [*found, target("seeded kill -9", kills, ">= 200", kills >= 200)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", metavar="WORD", default="", help="only faults whose name holds this word")
    parser.add_argument("--quick", action="store_true", help="a few tries of each; targets are then a hint only")
    options = parser.parse_args()
    began, rows = time.monotonic(), []
    for name in (name for name in FAULTS if options.only in name):
        rows.append(measure(name, options.quick))
        print(shown(rows[-1]), flush=True)
    document = {
        "settings": {"quick": options.quick, "only": options.only},
        "faults": [asdict(row) for row in rows],
        "targets": targets(rows),
        "minutes": round((time.monotonic() - began) / 60, 2),
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    met = sum(one["met"] for one in document["targets"])
    print(f"{met} of {len(document['targets'])} targets met; {document['minutes']} minutes")


if __name__ == "__main__":
    main()
