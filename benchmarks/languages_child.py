"""Worker of `languages.py`: reads texts with one encoder as a device does, in a process of its own; prints JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import msgspec

from homeroom.contract.manifest import Modality
from homeroom.data.preprocess import collate, prepare
from homeroom.runtime.backend import load
from peers.measure import peak_rss_mb

BATCH = 16


def main() -> None:
    job = json.load(sys.stdin)
    modality = msgspec.json.decode(job["modality"], type=Modality)
    texts = json.loads(Path(job["texts"]).read_text())
    tokenizer = Path(job["tokenizer"])
    graph = load(Path(job["graph"]), threads=1, lasting=True)
    ready = [prepare(modality, texts[0], lambda _: tokenizer)]
    graph(collate(modality, ready))
    started_s = time.process_time()  # of import, graph, tokenizer and the first text
    began = time.perf_counter(), time.process_time()
    ready = sorted((prepare(modality, text, lambda _: tokenizer) for text in texts), key=lambda one: one.tokens)
    tokens_s = time.process_time() - began[1]
    for start in range(0, len(ready), BATCH):
        graph(collate(modality, ready[start : start + BATCH]))
    found = {
        "seconds": time.perf_counter() - began[0],
        "cpu_s": time.process_time() - began[1],
        "tokens_s": tokens_s,
        "start_cpu_s": started_s,
        "peak_rss_mb": peak_rss_mb(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
