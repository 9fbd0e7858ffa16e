"""Section `lora`: LoRA inside MiniLM on real answers, one step and a hundred, against torch + PEFT."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporter_section import Section, Target
from homeroom.data.preprocess import prepare
from homeroom_exporter.encoders import minilm
from homeroom_exporter.export.design import design_of
from homeroom_exporter.export.steps import step_graphs
from homeroom_exporter.interchange import peft
from homeroom_exporter.model.design import Design, initial_theta
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.build import LoraEncoder
from homeroom_exporter.recipe.recipe import parse_recipe
from peers import data as answers

BATCH, TOKENS, STEPS, WINDOW, THREADS = 16, 64, 100, 10, 2
RECIPE = """\
name = "lora"
version = 1
batch = {batch}
[encoders.text]
source = "pip:minilm"
buckets = [{tokens}]
quantize = "{quantize}"
[adapter]
family = "lora"
rank = 8
federated = "both"
[slots]
answer = "text"
[tasks.grade]
kind = "classification"
reads = ["answer"]
labels = ["correct", "contradictory", "incorrect"]
"""


def made(folder: Path, quantize: str) -> tuple[Design, LoraEncoder]:
    folder.mkdir(exist_ok=True)
    plan = parse_recipe(RECIPE.format(batch=BATCH, tokens=TOKENS, quantize=quantize))
    assert plan.adapter
    inside = lora.build(plan.encoders[0], plan.adapter, folder, pairs=False, seed=0)
    return design_of(plan, {}, inside), inside


def graph_of(design: Design, inside: LoraEncoder, folder: Path, recompute: bool = False, role: str = "grad") -> Path:
    """The graph of a step, `grad` or `grad_clipped`, beside the frozen weights that it reads."""
    assert design.adapter
    design = replace(design, adapter=replace(design.adapter, recompute=recompute))
    graphs = step_graphs(design, folder, BATCH, clipped=role == "grad_clipped", inside=inside)
    (graph,) = (g for g in graphs if g.role == role)
    return graph.path.rename(folder / f"{role}.{recompute}.onnx")


def batches(data: Path, inside: LoraEncoder, count: int, seed: int) -> dict[str, np.ndarray]:
    """Reference and answer as one text: ids, mask [count, batch, tokens], one-hot target."""
    rows = answers.split(data, "beetle", seed).train
    ids = np.zeros((count, BATCH, TOKENS), np.int64)
    mask = np.zeros((count, BATCH, TOKENS), np.float32)
    target = np.zeros((count, BATCH, 3), np.float32)
    for step in range(count):
        for row in range(BATCH):
            one = rows[(step * BATCH + row) % len(rows)]
            text = f"{one.question} {one.reference} {one.answer}"
            said = prepare(inside.adapter.modality, text, inside.files.__getitem__).arrays["input_ids"]
            ids[step, row, : len(said)], mask[step, row, : len(said)] = said, 1.0
            target[step, row, answers.LABELS.index(one.label)] = 1.0
    return {"ids": ids, "mask": mask, "target": target}


def feeds_of(shown: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "answer.input_ids": shown["ids"][0][:, None],
        "answer.mask": shown["mask"][0][:, None],
        "presence": np.ones((BATCH, 1), np.float32),
        "grade.target": shown["target"][0],
        "weights": np.full((BATCH, 1), 1 / BATCH, np.float32),
    }


def start(folder: Path, data: Path, design: Design, inside: LoraEncoder) -> Path:
    """The model as transformers loads it with a PEFT checkpoint of the first factors in it, and the batches."""
    model = folder / "model"
    minilm.load_model().save_pretrained(model)
    adapter = inside.adapter
    (model / "start").mkdir()
    said = peft.settings(str(model), {f.path: (f.rank, f.alpha, f.scaling) for f in adapter.factors})
    (model / "start" / peft.CONFIG).write_text(json.dumps(said))
    tensors = {
        f"{peft.KEY_PREFIX}{path}{peft.SIDES[side]}": torch.from_numpy(value)
        for path, pair in adapter.first.items()
        for side, value in zip("AB", pair, strict=True)
    }
    import safetensors.torch

    safetensors.torch.save_file(tensors, model / "start" / peft.MODEL)
    theta = adapter.initial(design.layout, initial_theta(design.layout, 0))
    head = {}
    for segment, short in (("bridge.text", "bridge"), ("fusion", "fusion"), ("head.grade", "task")):
        at = design.layout.slices[segment].start
        for parameter in design.layout[segment].parameters:
            size = int(np.prod(parameter.shape))
            head[f"head/{short}.{parameter.name}"] = theta[at : at + size].reshape(parameter.shape)
            at += size
    np.savez(folder / "batches.npz", theta=theta, **head, **batches(data, inside, STEPS, 0))
    return model


def worker(method: str, model: Path, folder: Path, steps: int) -> dict[str, Any]:
    out = folder / "out.json"
    command = [sys.executable, "-m", "peers.lora_step", method, str(model), str(folder / "batches.npz"), str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    subprocess.run([*command, str(steps), str(THREADS)], check=True, env=environment)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def windows(losses: list[float]) -> np.ndarray:
    return np.array(losses[: len(losses) // WINDOW * WINDOW]).reshape(-1, WINDOW).mean(1)


def run(quick: bool, data: Path) -> Section:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        float_design, float_inside = made(folder / "float32", "none")
        design, inside = made(folder / "int8", "int8")
        model = start(folder, data, design, inside)
        graphs = {
            "int8": graph_of(design, inside, folder / "int8"),
            "int8, recomputing": graph_of(design, inside, folder / "int8", recompute=True),
            "float32": graph_of(float_design, float_inside, folder / "float32"),
        }
        # One after the other, round by round, so that what else the machine does falls on all alike.
        runs: dict[str, list[dict[str, Any]]] = {"torch + PEFT": [], **{name: [] for name in graphs}}
        timed, steps = (5, 20) if quick else (12, STEPS)
        for _ in range(2 if quick else 5):
            runs["torch + PEFT"].append(worker("torch", model, folder, timed))
            for name, graph in graphs.items():
                runs[name].append(worker("graph", graph, folder, timed))
        curves = {"torch + PEFT": worker("torch", model, folder, steps)["losses"]}
        for name in ("float32", "int8"):
            curves[name] = worker("graph", graphs[name], folder, steps)["losses"]
    return report(runs, curves)


def report(runs: dict[str, list[dict[str, Any]]], curves: dict[str, list[float]]) -> Section:
    ms = {name: statistics.median(t for one in found for t in one["ms"][2:]) for name, found in runs.items()}
    peak = {name: max(one["peak_mb"] for one in found) for name, found in runs.items()}
    processor = {name: statistics.median(one["processor_s"] / len(one["ms"]) for one in f) for name, f in runs.items()}
    torch_curve = windows(curves["torch + PEFT"])
    apart = {name: float((abs(windows(c) / torch_curve - 1)).max()) for name, c in curves.items()}
    rows = [["method", "ms a step", "of torch", "processor s", "peak MB", "of torch", "loss curve"]]
    for name in runs:
        rows.append(
            [
                name,
                f"{ms[name]:.0f}",
                f"{ms[name] / ms['torch + PEFT']:.2f}",
                f"{processor[name]:.2f}",
                f"{peak[name]:.0f}",
                f"{peak[name] / peak['torch + PEFT']:.2f}",
                f"{apart[name]:.2%}" if name in apart else "-",
            ]
        )
    base_ms, base_mb, again = ms["torch + PEFT"], peak["torch + PEFT"], "int8, recomputing"
    return Section(
        title=f"LoRA rank 8 (query, value) in MiniLM, {BATCH} x {TOKENS} tokens, {THREADS} threads, fresh processes",
        rows=rows,
        figures={"runs": runs, "curves": curves, "ms": ms, "peak_mb": peak, "apart": apart},
        targets=[
            Target("time of an int8 step, of torch + PEFT's", ms["int8"] / base_ms, 0.6),
            Target("peak memory, of torch + PEFT's", peak["int8"] / base_mb, 0.55),
            Target("time in recomputation mode", ms[again] / base_ms, 0.9),
            Target("peak memory in recomputation mode", peak[again] / base_mb, 0.4),
            Target(
                f"loss of {len(curves['int8'])} float32 steps, largest distance of {WINDOW} steps' mean",
                apart["float32"],
                0.01,
            ),
            Target(f"loss of {len(curves['int8'])} int8 steps, the same", apart["int8"], 0.01),
        ],
    )
