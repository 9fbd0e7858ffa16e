"""Estimates what a recipe would come to: sizes, and time and memory on a Pi 4 and a laptop.

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

from homeroom.contract.graph_io import THETA
from homeroom.device.resources.benchmark_worker import measure_rates
from homeroom_exporter import encoders
from homeroom_exporter.bundle.scratch import claim
from homeroom_exporter.check.footprint import Footprint, run_footprint
from homeroom_exporter.check.tap_probe import MODALITIES, TapChoice, choose, recipe_taps
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.export.design import design_of
from homeroom_exporter.export.stages import read_calibration
from homeroom_exporter.export.steps import grad_graph_rows, reads_token_pairs, variants
from homeroom_exporter.model.design import Design, initial_theta
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.build import LoraEncoder
from homeroom_exporter.quantize.graph_surgery import canonical_bytes
from homeroom_exporter.recipe.recipe import Recipe, with_modules
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.trace import trace

ESTIMATE_SAMPLES = 500  # that a device is thought to hold
MATRIX_GFLOPS = {"Raspberry Pi 4": 12.0, "laptop": 100.0}  # of a float32 product of matrices, all cores
SOURCE = (
    "A Pi 4's four Cortex-A72 cores at 1.5 GHz come to 48 GFLOP/s by the processor's manual (a 4-wide multiply-add a "
    "cycle), a laptop's four AVX2 cores at 2.5 GHz to 320; a quarter and a third of that is taken for granted. "
    "No Pi was measured."
)
SMALLER = {"int8": 0.27, "int4": 0.22, "none": 1.0}  # of float32: the bounds that the exporter is held to


@dataclass(frozen=True)
class EncoderEstimate:
    """One encoder: its bytes in float32 and at most as exported, and one input of full length here.

    cost: None where the steps hold the encoder. auto: the recipe leaves the taps open, and no labelled samples were
    there to choose them by. one_graph: there is no float32 graph beside the one that is counted in `small_bytes`.
    """

    modality: str
    title: str
    taps: tuple[str, ...]
    float_bytes: int
    small_bytes: int
    cost: Footprint | None
    auto: bool = False
    one_graph: bool = False


@dataclass(frozen=True)
class ExportEstimate:
    """What a recipe would come to.

    values: of theta. rows: samples of full length that a `grad` graph holds. grad: one run of it here; predict: of a
    batch. gflops: this machine's speed of float32 matrices. inputs: places of all slots, by modality.
    """

    encoders: tuple[EncoderEstimate, ...]
    values: int
    rows: int
    grad: Footprint
    predict: Footprint
    graph_bytes: int
    gflops: float
    inputs: Mapping[str, int]
    epochs: int
    choices: tuple[TapChoice, ...] = ()

    def feature_minutes(self, gflops: float) -> float:
        """Of ESTIMATE_SAMPLES samples whose every slot holds an input of full length."""
        sample_ms = sum(e.cost.ms * self.inputs[e.modality] for e in self.encoders if e.cost is not None)
        return sample_ms * ESTIMATE_SAMPLES / 60e3 * self.gflops / gflops

    def training_minutes(self, gflops: float) -> float:
        """Of all epochs on ESTIMATE_SAMPLES samples, on a machine of that matrix speed."""
        return self.grad.ms * -(-ESTIMATE_SAMPLES // self.rows) * self.epochs / 60e3 * self.gflops / gflops

    @property
    def peak_mb(self) -> float | None:
        """Of the largest process: one backbone at a time, then the steps."""
        peaks = [cost.peak_mb for cost in (*(e.cost for e in self.encoders), self.grad) if cost is not None]
        return None if None in peaks else max(peak for peak in peaks if peak is not None)


def estimate(
    recipe: Recipe,
    calibration: Path | None = None,
    *,
    modules: Mapping[str, Any] | None = None,
    threads: int = 2,
    progress: Callable[[str], None] = lambda stage: None,
) -> ExportEstimate:
    """Builds what the recipe names without compression, and runs it; ExportError for what cannot be built.

    calibration: samples by whose labels the taps are chosen that the recipe leaves open.
    modules: torch modules by modality, as for `export`.
    threads: of the runtime; progress: called with the name of each stage.
    """
    recipe = with_modules(recipe, modules or {})
    samples = read_calibration(recipe, calibration, progress) if calibration else []
    with closing(claim(Path(tempfile.gettempdir()), "homeroom-estimate-")) as scratch:
        estimates: list[EncoderEstimate] = []
        choices: list[TapChoice] = []
        backbones: dict[str, Backbone] = {}
        inside: LoraEncoder | None = None
        for spec in recipe.encoders:
            progress(f"trying the {spec.modality} encoder")
            folder = scratch.path / spec.modality
            folder.mkdir()
            if recipe.adapter and recipe.adapter.modality == spec.modality:
                pairs = reads_token_pairs(recipe, spec)
                inside = lora.build(spec, recipe.adapter, folder, pairs=pairs, seed=recipe.seed)
                estimates.append(_with_lora(inside))
                continue
            if choice := choose(recipe, spec, samples, folder, progress=progress):
                choices.append(choice)
                spec = msgspec.structs.replace(spec, taps=recipe_taps(choice))
            backbones[spec.modality], encoder = _encoder(spec, folder, threads)
            estimates.append(replace(encoder, auto=spec.taps == "auto" and spec.modality in MODALITIES))
        progress("trying a training step")
        design = design_of(recipe, backbones, inside)
        rows = grad_graph_rows(design, recipe.batch)
        grad, grad_bytes = _step(design, inside, "grad", rows, scratch.path, threads)
        predict, predict_bytes = _step(design, inside, "predict", recipe.batch, scratch.path, threads)
    return ExportEstimate(
        encoders=tuple(estimates),
        values=design.layout.size,
        rows=rows,
        grad=grad,
        predict=predict,
        graph_bytes=(grad_bytes + predict_bytes) * len(variants(design)),
        gflops=measure_rates()["gemm_gflops"],
        inputs={m.name: sum(s.count for s in design.slots if s.modality == m.name) for m in design.modalities},
        epochs=recipe.training.epochs,
        choices=tuple(choices),
    )


def _step(
    design: Design, inside: LoraEncoder | None, role: str, rows: int, scratch: Path, threads: int
) -> tuple[Footprint, int]:
    """A run of a step's largest variant, and the bytes of its graph."""
    tokens = variants(design)[-1]
    model = trace(design, role, rows, tokens)
    path = scratch / f"{role}.onnx"
    if inside:  # its frozen weights lie beside the graph
        model, path = lora.attach(model, inside), inside.stored.parent / path.name
    path.write_bytes(model.SerializeToString())
    feeds = {THETA: initial_theta(design.layout, 0), **example(design, role, rows, tokens)}
    return run_footprint(path, feeds, threads), path.stat().st_size


