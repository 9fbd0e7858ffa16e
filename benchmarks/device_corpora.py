"""Short answers: Homeroom against torch + PEFT's LoRA, and against torch training the same adapter.

1,500 training answers of each corpus, three labels, the official unseen-answers test. Seconds run from the start of the
process to the evaluated model, imports and validation included. LoRA's end with the epoch that validates best,
Homeroom's and the same adapter's with the whole training. Exporting the bundle is not counted: it happens once,
elsewhere. Mean scores and median seconds over seeds; the interval is a paired bootstrap over test answers.
"""

from __future__ import annotations

import sys
from typing import Any

from peers.process import HERE, Workers, installed_mb

LORA_SEEDS = 3


def run(workers: Workers) -> dict[str, Any]:
    """All processes, one after the other; the part's figures and `targets`."""
    from peers import compare, data, prepare

    corpora = data.CORPORA[:1] if workers.quick else data.CORPORA
    model = prepare.minilm(workers.work)
    bundles = {corpus: prepare.export(workers.data, corpus, workers.work / f"bundle-{corpus}") for corpus in corpora}
    installed = (
        installed_mb(workers.homeroom, ["homeroom"]),
        installed_mb(sys.executable, ["torch", "transformers", "peft"]),
    )
    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        name: {corpus: [] for corpus in corpora} for name in ("raw", "cached", "same", "lora")
    }
    threads = ["--threads", str(workers.threads)]
    for corpus in corpora:
        for seed in range(workers.seeds):
            common = ["--corpus", corpus, "--seed", str(seed)]
            own = ["--bundle", str(bundles[corpus]), "--work", str(workers.work / f"device-{corpus}-{seed}")]
            ours = [str(HERE / "device_homeroom.py"), *common, *own]
            plan = [
                ("raw", workers.homeroom, ours),
                ("cached", workers.homeroom, ours),
                ("same", sys.executable, ["-m", "peers.torch_adapter", *common, *own, *threads]),
            ]
            if seed < LORA_SEEDS:
                plan.append(("lora", sys.executable, ["-m", "peers.lora", *common, "--model", str(model), *threads]))
            for name, python, arguments in plan:
                result = workers.result(python, arguments, f"{name}-{corpus}-{seed}")
                found[name][corpus].append(result)
                line = f"macro-F1 {result['macro_f1']:.3f}  {result['seconds']:7.1f} s  {result['peak_rss_mb']:6.0f} MB"
                print(f"{corpus:12} seed {seed}  {name:7} {line}", flush=True)

    document: dict[str, Any] = {
        "settings": {"train": data.TRAIN, "validation": data.VALIDATION, "seeds": workers.seeds},
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
        truth = [a.label for a in data.split(workers.data, corpus, 0).test]
        document["difference"][corpus] = compare.bootstrap(truth, found["raw"][corpus], found["lora"][corpus])
    document["ratio"] = compare.ratios(document)
    document["targets"] = compare.judged(document["ratio"])
    return document


def show(document: dict[str, Any]) -> None:
    rows = [
        ("homeroom, from raw text", document["homeroom"]["from_raw_text"]),
        ("homeroom, from its cache", document["homeroom"]["from_cached_features"]),
        ("torch, same adapter and cache", document["torch_same_adapter"]["corpora"]),
        ("torch + PEFT LoRA r=8", document["torch_peft_lora"]["corpora"]),
    ]
    print(f"\n{'':14}{'':32}{'macro-F1':>16}{'seconds':>10}{'CPU s':>8}{'ms/step':>9}{'peak MB':>10}")
    for corpus in document["difference"]:
        for name, summaries in rows:
            part = summaries[corpus]
            spread = f" ± {part['macro_f1_spread']:.3f}" if part["macro_f1_spread"] is not None else ""
            score = f"{part['macro_f1']:.3f}{spread}"
            step = f"{1000 * part['step_s']:.1f}" if part["step_s"] else ""
            numbers = f"{part['seconds']:10.1f}{part['cpu_s']:8.0f}{step:>9}{part['peak_rss_mb']:10.0f}"
            print(f"{corpus:14}{name:32}{score:>16}{numbers}")
        low, high = document["difference"][corpus]
        print(
            f"{corpus:14}homeroom minus LoRA: {100 * low:+.1f} to {100 * high:+.1f} points (95 %, paired bootstrap)\n"
        )
    ours, theirs = document["homeroom"]["installed_mb"], document["torch_peft_lora"]["installed_mb"]
    print(f"installed: homeroom {ours:.0f} MB; torch, transformers and peft {theirs:.0f} MB")
