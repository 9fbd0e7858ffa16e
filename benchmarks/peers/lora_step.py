"""One process: steps of LoRA in MiniLM on batches from a file, by torch with PEFT or by an exported graph.

    python -m peers.lora_step torch MODEL BATCHES OUT     torch, transformers and peft alone are imported
    python -m peers.lora_step graph GRAPH BATCHES OUT     numpy, onnxruntime and homeroom's runtime and optimizer

Both start from the same values and learn with AdamW at the same rate. OUT gets losses, milliseconds, peak memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from peers import measure

RATE, DECAY = 1e-3, 0.0


def by_torch(model: Path, stored: dict[str, np.ndarray], threads: int) -> tuple[list[float], list[float]]:
    """PEFT's own LoRA on the model as transformers loads it, and the bundle's small head in plain torch."""
    import torch
    from peft import PeftModel
    from transformers import AutoModel

    torch.set_num_threads(threads)
    wrapped = PeftModel.from_pretrained(AutoModel.from_pretrained(model), model / "start", is_trainable=True)
    wrapped.eval()  # no dropout, as in the graph
    head = {k.removeprefix("head/"): torch.nn.Parameter(torch.from_numpy(v)) for k, v in stored.items() if "head/" in k}
    trained = [p for p in wrapped.parameters() if p.requires_grad] + list(head.values())
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)

    def rms(x: Any) -> Any:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)

    losses, taken = [], []
    for ids, mask, target in zip(stored["ids"], stored["mask"], stored["target"], strict=True):
        began = time.perf_counter()
        seen = torch.from_numpy(mask)
        states = wrapped(input_ids=torch.from_numpy(ids), attention_mask=seen.long()).last_hidden_state
        pooled = (states * seen.unsqueeze(-1)).sum(1) / seen.sum(1, keepdim=True)
        x = rms(pooled @ head["bridge.out.weight"] + head["bridge.out.bias"])
        inner = torch.relu(rms(x) @ head["fusion.up.weight"] + head["fusion.up.bias"])
        logits = (x + inner @ head["fusion.down.weight"]) @ head["task.weight"] + head["task.bias"]
        loss = -(torch.from_numpy(target) * torch.log_softmax(logits, -1)).sum() / len(ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        taken.append(1e3 * (time.perf_counter() - began))
    return losses, taken


def by_graph(graph: Path, stored: dict[str, np.ndarray], threads: int) -> tuple[list[float], list[float]]:
    from homeroom.runtime.backend import load
    from homeroom.train.optimizer import AdamW

    run = load(graph, threads=threads, lasting=True)
    theta = stored["theta"].copy()
    optimizer = AdamW(len(theta), DECAY)
    losses, taken = [], []
    for ids, mask, target in zip(stored["ids"], stored["mask"], stored["target"], strict=True):
        began = time.perf_counter()
        feeds = {
            "theta": theta,
            "answer.input_ids": ids[:, None],
            "answer.mask": mask[:, None],
            "presence": np.ones((len(ids), 1), np.float32),
            "grade.target": target,
            "weights": np.full((len(ids), 1), 1 / len(ids), np.float32),
        }
        made = run(feeds)
        optimizer.step(theta, made["gradient"], RATE)
        losses.append(float(made["losses"].sum()))
        taken.append(1e3 * (time.perf_counter() - began))
    return losses, taken


def main() -> None:
    method, model, batches, out, steps, threads = sys.argv[1:]
    with np.load(batches) as file:
        stored = {k: file[k] for k in file.files}
    for name in ("ids", "mask", "target"):
        stored[name] = stored[name][: int(steps)]
    run = by_torch if method == "torch" else by_graph
    processor = time.process_time()
    losses, taken = run(Path(model), stored, int(threads))
    Path(out).write_text(
        json.dumps(
            {
                "losses": losses,
                "ms": taken,
                "processor_s": time.process_time() - processor,
                "peak_mb": measure.peak_rss_mb(),
            }
        )
    )


if __name__ == "__main__":
    main()
