"""Benchmark of the exporter: sizes, accuracy, speed, gradients, tiers, damaged checkpoints and more, a section each.

    python benchmarks/exporter.py --json exporter.json           every section (hours on two cores)
    python benchmarks/exporter.py --quick                        fewer seeds and samples: minutes
    python benchmarks/exporter.py --only sizes,speed             some sections

A section is a module `exporter_NAME.py` with `run(quick, data) -> Section`. Each runs in a process of its own, so that
one that fails, or is killed for its memory, costs its own targets only.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from exporter_section import NAMES, Section, data_folder
from peers.verdict import shown, target

HERE = Path(__file__).resolve().parent
LIMIT_S = 4 * 3600  # of one section


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write figures and targets here, after each section")
    parser.add_argument("--quick", action="store_true", help="minutes in place of hours; targets are then a hint only")
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the shared data sets")
    parser.add_argument("--only", help="sections, with commas between them")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, out = args.child
        made: Section = importlib.import_module(f"exporter_{name}").run(args.quick, args.data)
        Path(out).write_text(json.dumps(made.document()))
        return
    wanted = args.only.split(",") if args.only else [n for n in NAMES if importlib.util.find_spec(f"exporter_{n}")]
    if unknown := [name for name in wanted if importlib.util.find_spec(f"exporter_{name}") is None]:
        parser.error(f"no section is called {unknown[0]}")
    document: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "settings": {"quick": args.quick, "sections": wanted},
        "sections": {},
        "targets": [],
    }
    for name in wanted:
        section = measured(name, args)
        document["sections"][name] = section
        document["targets"] += [{**t, "name": f"{name}: {t['name']}"} for t in section["targets"]]
        show(name, section)
        if args.json:
            args.json.write_text(json.dumps(document, indent=1) + "\n")
    met = sum(one["met"] for one in document["targets"])
    print(f"\n{met} of {len(document['targets'])} targets met")


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One section in a process of its own; what went wrong is a figure too, and an unmet target."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "section.json"
        command = [sys.executable, __file__, "--data", str(args.data), "--child", name, str(out)]
        try:
            done = subprocess.run([*command, *(["--quick"] if args.quick else [])], cwd=HERE, timeout=LIMIT_S)
            problem = None if done.returncode == 0 else f"ended with code {done.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"took longer than {LIMIT_S // 3600} hours"
        if problem is None:
            return {**json.loads(out.read_text()), "seconds": time.monotonic() - started}
    failed = target("runs to its end", None, "true", met=False)
    return {"title": name, "rows": [], "figures": {}, "targets": [failed], "notes": [f"the section {problem}"]}


def show(name: str, section: dict[str, Any]) -> None:
    print(f"\n{name}: {section['title']}")
    widths = [max(len(cell) for cell in column) for column in zip(*section["rows"], strict=True)]
    for row in section["rows"]:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *others]))
    for note in section["notes"]:
        print(f"  {note}")
    for one in section["targets"]:
        print(f"  {shown(one)}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
