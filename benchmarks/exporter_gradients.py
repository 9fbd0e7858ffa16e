"""Section `gradients`: a device's gradients against torch's autograd, also with quantized weights.

Ladder steps of the short-answer and vocabulary recipes, and LoRA inside real MiniLM on real answers. The cosine is of
the factors' gradient: with the frozen weights in int8 or int4, against that with float32 ones.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter_clipping import NOISE, RECIPES, SHAPES, design_of, moved
from exporter_lora import THREADS, batches, feeds_of, graph_of, made
from exporter_section import Section, Target
from homeroom.runtime.backend import load
from homeroom_exporter.check.check import relative_error
from homeroom_exporter.export.steps import variants
from homeroom_exporter.model.design import initial_theta
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.reference import by_autograd
from homeroom_exporter.trace.trace import trace

PARITY = 1e-5
COSINES = {"int8": 0.999, "int4": 0.98}
SIZES = {"int8": 0.27, "int4": 0.22}  # of the float32 weights


def ladder(place: str, seeds: int, folder: Path) -> tuple[list[float], str]:
    """Relative errors of the longest variant's gradient; its batch and tokens."""
    design, batch = design_of(RECIPES / place)
    tokens = variants(design)[-1]
    path = folder / "grad.onnx"
    path.write_bytes(trace(design, "grad", batch, tokens).SerializeToString())
    run = load(path, threads=1)
    errors = []
    for seed in range(seeds):
        theta = moved(initial_theta(design.layout, seed), seed, NOISE["ladder"])
        feeds = example(design, "grad", batch, tokens, seed=seed)
        wanted = by_autograd(design, "grad", theta, feeds)["gradient"]
        errors.append(relative_error(run({"theta": theta, **feeds})["gradient"], wanted))
    return errors, f"{batch} x {tokens.get('text', 1)}"


def agreement(folder: Path, data: Path, seeds: int) -> dict[str, Any]:
    """By seed: error of the float32 graph, cosine of the factors' gradient with float32's by precision; and sizes."""
    design, inside = made(folder / "float32", "none")
    run = load(graph_of(design, inside, folder / "float32"), threads=THREADS)
    quantized = {name: made(folder / name, name)[1] for name in COSINES}
    found: dict[str, Any] = {"error": [], **{name: [] for name in COSINES}}
    found["sizes"] = {
        name: other.stored.stat().st_size / other.adapter.modality.float_bytes for name, other in quantized.items()
    }
    for seed in range(seeds):
        theta = moved(inside.adapter.initial(design.layout, initial_theta(design.layout, seed)), seed, NOISE["lora"])
        feeds = feeds_of(batches(data, inside, 1, seed))
        wanted = by_autograd(design, "grad", theta, feeds)["gradient"]
        found["error"].append(relative_error(run({"theta": theta, **feeds})["gradient"], wanted))
        inner = np.concatenate([wanted[s] for n, s in design.layout.slices.items() if n.startswith("lora.")])
        for name, small in quantized.items():
            adapter = replace(design.adapter, frozen=small.adapter.frozen)  # type: ignore[type-var]
            other = by_autograd(replace(design, adapter=adapter), "grad", theta, feeds)["gradient"]
            other = np.concatenate([other[s] for n, s in design.layout.slices.items() if n.startswith("lora.")])
            found[name].append(float(inner @ other / np.linalg.norm(inner) / np.linalg.norm(other)))
    return found


def run(quick: bool, data: Path) -> Section:
    seeds = 1 if quick else 3
    rows = [["step", "batch x tokens", "error against torch", "cosine with float32", "of its bytes"]]
    errors: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, place in SHAPES.items():
            errors[title], shape = ladder(place, seeds, folder)
            rows.append([f"ladder, {title}", shape, f"{max(errors[title]):.1e}", "-", "-"])
        near = agreement(folder, data, seeds)
    shape = "16 x 64"
    rows.append(["LoRA in MiniLM, float32", shape, f"{max(near['error']):.1e}", "1", "1"])
    for precision in COSINES:
        cosine, size = f"{min(near[precision]):.4f}", f"{near['sizes'][precision]:.3f}"
        rows.append([f"LoRA in MiniLM, {precision}", shape, "-", cosine, size])
    worst = max(error for found in errors.values() for error in found)
    return Section(
        title=f"gradients against torch's autograd, worst of {seeds} seeds",
        rows=rows,
        figures={"ladder": errors, "lora": near},
        targets=[
            Target("relative error of the ladder's gradient", worst, PARITY),
            Target("relative error of LoRA's float32 gradient", max(near["error"]), PARITY),
            *(
                Target(f"cosine of LoRA's {name} gradient with float32's", min(near[name]), least, at_least=True)
                for name, least in COSINES.items()
            ),
            *(
                Target(f"bytes of LoRA's {name} weights, of float32's", near["sizes"][name], most)
                for name, most in SIZES.items()
            ),
        ],
    )
