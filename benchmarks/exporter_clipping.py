"""Section `clipping`: per-subject clipped gradients by the exported graph, against torch.func; time beside `grad`."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from exporter_section import Section, Target
from homeroom.runtime import load
from homeroom_exporter.export import draft, variants
from homeroom_exporter.model import Design, initial_theta, name_parts, objective, unflatten
from homeroom_exporter.recipe import read_recipe
from homeroom_exporter.trace import example, trace

RECIPES = Path(__file__).resolve().parents[1] / "examples"
SHAPES = {"short answers": "recipes/short_answers.toml", "vocabulary": "vocabulary/recipe.toml"}
PARITY = 1e-4
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


def by_torch_func(design: Design, theta: np.ndarray, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The clipped sum [P] and the norms [batch], untraced: vmap of grad, then numpy in float64."""
    layout = design.layout
    rows = {name: torch.from_numpy(v) for name, v in feeds.items() if name not in ("groups", "clip")}

    def loss(tensors: list[torch.Tensor], row: dict[str, torch.Tensor]) -> torch.Tensor:
        return objective(design, name_parts(layout, tensors), {k: v.unsqueeze(0) for k, v in row.items()})[0]

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


def run(quick: bool, data: Path) -> Section:
    rows = [["design", "values", "batch x tokens", "error", "norms", "grad ms", "clipped ms", "ratio"]]
    figures: dict[str, Any] = {}
    worst = 0.0
    for name, place in SHAPES.items():
        design, batch = design_of(RECIPES / place)
        tokens = variants(design)[-1]
        errors, norms, taken = [], [], {}
        with tempfile.TemporaryDirectory() as folder:
            graphs = {}
            for role in ("grad", "grad_clipped"):
                path = Path(folder) / f"{role}.onnx"
                path.write_bytes(trace(design, role, batch, tokens).SerializeToString())
                graphs[role] = load(path, threads=1)
            for seed in range(1 if quick else 3):
                rng = np.random.default_rng(seed)
                theta = initial_theta(design.layout, seed)
                theta += rng.standard_normal(theta.size).astype(np.float32) * np.float32(0.05)
                feeds = example(design, "grad_clipped", batch, tokens, seed=seed)
                made = graphs["grad_clipped"]({"theta": theta, **feeds})
                wanted, lengths = by_torch_func(design, theta, feeds)
                errors.append(float(np.linalg.norm(made["gradient"] - wanted) / np.linalg.norm(wanted)))
                norms.append(float(np.abs(made["norms"] - lengths).max() / lengths.max()))
            plain = {k: v for k, v in feeds.items() if k not in ("groups", "clip")}
            taken["grad"] = milliseconds(graphs["grad"], {"theta": theta, **plain}, 3 if quick else RUNS)
            taken["grad_clipped"] = milliseconds(
                graphs["grad_clipped"], {"theta": theta, **feeds}, 3 if quick else RUNS
            )
        worst = max(worst, *errors, *norms)
        ratio = taken["grad_clipped"] / taken["grad"]
        figures[name] = {"errors": errors, "norm_errors": norms, "ms": taken, "values": design.layout.size}
        rows.append(
            [
                name,
                f"{design.layout.size:,}",
                f"{batch} x {tokens.get('text', 1)}",
                f"{max(errors):.1e}",
                f"{max(norms):.1e}",
                f"{taken['grad']:.1f}",
                f"{taken['grad_clipped']:.1f}",
                f"{ratio:.2f}",
            ]
        )
    return Section(
        title="per-subject clipped gradients, relative error against torch.func (one thread)",
        rows=rows,
        figures=figures,
        targets=[Target("largest relative error of the clipped sum and the norms", worst, PARITY)],
    )
