"""Converts a bundle's ONNX graphs for LiteRT, and compares each with onnxruntime.

What does not convert, or computes something else, stays out of the bundle with the reason; a device runs it in
onnxruntime. litert_torch is loaded by a process of its own (`litert_worker`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from homeroom.contract.graph_io import THETA
from homeroom.contract.manifest import Modality
from homeroom.data.preprocess import Prepared, collate
from homeroom.errors import ExportError, HomeroomError, MissingExtraError
from homeroom.runtime.backend import load
from homeroom.system.installation import how_to_install
from homeroom_exporter.bundle.write import VARYING, BundleContents, GraphFile, litert_version
from homeroom_exporter.check.check import EDGES, edge_feeds, relative_error
from homeroom_exporter.check.footprint import RuntimeComparison
from homeroom_exporter.check.footprint import run_footprint as footprint
from homeroom_exporter.model.design import Design
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.trace.example_inputs import example

LITERT_PARITY = 1e-4  # largest relative error against onnxruntime: outputs, losses and gradients
ROUNDED_SHARE = 1e-3  # of a float backbone's int8 values that may round the other way, by one unit
COMPARED_INPUTS = 48  # of a modality, that backbones are compared on
CONVERSION_LIMIT_S = 1800.0
CONVERTER_PYTHON = "HOMEROOM_LITERT_PYTHON"
WORKER = "homeroom_exporter.interchange.litert_worker"

Signatures = Mapping[str, Mapping[str, Sequence[int]]]  # by name, the shape of each input


@dataclass(frozen=True)
class Conversion:
    """Graphs for LiteRT, how each compares with its ONNX graph, and by the file of a graph why LiteRT has none."""

    graphs: tuple[GraphFile, ...]
    comparisons: tuple[RuntimeComparison, ...]
    refused: Mapping[str, str]


def converter() -> str:
    """The Python that converts: this one, or that of another environment, named by HOMEROOM_LITERT_PYTHON.

    MissingExtraError where there is none, or nothing here to run what it makes.
    """
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise MissingExtraError("LiteRT is not installed", remedy=how_to_install("litert"))
    if importlib.util.find_spec("litert_torch") is not None:
        return sys.executable
    named = os.environ.get(CONVERTER_PYTHON, "")
    if not named or not Path(named).is_file():
        remedy = f"{how_to_install('exporter', 'convert')} in an environment of its own, and name it in "
        raise MissingExtraError("nothing here converts for LiteRT", remedy=remedy + CONVERTER_PYTHON)
    return named


def convert(
    contents: BundleContents,
    inputs: Mapping[str, Sequence[Prepared]],
    scratch: Path,
    *,
    threads: int,
    progress: Callable[[str], None] = lambda stage: None,
) -> Conversion:
    """Converts every graph of the bundle, its files under `scratch`.

    inputs: prepared values of each modality, to compare backbones on.
    threads: of both runtimes; progress: called before each graph.
    """
    converter()
    converted: list[GraphFile] = []
    comparisons: list[RuntimeComparison] = []
    refused: dict[str, str] = {}
    floats = {g.modality: g.path for g in contents.graphs if g.role == "features" and g.precision == "float32"}
    for graph in contents.graphs:
        if graph.role == "grad_heads":  # a device may do without
            continue
        progress(f"converting {Path(graph.name).stem} for LiteRT")
        try:
            if graph.role == "features":
                twin, comparison = _backbone(contents.design, graph, floats[graph.modality], inputs, scratch, threads)
            else:
                twin, comparison = _step(contents, graph, scratch, threads)
        except HomeroomError as problem:
            refused[graph.name] = problem.what
            continue
        converted.append(twin)
        comparisons.append(comparison)
    return Conversion(tuple(converted), tuple(comparisons), refused)


def _litert_file(graph: GraphFile, scratch: Path) -> GraphFile:
    converted = replace(graph, runtime="litert", tried=(litert_version(),))
    return replace(converted, path=scratch / Path(converted.name).name)


def _step(
    contents: BundleContents, graph: GraphFile, scratch: Path, threads: int
) -> tuple[GraphFile, RuntimeComparison]:
    if contents.design.adapter is not None:
        raise ExportError("an encoder with LoRA inside shares its frozen weights among ONNX graphs only")
    tier = contents.tiers.get(graph.tier)
    design = tier.design if tier else contents.design
    theta = contents.theta[tier.index] if tier else contents.theta
    theta = theta + np.random.default_rng(0).standard_normal(theta.size).astype(np.float32) * np.float32(0.02)
    feeds = {THETA: theta, **example(design, graph.role, graph.batch, graph.tokens or {}, seed=1)}
    converted = _litert_file(graph, scratch)
    run_converter(graph.path, converted.path, {"step": {name: value.shape for name, value in feeds.items()}})
    run = load(converted.path, threads=threads)
    results, expected = run(feeds), load(graph.path, threads=threads)(feeds)
    error = max(relative_error(results[name], value) for name, value in expected.items())
    if not error <= LITERT_PARITY:
        raise ExportError(f"its values would differ from onnxruntime's by {error:.0e}")
    for edge in EDGES:
        if not all(np.isfinite(value).all() for value in run({**feeds, **edge_feeds(feeds, edge)}).values()):
            raise ExportError(f"it would give values that are not finite on {edge} inputs")
    sizes = footprint(graph.path, feeds, threads), footprint(converted.path, feeds, threads)
    return converted, RuntimeComparison(Path(graph.name).stem, f"{error:.1e}", *sizes)


def _backbone(
    design: Design,
    graph: GraphFile,
    reference: Path,
    inputs: Mapping[str, Sequence[Prepared]],
    scratch: Path,
    threads: int,
) -> tuple[GraphFile, RuntimeComparison]:
    """From the float32 graph in every precision, so that nothing is quantized twice."""
    modality = design.modality(str(graph.modality))
    if graph.precision == "int4":
        raise ExportError("LiteRT's own int4 is of another form")
    values = fidelity.spread(inputs[modality.name], COMPARED_INPUTS)
    feeds = collate(modality, list(values)[: fidelity.FEATURES_BATCH])
    converted = _litert_file(graph, scratch)
    run_converter(
        reference, converted.path, signatures(modality, feeds), "none" if graph.precision == "float32" else "int8"
    )
    compare = _rounding if graph.precision == "float32" else _drift
    difference = compare(modality, reference, converted.path, values)
    sizes = footprint(graph.path, feeds, threads), footprint(converted.path, feeds, threads)
    return converted, RuntimeComparison(Path(graph.name).stem, difference, *sizes)


def signatures(modality: Modality, feeds: Mapping[str, np.ndarray]) -> Signatures:
    """One row of a backbone's inputs; one for each bucket where they differ in length."""
    if modality.name in VARYING:
        shapes = {name: value.shape[2:] for name, value in feeds.items()}
        return {f"tokens_{n}": {name: (1, n, *rest) for name, rest in shapes.items()} for n in modality.buckets}
    return {"row": {name: (1, *value.shape[1:]) for name, value in feeds.items()}}


