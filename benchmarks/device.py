"""One school, one machine: Homeroom against torch + PEFT's LoRA, and against torch training the same adapter.

    python benchmarks/device.py --json device.json              five seeds (LoRA three), Beetle and SciEntsBank
    python benchmarks/device.py --quick                         one seed, Beetle alone

1,500 training answers of each corpus, three labels, the official unseen-answers test. Every method and seed is a fresh
process; its seconds run from the start of the process to the evaluated model, imports and validation included. LoRA's
end with the epoch that validates best, Homeroom's and the same adapter's with the whole training. Exporting the bundle
is not counted: it happens once, elsewhere. Mean scores and median seconds over seeds; the interval is a paired
bootstrap over test answers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LORA_SEEDS = 3
WORKER_LIMIT_S = 3600


def device_python() -> str:
    """The interpreter of the environment without torch, as `make` builds it; else this one, with a warning."""
    named = os.environ.get("HOMEROOM_DEVICE_PYTHON") or str(ROOT / ".venv-device" / "bin" / "python")
    if Path(named).exists():
        return named
    print("no device environment (`make bench-device` makes it): this one, which has torch, stands in", file=sys.stderr)
    return sys.executable


def start(python: str, arguments: list[str], threads: int, keys: Path) -> None:
    """Run a worker to its end; its own words go to stderr."""
    environment = os.environ | {
        "PYTHONPATH": str(HERE),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HOMEROOM_KEYS": str(keys),
        "HOMEROOM_STARTED": repr(time.monotonic()),
    }
    done = subprocess.run([python, *arguments], env=environment, cwd=HERE, timeout=WORKER_LIMIT_S, stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"{' '.join(arguments[:2])} failed with code {done.returncode}")


def installed_mb(python: str, names: list[str]) -> float:
    done = subprocess.run([python, "-m", "peers.measure", *names], cwd=HERE, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["installed_mb"])


def run(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All processes, one after the other; the JSON document."""
    from peers import compare, data, prepare

    corpora = data.CORPORA[:1] if args.quick else data.CORPORA
    seeds = 1 if args.quick else args.seeds
    homeroom, keys = device_python(), work / "keys"
    keys.mkdir(exist_ok=True)
    model = prepare.minilm(work)
    bundles = {corpus: prepare.export(args.data, corpus, work / f"bundle-{corpus}") for corpus in corpora}
    installed = installed_mb(homeroom, ["homeroom"]), installed_mb(sys.executable, ["torch", "transformers", "peft"])
    # Nobody's first import should pay for a cold disk.
    start(sys.executable, ["-c", "import torch, transformers, peft"], args.threads, keys)
    start(homeroom, ["-c", "import homeroom, onnxruntime"], args.threads, keys)

    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {corpus: [] for corpus in corpora} for name in ("raw", "cached", "same", "lora")
    }
    for corpus in corpora:
        for seed in range(seeds):
            common = ["--data", str(args.data), "--corpus", corpus, "--seed", str(seed)]
            own = ["--bundle", str(bundles[corpus]), "--work", str(work / f"device-{corpus}-{seed}")]
            plan = [
                ("raw", homeroom, [str(HERE / "device_homeroom.py"), *common, *own]),
                ("cached", homeroom, [str(HERE / "device_homeroom.py"), *common, *own]),
                ("same", sys.executable, ["-m", "peers.torch_adapter", *common, *own, "--threads", str(args.threads)]),
            ]
            if seed < LORA_SEEDS:
                lora = ["-m", "peers.lora", *common, "--model", str(model), "--threads", str(args.threads)]
                plan.append(("lora", sys.executable, lora))
            for name, python, arguments in plan:
                out = work / f"{name}-{corpus}-{seed}.json"
                start(python, [*arguments, "--out", str(out)], args.threads, keys)
                result = json.loads(out.read_text())
                found[name][corpus].append(result)
                line = f"macro-F1 {result['macro_f1']:.3f}  {result['seconds']:7.1f} s  {result['peak_rss_mb']:6.0f} MB"
                print(f"{corpus:12} seed {seed}  {name:7} {line}", flush=True)

    document: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "settings": {"threads": args.threads, "train": data.TRAIN, "validation": data.VALIDATION, "seeds": seeds},
        "homeroom": {
            "from_raw_text": compare.summary(found["raw"]),
            "from_cached_features": compare.summary(found["cached"]),
            "installed_mb": installed[0],
        },
        "torch_peft_lora": {"corpora": compare.summary(found["lora"]), "installed_mb": installed[1]},
        "torch_same_adapter": {"corpora": compare.summary(found["same"])},
        "difference": {},
    }
    for corpus in corpora:
        truth = [a.label for a in data.split(args.data, corpus, 0).test]
        ours, theirs = found["raw"][corpus], found["lora"][corpus]
        document["difference"][corpus] = compare.bootstrap(truth, ours, theirs)
    document["ratio"] = compare.ratios(document)
    document["targets"] = compare.judged(document["ratio"])
    return document


def show(document: dict[str, Any]) -> None:
    from peers import compare

    rows = [
        ("homeroom, from raw text", document["homeroom"]["from_raw_text"]),
        ("homeroom, from its cache", document["homeroom"]["from_cached_features"]),
        ("torch, same adapter and cache", document["torch_same_adapter"]["corpora"]),
        ("torch + PEFT LoRA r=8", document["torch_peft_lora"]["corpora"]),
    ]
    print(f"\n{'':14}{'':32}{'macro-F1':>16}{'seconds':>10}{'peak MB':>10}")
    for corpus in document["difference"]:
        for name, summaries in rows:
            part = summaries[corpus]
            spread = f" ± {part['macro_f1_spread']:.3f}" if part["macro_f1_spread"] is not None else ""
            score = f"{part['macro_f1']:.3f}{spread}"
            print(f"{corpus:14}{name:32}{score:>16}{part['seconds']:10.1f}{part['peak_rss_mb']:10.0f}")
        low, high = document["difference"][corpus]
        print(
            f"{corpus:14}homeroom minus LoRA: {100 * low:+.1f} to {100 * high:+.1f} points (95 %, paired bootstrap)\n"
        )
    ours, theirs = document["homeroom"]["installed_mb"], document["torch_peft_lora"]["installed_mb"]
    print(f"installed: homeroom {ours:.0f} MB; torch, transformers and peft {theirs:.0f} MB")
    for target in document["targets"]:
        what, _ = compare.TARGETS[target["name"]]
        verdict = "met    " if target["met"] else "NOT MET"
        print(f"{verdict}  {what}: {target['value']:.3f} (at most {target['bound']:.3f})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="holds short_answers/")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--quick", action="store_true", help="one seed, Beetle alone")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--work", type=Path, help="keep bundles, caches and reports in this folder")
    args = parser.parse_args()
    args.data = args.data.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        work = (args.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        try:
            document = run(args, work)
        except (OSError, ValueError) as problem:
            print(f"cannot run: {problem}; --data names the folder that holds short_answers/", file=sys.stderr)
            return 2
    show(document)
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return int(args.check and not all(t["met"] for t in document["targets"]))


if __name__ == "__main__":
    sys.exit(main())
