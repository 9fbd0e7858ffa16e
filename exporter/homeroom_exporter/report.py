"""The self-check as tables on the terminal; imports rich."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from homeroom_exporter.check import PARITY, BackboneCheck, Report
from homeroom_exporter.footprint import Footprint


def show(report: Report, console: Console) -> None:
    """Print what was measured, and what failed."""
    console.print(_backbones(report))
    probes = _probes(report)
    if probes.row_count:
        console.print(probes)
    console.print(_steps(report))
    for failure in report.failures:
        console.print(f"failed: {failure}", style="bold red", markup=False)


def _backbones(report: Report) -> Table:
    table = Table(
        title="Backbones: the original, float32 and int8", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for name in ("modality", "MB", "float32", "int8", "inputs", "cosine", "worst", "ms each", "peak MB"):
        table.add_column(name, justify="left" if name == "modality" else "right")
    for made in report.backbones:
        mean, worst = made.cosine
        best = made.footprint.get("int8", made.footprint["float32"])
        table.add_row(
            made.modality,
            _mb(made.float_bytes),
            _mb(made.bytes["float32"]),
            _mb(made.bytes["int8"]) if "int8" in made.bytes else "-",
            str(made.values),
            f"{mean:.4f}",
            f"{worst:.4f}",
            _each(made),
            _peak(best),
        )
    return table


def _each(made: BackboneCheck) -> str:
    return "/".join(f"{made.footprint[p].ms / made.batch:.1f}" for p in ("float32", "int8") if p in made.footprint)


def _probes(report: Report) -> Table:
    table = Table(
        title="Accuracy of a linear probe on the calibration samples, held out",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("task", "modality", "samples", "majority", "float32", "int8", "standard error"):
        table.add_column(name, justify="left" if name in ("task", "modality") else "right")
    for made in report.backbones:
        for p in made.probes:
            numbers = (p.majority, p.float32, p.int8, p.error)
            table.add_row(p.task, made.modality, str(p.samples), *(f"{number:.3f}" for number in numbers))
    return table


def _steps(report: Report) -> Table:
    table = Table(
        title=f"Graphs of theta ({report.parameters:,} values): error against torch, limit {PARITY:g}",
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


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _peak(footprint: Footprint) -> str:
    return "-" if footprint.peak_mb is None else f"{footprint.peak_mb:.0f}"
