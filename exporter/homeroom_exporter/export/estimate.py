"""What a recipe would come to, before it is exported: sizes, and time and memory on a Pi 4 and a laptop; torch.

Encoders and steps are built without calibration and run here in fresh processes, in float32 and at full length. Other
machines' times are those times the ratio of matrix speeds, so they are estimates, and are labelled as such.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from homeroom.contract.manifest import Modality, Tolerance
from homeroom.data.ingest import read_samples
from homeroom.device.resources.benchmark_worker import measure_rates
from homeroom_exporter import encoders
from homeroom_exporter.bundle.scratch import claim
from homeroom_exporter.check import linear_probe
from homeroom_exporter.check.footprint import Footprint, measure
from homeroom_exporter.check.tap_probe import MODALITIES, TapChoice, choose, named
from homeroom_exporter.encoders.backbone import UNKNOWN, Backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.export.design import design_of, draft
from homeroom_exporter.export.steps import lora_pairs, part_of, variants
from homeroom_exporter.model.design import initial_theta
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.build import Inside
from homeroom_exporter.quantize.graph_surgery import canonical_bytes
from homeroom_exporter.recipe.recipe import Recipe, with_modules
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.trace import trace

SAMPLES = 500  # that a device is thought to hold
MATRIX = {"Raspberry Pi 4": 12.0, "laptop": 100.0}  # GFLOP/s of a float32 product of matrices, all cores
SOURCE = (
    "A Pi 4's four Cortex-A72 cores at 1.5 GHz come to 48 GFLOP/s by the processor's manual (a 4-wide multiply-add a "
    "cycle), a laptop's four AVX2 cores at 2.5 GHz to 320; a quarter and a third of that is taken for granted. "
    "No Pi was measured."
)
SMALLER = {"int8": 0.27, "int4": 0.22, "none": 1.0}  # of float32: the bounds that the exporter is held to


@dataclass(frozen=True)
class Part:
    """One encoder: its taps, bytes in float32, and one input of full length here; None where steps hold it.

    auto: the recipe leaves the taps open, and no labelled samples were there to choose them by.
    """

    modality: str
    title: str
    taps: tuple[str, ...]
    float_bytes: int
    small_bytes: int
    cost: Footprint | None
    auto: bool = False


@dataclass(frozen=True)
class Estimate:
    """`grad`: `rows` samples of full length here, a step or a part of it; `predict`: a batch; `gflops`: this machine's
    matrix speed.
    """

    parts: tuple[Part, ...]
    values: int
    rows: int
    grad: Footprint
    predict: Footprint
    graph_bytes: int
    gflops: float
    inputs: Mapping[str, int]
    epochs: int
    chosen: tuple[TapChoice, ...] = ()

    def feature_minutes(self, gflops: float) -> float:
        """Of SAMPLES samples whose every slot holds an input of full length."""
        spent = sum(p.cost.ms * self.inputs[p.modality] for p in self.parts if p.cost is not None)
        return spent * SAMPLES / 60e3 * self.gflops / gflops

    def training_minutes(self, gflops: float) -> float:
        return self.grad.ms * -(-SAMPLES // self.rows) * self.epochs / 60e3 * self.gflops / gflops

    @property
    def peak_mb(self) -> float | None:
        """Of the largest process: one backbone at a time, then the steps."""
        peaks = [made.peak_mb for made in (*(p.cost for p in self.parts), self.grad) if made is not None]
        return None if None in peaks else max(peak for peak in peaks if peak is not None)


def estimate(
    recipe: Recipe,
    calibration: Path | None = None,
    *,
    modules: Mapping[str, Any] | None = None,
    threads: int = 2,
    progress: Callable[[str], None] = lambda stage: None,
) -> Estimate:
    """Build what the recipe names without compression, and run it. Raises ExportError for what cannot be built.

    calibration: samples by whose labels the taps are chosen that the recipe leaves open. modules: as for `export`.
    """
    recipe = with_modules(recipe, modules or {})
    samples = list(read_samples(calibration, draft(recipe))) if calibration else []
    linear_probe.refuse_one_class(recipe.tasks, samples, str(calibration))
    with closing(claim(Path(tempfile.gettempdir()), "homeroom-estimate-")) as work:
        scratch = work.path
        parts: list[Part] = []
        chosen: list[TapChoice] = []
        made: dict[str, Backbone] = {}
        inside: Inside | None = None
        for spec in recipe.encoders:
            progress(f"trying the {spec.modality} encoder")
            place = scratch / spec.modality
            place.mkdir()
            if recipe.adapter and recipe.adapter.modality == spec.modality:
                inside = lora.build(spec, recipe.adapter, place, pairs=lora_pairs(recipe, spec), seed=recipe.seed)
                found = inside.adapter.modality
                size = inside.stored.stat().st_size
                parts.append(Part(spec.modality, found.encoder, (), found.float_bytes, size, None))
                continue
            choice = choose(recipe, spec, samples, place, progress=progress)
            if choice:
                chosen.append(choice)
                spec = msgspec.structs.replace(spec, taps=named(choice))
            made[spec.modality], part = _encoder(spec, place, threads)
            parts.append(replace(part, auto=spec.taps == "auto" and spec.modality in MODALITIES))
        progress("trying a training step")
        design = design_of(recipe, made, inside)
        tokens = variants(design)[-1]
        rows = part_of(design, recipe.batch)
        costs, sizes = {}, []
        for role, count in (("grad", rows), ("predict", recipe.batch)):
            path = (inside.stored.parent if inside else scratch) / f"{role}.onnx"
            model = trace(design, role, count, tokens)
            model = lora.attach(model, inside) if inside else model
            path.write_bytes(model.SerializeToString())
            feeds = {"theta": initial_theta(design.layout, 0), **example(design, role, count, tokens)}
            costs[role] = measure(path, feeds, threads)
            sizes.append(path.stat().st_size)
        return Estimate(
            parts=tuple(parts),
            values=design.layout.size,
            rows=rows,
            grad=costs["grad"],
            predict=costs["predict"],
            graph_bytes=sum(sizes) * len(variants(design)),
            gflops=measure_rates()["gemm_gflops"],
            inputs={m.name: sum(s.count for s in design.slots if s.modality == m.name) for m in design.modalities},
            epochs=recipe.training.epochs,
            chosen=tuple(chosen),
        )


def _encoder(spec: EncoderSpec, place: Path, threads: int) -> tuple[Backbone, Part]:
    encoder = encoders.load(spec, place)
    path = place / "encoder.onnx"
    path.write_bytes(canonical_bytes(encoder.graph))
    scale = np.ones((len(encoder.taps), spec.dim), np.float32) if encoder.scale is None else encoder.scale
    modality = Modality(
        name=spec.modality,
        features_id=UNKNOWN,
        encoder=encoder.title,
        taps=encoder.taps,
        dim=scale.shape[1],
        buckets=encoder.buckets,
        preprocess=encoder.preprocess,
        tolerance=Tolerance(1.0, 1.0),
        float_bytes=encoder.float_bytes,
    )
    cost = measure(path, longest(encoder.graph, encoder.buckets[-1]), threads)
    share = SMALLER[spec.quantize] if encoder.scheme != "none" else 1.0
    part = Part(
        spec.modality, encoder.title, encoder.taps, encoder.float_bytes, round(encoder.float_bytes * share), cost
    )
    return Backbone(modality, {}, scale, dict(encoder.files), encoder.licences, encoder.float_bytes), part


def longest(graph: onnx.ModelProto, tokens: int) -> dict[str, np.ndarray]:
    """One input of full length."""
    feeds = {}
    for value in graph.graph.input:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        sizes = [d.dim_value or (tokens if place else 1) for place, d in enumerate(kind.shape.dim)]
        feeds[value.name] = np.ones(sizes, dtype)
    return feeds


def show(found: Estimate, console: Console) -> None:
    """Print it: what was measured here, and what is estimated of it."""
    table = Table(title="Encoders", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("modality", "encoder", "taps", "MB float32", "MB, at most", "ms an input here"):
        table.add_column(name, justify="right" if name.startswith("M") or name.startswith("ms") else "left")
    for part in found.parts:
        taps = ", ".join(part.taps) or "LoRA inside"
        took = "in the steps" if part.cost is None else f"{part.cost.ms:.1f}"
        sizes = (f"{part.float_bytes / 1e6:.1f}", f"{part.small_bytes / 1e6:.1f}")
        table.add_row(part.modality, part.title, taps, *sizes, took)
    console.print(table)
    for choice in found.chosen:
        console.print(f"{choice.modality} taps: {choice.said}", markup=False)
    if left := [part.modality for part in found.parts if part.auto]:
        console.print(f"taps of {', '.join(left)}: the usual; with --calibration a probe of its labels may find better")
    weights = sum(part.float_bytes + part.small_bytes for part in found.parts)
    console.print(
        f"bundle: at most about {(weights + found.graph_bytes) / 1e6:.0f} MB; theta: {found.values:,} values, an "
        f"update of them {found.values * 4 / 1e3:.0f} KB before it is compressed"
    )
    peak = "not known" if found.peak_mb is None else f"{found.peak_mb:.0f} MB"
    console.print(
        f"here: training on {found.rows} samples at once {found.grad.ms:.1f} ms, peak memory {peak} (float32, measured)"
    )
    table = Table(title=f"Estimate for {SAMPLES} samples of full length", title_justify="left", box=SIMPLE_HEAD)
    for name in ("minutes", *MATRIX):
        table.add_column(name, justify="left" if name == "minutes" else "right")
    table.add_row("features, once", *(f"{found.feature_minutes(gflops):.1f}" for gflops in MATRIX.values()))
    table.add_row(
        f"training, {found.epochs} epochs", *(f"{found.training_minutes(gflops):.1f}" for gflops in MATRIX.values())
    )
    console.print(table)
    taken = ", ".join(f"{name} {gflops:g}" for name, gflops in MATRIX.items())
    console.print(
        f"Estimated from what was measured here in float32 by the speed of float32 matrices: here {found.gflops:.0f} "
        f"GFLOP/s (measured); {taken} (assumed). {SOURCE}",
        style="dim",
    )