def _rounding(modality: Modality, reference: Path, other: Path, values: Sequence[Prepared]) -> str:
    """How many int8 values differ; ExportError where one differs by more than a rounding."""
    pairs = zip(fidelity.features(modality, reference, values), fidelity.features(modality, other, values), strict=True)
    steps = np.concatenate([np.abs(a.astype(np.int16) - b).ravel() for a, b in pairs])
    share = float((steps > 0).mean())
    if steps.max() > 1 or share > ROUNDED_SHARE:
        raise ExportError(f"its features would differ from onnxruntime's: {share:.1%} of them, by up to {steps.max()}")
    return f"{int((steps > 0).sum())} of {steps.size:,} rounded otherwise"


def _drift(modality: Modality, reference: Path, other: Path, values: Sequence[Prepared]) -> str:
    mean, worst = fidelity.agreement(modality, reference, other, values)
    limit = modality.tolerance
    if mean < limit.mean or worst < limit.worst:
        raise ExportError(f"int8 features would be too far from float32 (cosine {mean:.3f}, worst {worst:.3f})")
    return f"cosine {mean:.4f} ({worst:.4f})"


def run_converter(source: Path, target: Path, shapes: Signatures, quantize: str = "none") -> None:
    """Writes `target` from the ONNX graph `source`; ExportError with the reason where that is not possible."""
    job = {"source": str(source), "target": str(target), "signatures": shapes, "quantize": quantize}
    with tempfile.TemporaryDirectory(prefix="homeroom-litert-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        try:
            worker = subprocess.run(
                [converter(), "-m", WORKER, str(path)],
                capture_output=True,
                text=True,
                check=False,
                timeout=CONVERSION_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"the converter took more than {CONVERSION_LIMIT_S / 60:.0f} minutes") from None
    if worker.returncode:
        raise ExportError(_reason(worker.stderr, worker.returncode), where=source.name)


def _reason(output: str, code: int) -> str:
    """One sentence that is the same at every export: no paths, no addresses."""
    reasons = [line for line in output.splitlines() if line.startswith("homeroom: ")]
    if reasons:
        return reasons[-1].removeprefix("homeroom: ")
    return f"the converter ended with code {code}" if code > 0 else f"the converter was ended by signal {-code}"
