"""The self-check as tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from homeroom.contract.manifest import Precision
from homeroom_exporter.check.check import PARITY, BackboneCheck, SelfCheck
from homeroom_exporter.check.footprint import Footprint
from homeroom_exporter.check.lora_agreement import LoraCheck


def show(report: SelfCheck, console: Console) -> None:
    """Prints what was measured, and what failed."""
    if report.backbones:
        console.print(_backbones(report))
    for choice in report.taps:
        console.print(f"{choice.modality} taps: {choice.summary}", markup=False)
    if report.inside:
        console.print(_inside(report.inside))
    probes = _probes(report)
    if probes.row_count:
        console.print(probes)
    console.print(_steps(report))
    if report.litert or report.unconverted:
        console.print(_litert(report))
    for failure in report.failures:
        console.print(f"failed: {failure}", style="bold red", markup=False)


def _backbones(report: SelfCheck) -> Table:
    table = Table(
        title="Backbones: the original, float32 and quantized", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for name in ("modality", "MB", "float32", "quantized", "inputs", "cosine", "worst", "ms each", "peak MB"):
        table.add_column(name, justify="left" if name == "modality" else "right")
    for checked in report.backbones:
        mean, worst = checked.cosine
        best = checked.footprint[checked.lowest]
        table.add_row(
            checked.modality,
            _mb(checked.float_bytes),
            _mb(checked.bytes["float32"]),
            f"{checked.lowest} {_mb(checked.bytes[checked.lowest])}" if len(checked.bytes) > 1 else "-",
            str(checked.values),
            f"{mean:.4f}",
            f"{worst:.4f}",
            _each(checked),
            _peak(best),
        )
    return table


def _inside(checked: LoraCheck) -> Table:
    title = f"LoRA inside the encoder: gradient of {checked.parameters:,} values on {checked.rows} samples"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("modality", "MB", "frozen weights", "cosine with float32"):
        table.add_column(name, justify="left" if name == "modality" else "right")
    table.add_row(
        checked.modality, _mb(checked.float_bytes), f"{checked.precision} {_mb(checked.bytes)}", f"{checked.cosine:.5f}"
    )
    return table


def _each(checked: BackboneCheck) -> str:
    return "/".join(
        f"{checked.footprint[p].ms / checked.batch:.1f}" for p in reversed(get_args(Precision)) if p in checked.bytes
    )


def _probes(report: SelfCheck) -> Table:
    table = Table(
        title="Accuracy of a linear probe on the calibration samples, held out",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("task", "modality", "samples", "majority", "float32", "quantized", "standard error"):
        table.add_column(name, justify="left" if name in ("task", "modality") else "right")
    for checked in report.backbones:
        for p in checked.probes:
            numbers = (p.majority, p.float32, p.int8, p.error)
            table.add_row(p.task, checked.modality, str(p.samples), *(f"{number:.3f}" for number in numbers))
    return table


def _steps(report: SelfCheck) -> Table:
    table = Table(
        title=f"Graphs of theta ({report.parameters:,} values): error against torch, limit {_limits()}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("graph", "error", "edges", "ms a batch", "peak MB"):
        table.add_column(name, justify="left" if name in ("graph", "edges") else "right")
    for step in report.steps:
        edges = "finite" if not step.unfinite else f"not finite: {', '.join(step.unfinite)}"
        table.add_row(step.name, f"{step.parity:.1e}", edges, f"{step.footprint.ms:.1f}", _peak(step.footprint))
    return table


def _litert(report: SelfCheck) -> Table:
    table = Table(
        title="LiteRT beside onnxruntime: difference, and what a batch takes in each",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("graph", "difference", "onnx ms", "LiteRT ms", "onnx MB", "LiteRT MB"):
        table.add_column(name, justify="left" if name in ("graph", "difference") else "right")
    for graph in report.litert:
        times = (f"{cost.ms:.1f}" for cost in (graph.onnx, graph.litert))
        table.add_row(graph.name, graph.difference, *times, *(_peak(cost) for cost in (graph.onnx, graph.litert)))
    for file, reason in report.unconverted.items():
        table.add_row(Path(file).stem, f"none: {reason}")
    return table


def _limits() -> str:
    return f"{PARITY['grad']:g} ({PARITY['grad_clipped']:g} when clipped)"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _peak(footprint: Footprint) -> str:
    return "-" if footprint.peak_mb is None else f"{footprint.peak_mb:.0f}"
