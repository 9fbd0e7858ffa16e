"""Spoken digits from raw sound: Homeroom against the head of Flower's Whisper example, the same encoder's weights."""

from __future__ import annotations

import sys
from typing import Any

from peers.process import HERE, Workers
from peers.verdict import limited

BOUND = 1 / 10  # of the peer's time


def run(workers: Workers) -> dict[str, Any]:
    """One run of each; the peer of a quick run has one epoch, and its time ratio says little."""
    from peers import digits_bundle

    bundle = digits_bundle.export(workers.data, workers.work / "bundle-digits")
    lesson = digits_bundle.lesson(workers.data, workers.work / "digits-speech", ("speech",))
    own = ["--bundle", str(bundle), "--work", str(workers.work / "device-speech"), "--lesson", str(lesson)]
    ours = workers.result(workers.homeroom, [str(HERE / "device_digits.py"), *own], "speech")
    epochs = "1" if workers.quick else "3"
    peer = ["-m", "peers.whisper_head", "--threads", str(workers.threads), "--epochs", epochs]
    theirs = workers.result(sys.executable, peer, "whisper")
    ratio = ours["seconds"] / theirs["seconds"]
    target = limited("seconds from raw sound to the score, of the Whisper example's in torch", ratio, BOUND)
    return {"homeroom": ours, "torch_whisper_head": theirs, "targets": [target]}


def show(document: dict[str, Any]) -> None:
    print(f"\n{'spoken digits, 280 clips to learn from, 80 to test':54}{'accuracy':>10}{'seconds':>10}{'peak MB':>10}")
    for name, key in (("homeroom, from raw sound", "homeroom"), ("torch, Flower's Whisper head", "torch_whisper_head")):
        row = document[key]
        print(f"{name:54}{row['accuracy']:10.3f}{row['seconds']:10.1f}{row['peak_rss_mb']:10.0f}")
    print()
