"""A device that learns knowledge tracing, in a process of its own without torch, as at a school.

python tracer.py BUNDLE TRAINING.jsonl TEST.jsonl SEED OUT.json
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from homeroom import Device
from homeroom.train.settings import advised
from peers.measure import peak_rss_mb


def main(bundle: str, training: str, test: str, seed: str, out: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Device.open(folder, bundle, threads=1) as device:
        device.add(training)
        settings = advised(device.bundle.manifest, seed=int(seed))
        began, processor = time.monotonic(), time.process_time()
        report = device.train(settings=settings)
        seconds, processor_s = time.monotonic() - began, time.process_time() - processor
        score = device.score(test)["next_answer"]
    found = {
        "auc": score.auc,
        "log_loss": score.log_loss,
        "interactions": score.n,
        "seconds": seconds,
        "processor_s": processor_s,
        "epochs": report.epochs,
        "epochs_of_refit": report.best_epoch + 1 if report.finished else 0,
        "peak_rss_mb": peak_rss_mb(),
        "torch": "torch" in sys.modules,
    }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
