"""Section `clipping`: per-subject clipped gradients by the exported graph, against torch.func; time beside `grad`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from exporter_lora import BATCH, TOKENS, batches, feeds_of, graph_of, made
from exporter_section import Section, Target
from homeroom.runtime.backend import LoadedGraph, load
from homeroom_exporter.export.design import draft
from homeroom_exporter.export.steps import variants
from homeroom_exporter.model.design import Design, initial_theta, name_parts, unflatten
from homeroom_exporter.model.forward import lora_rows, objective
from homeroom_exporter.recipe.recipe import read_recipe
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.trace import trace

RECIPES = Path(__file__).resolve().parents[1] / "examples"
SHAPES = {"short answers": "recipes/short_answers.toml", "vocabulary": "vocabulary/recipe.toml"}
MINILM = "LoRA in MiniLM"
ROLES = ("grad", "grad_clipped")
PARITY = 1e-4
NOISE = {"ladder": 0.05, "lora": 0.02}  # theta away from its start, where half the gradient is zero
RUNS = 15


def design_of(path: Path) -> tuple[Design, int]:
    """A recipe's design without its backbones, which the step does not hold, and its batch."""
    recipe = read_recipe(path)
    modalities = tuple(
        msgspec.structs.replace(
            modality,
            features_id=f"{i:064x}",
            taps=tuple(str(tap) for tap in range(3 if modality.name == "text" else 1)),
        )
        for i, modality in enumerate(draft(recipe).modalities)
    )
    scales = {m.name: np.full((len(m.taps), m.dim), 1 / 32, np.float32) for m in modalities}
    return Design(
        modalities, scales, recipe.slots, recipe.tasks, recipe.heads, recipe.width, recipe.hidden
    ), recipe.batch


@dataclass(frozen=True)
class Step:
    """`grad` and `grad_clipped` of one design, as graphs; `theta` and `feeds` are those of a seed."""

    design: Design
    shape: str
    graphs: dict[str, LoadedGraph]
    theta: Callable[[int], np.ndarray]
    feeds: Callable[[int], dict[str, np.ndarray]]


def ladder(place: str, folder: Path) -> Step:
    design, batch = design_of(RECIPES / place)
    tokens = variants(design)[-1]
    graphs = {}
    for role in ROLES:
        path = folder / f"{role}.onnx"
        path.write_bytes(trace(design, role, batch, tokens).SerializeToString())
        graphs[role] = load(path, threads=1)
    feeds = partial(_feeds, design, batch, tokens)
    return Step(design, f"{batch} x {tokens.get('text', 1)}", graphs, partial(initial_theta, design.layout), feeds)


def inside_minilm(folder: Path, data: Path) -> Step:
    """LoRA rank 8, both factors, in MiniLM with float32 weights, on real answers."""
    design, inside = made(folder / "minilm", "none")
    graphs = {role: load(graph_of(design, inside, folder / "minilm", role=role), threads=1) for role in ROLES}

    def feeds(seed: int) -> dict[str, np.ndarray]:
        return _feeds(design, BATCH, {"text": TOKENS}, seed) | feeds_of(batches(data, inside, 1, seed))

    def theta(seed: int) -> np.ndarray:
        return inside.adapter.initial(design.layout, initial_theta(design.layout, seed))

    return Step(design, f"{BATCH} x {TOKENS}", graphs, theta, feeds)


def moved(theta: np.ndarray, seed: int, noise: float) -> np.ndarray:
    draw = np.random.default_rng(seed).standard_normal(theta.size).astype(np.float32)
    return theta + draw * np.float32(noise)


def _feeds(design: Design, batch: int, tokens: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    return example(design, "grad_clipped", batch, tokens, seed=seed)


def by_torch_func(design: Design, theta: np.ndarray, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The clipped sum [P] and the norms [batch], untraced: vmap of grad (LoRA as in the textbook), numpy in float64."""
    layout, adapter = design.layout, design.adapter
    rows = {name: torch.from_numpy(v) for name, v in feeds.items() if name not in ("groups", "clip")}
    frozen = {name: torch.from_numpy(v) for name, v in adapter.frozen.arrays.items()} if adapter else {}

    def loss(tensors: list[torch.Tensor], row: dict[str, torch.Tensor]) -> torch.Tensor:
        parts, seen = name_parts(layout, tensors), {k: v.unsqueeze(0) for k, v in row.items()}
        if adapter:
            seen["states"] = adapter.plain_states(parts, {**frozen, **seen}, *lora_rows(design, seen))
        return objective(design, parts, seen)[0]

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(unflatten(layout, torch.from_numpy(theta)), rows)
    one_each = np.concatenate([g.detach().numpy().reshape(len(feeds["groups"]), -1) for g in each], 1).astype(
        np.float64
    )
    total, norms = np.zeros(layout.size), np.zeros(len(feeds["groups"]))
    for group in range(len(norms)):
        mine = one_each[feeds["groups"] == group].sum(0)
        norms[group] = np.linalg.norm(mine)
        total += mine * min(1.0, float(feeds["clip"][0]) / max(norms[group], 1e-12))
    return total, norms


def milliseconds(run: Any, feeds: dict[str, np.ndarray], runs: int) -> float:
    run(feeds)
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        run(feeds)
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)


def compare(step: Step, seeds: int, runs: int) -> dict[str, Any]:
    errors, norms = [], []
    for seed in range(seeds):
        noise = NOISE["lora" if step.design.adapter else "ladder"]
        theta, feeds = moved(step.theta(seed), seed, noise), step.feeds(seed)
        found = step.graphs["grad_clipped"]({"theta": theta, **feeds})
        wanted, lengths = by_torch_func(step.design, theta, feeds)
        errors.append(float(np.linalg.norm(found["gradient"] - wanted) / np.linalg.norm(wanted)))
        norms.append(float(np.abs(found["norms"] - lengths).max() / lengths.max()))
    plain = {k: v for k, v in feeds.items() if k not in ("groups", "clip")}
    taken = {
        "grad": milliseconds(step.graphs["grad"], {"theta": theta, **plain}, runs),
        "grad_clipped": milliseconds(step.graphs["grad_clipped"], {"theta": theta, **feeds}, runs),
    }
    return {"errors": errors, "norm_errors": norms, "ms": taken, "values": step.design.layout.size}


def run(quick: bool, data: Path) -> Section:
    rows = [["design", "values", "batch x tokens", "error", "norms", "grad ms", "clipped ms", "ratio"]]
    figures: dict[str, Any] = {}
    for name in (*SHAPES, MINILM):
        with tempfile.TemporaryDirectory() as folder:
            step = inside_minilm(Path(folder), data) if name == MINILM else ladder(SHAPES[name], Path(folder))
            found = figures[name] = compare(step, 1 if quick else 3, 3 if quick else RUNS)
        plain, clipped = found["ms"].values()
        errors = [f"{max(found[kind]):.1e}" for kind in ("errors", "norm_errors")]
        times = [f"{plain:.1f}", f"{clipped:.1f}", f"{clipped / plain:.2f}"]
        rows.append([name, f"{found['values']:,}", step.shape, *errors, *times])
    worst = max(error for found in figures.values() for error in (*found["errors"], *found["norm_errors"]))
    return Section(
        title="per-subject clipped gradients, relative error against torch.func (one thread)",
        rows=rows,
        figures=figures,
        targets=[Target("largest relative error of the clipped sum and the norms", worst, PARITY)],
    )
