"""Benchmark of one device: Homeroom against torch, and its memory, time and disk.

    python benchmarks/device.py --json device.json              every part (an hour and a half on two cores)
    python benchmarks/device.py --quick                         one seed, Beetle alone, no speech in torch: minutes
    python benchmarks/device.py --only corpora,footprint        some parts

Each part is a module `device_PART.py`: *corpora*, short answers against torch + PEFT's LoRA and torch training the same
adapter; *speech*, spoken digits against the head of Flower's Whisper example; *footprint*, costs of three modalities, a
cold start, a step and fifty thousand samples. Every method and seed is a fresh process, timed from its start, imports
included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers import process, verdict

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("corpora", "speech", "footprint")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the shared data sets")
    parser.add_argument("--json", type=Path, help="write every figure here, after each part")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--quick", action="store_true", help="one seed, Beetle alone; minutes")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--work", type=Path, help="keep bundles, caches and reports in this folder")
    args = parser.parse_args()
    if unknown := [part for part in args.only.split(",") if part not in PARTS]:
        parser.error(f"no part is called {unknown[0]}")
    document: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "settings": {"threads": args.threads, "quick": args.quick},
        "targets": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        work = (args.work or Path(scratch)).resolve()
        (work / "keys").mkdir(parents=True, exist_ok=True)
        workers = process.Workers(
            args.data.resolve(),
            work,
            process.device_python(),
            args.threads,
            args.quick,
            1 if args.quick else args.seeds,
        )
        # Nobody's first import should pay for a cold disk.
        workers.start(sys.executable, ["-c", "import torch, transformers, peft"])
        workers.start(workers.homeroom, ["-c", "import homeroom, onnxruntime"])
        for part in args.only.split(","):
            module = importlib.import_module(f"device_{part}")
            try:
                found = module.run(workers)
            except (OSError, ValueError) as problem:
                print(f"cannot run: {problem}; --data names the folder of the shared data sets", file=sys.stderr)
                return 2
            targets = found.pop("targets")
            document[part] = found
            document["targets"] += targets
            module.show(found)
            for one in targets:
                print(verdict.shown(one))
            if args.json:
                args.json.write_text(json.dumps(document, indent=1) + "\n")
    return int(args.check and not all(t["met"] for t in document["targets"]))


if __name__ == "__main__":
    sys.exit(main())