def _with_lora(inside: LoraEncoder) -> EncoderEstimate:
    modality = inside.adapter.modality
    size = inside.stored.stat().st_size
    return EncoderEstimate(modality.name, modality.encoder, (), modality.float_bytes, size, None)


def _encoder(spec: EncoderSpec, folder: Path, threads: int) -> tuple[Backbone, EncoderEstimate]:
    encoder = encoders.load(spec, folder)
    path = folder / "encoder.onnx"
    path.write_bytes(canonical_bytes(encoder.graph))
    scale = np.ones((len(encoder.taps), spec.dim), np.float32) if encoder.scale is None else encoder.scale
    cost = run_footprint(path, longest(encoder.graph, encoder.buckets[-1]), threads)
    size = encoder.float_bytes
    one_graph = encoder.scheme == "none"
    small_size = min(size, path.stat().st_size) if one_graph else round(size * SMALLER[spec.quantize])
    backbone = Backbone(encoder.modality(spec), {}, scale, encoder.files, encoder.licences, size)
    estimate = EncoderEstimate(spec.modality, encoder.title, encoder.taps, size, small_size, cost, one_graph=one_graph)
    return backbone, estimate


def longest(graph: onnx.ModelProto, tokens: int) -> dict[str, np.ndarray]:
    """Ones for each input of a graph: one row, of full length."""
    feeds = {}
    for value in graph.graph.input:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        sizes = [d.dim_value or (tokens if axis else 1) for axis, d in enumerate(tensor.shape.dim)]
        feeds[value.name] = np.ones(sizes, dtype)
    return feeds


def show(estimated: ExportEstimate, console: Console) -> None:
    """Prints what was measured here, and what is estimated from it."""
    console.print(_encoder_table(estimated))
    for choice in estimated.choices:
        console.print(f"{choice.modality} taps: {choice.summary}", markup=False)
    if usual := [encoder.modality for encoder in estimated.encoders if encoder.auto]:
        taps_of = ", ".join(usual)
        console.print(f"taps of {taps_of}: the usual; with --calibration a probe of its labels may find better")
    weights = sum(e.small_bytes + e.float_bytes * (not e.one_graph) for e in estimated.encoders)
    console.print(
        f"bundle: at most about {(weights + estimated.graph_bytes) / 1e6:.0f} MB; theta: {estimated.values:,} values, "
        f"an update of them {estimated.values * 4 / 1e3:.0f} KB before it is compressed"
    )
    peak = "not known" if estimated.peak_mb is None else f"{estimated.peak_mb:.0f} MB"
    console.print(
        f"here: training on {estimated.rows} samples at once {estimated.grad.ms:.1f} ms, peak memory {peak} "
        "(float32, measured)"
    )
    console.print(_minutes_table(estimated))
    assumed = ", ".join(f"{name} {gflops:g}" for name, gflops in MATRIX_GFLOPS.items())
    console.print(
        f"Estimated from what was measured here in float32 by the speed of float32 matrices: here "
        f"{estimated.gflops:.0f} GFLOP/s (measured); {assumed} (assumed). {SOURCE}",
        style="dim",
    )


def _encoder_table(estimated: ExportEstimate) -> Table:
    table = Table(title="Encoders", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("modality", "encoder", "taps", "MB float32", "MB, at most", "ms an input here"):
        table.add_column(name, justify="right" if name.startswith(("M", "ms")) else "left")
    for encoder in estimated.encoders:
        taps = ", ".join(encoder.taps) or "LoRA inside"
        cost = "in the steps" if encoder.cost is None else f"{encoder.cost.ms:.1f}"
        sizes = (f"{encoder.float_bytes / 1e6:.1f}", f"{encoder.small_bytes / 1e6:.1f}")
        table.add_row(encoder.modality, encoder.title, taps, *sizes, cost)
    return table


def _minutes_table(estimated: ExportEstimate) -> Table:
    title = f"Estimate for {ESTIMATE_SAMPLES} samples of full length"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("minutes", *MATRIX_GFLOPS):
        table.add_column(name, justify="left" if name == "minutes" else "right")
    speeds = MATRIX_GFLOPS.values()
    table.add_row("features, once", *(f"{estimated.feature_minutes(gflops):.1f}" for gflops in speeds))
    minutes = (f"{estimated.training_minutes(gflops):.1f}" for gflops in speeds)
    table.add_row(f"training, {estimated.epochs} epochs", *minutes)
    return table
