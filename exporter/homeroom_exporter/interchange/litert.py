"""The bundle's graphs for LiteRT too: converted from the ONNX ones, held against onnxruntime, left out with the reason.

What does not convert, or computes something else, stays out of the bundle; a device runs it in onnxruntime. Imports the
device's runtimes; litert_torch is imported by a process of its own (`litert_child`).
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

from homeroom.contract.manifest import Modality
from homeroom.data.preprocess import Prepared, collate
from homeroom.errors import ExportError, HomeroomError, MissingExtraError
from homeroom.runtime.backend import load
from homeroom_exporter.bundle.write import VARYING, Contents, GraphFile, litert_version
from homeroom_exporter.check.check import EDGES, edge_feeds, relative_error
from homeroom_exporter.check.footprint import Twin
from homeroom_exporter.check.footprint import measure as footprint
from homeroom_exporter.model.design import Design
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.trace.example_inputs import example

PARITY = 1e-4  # largest relative error against onnxruntime: outputs, losses and gradients
ROUNDED = 1e-3  # the share of a float backbone's int8 values that may round the other way, by one unit
INPUTS = 48  # of a modality, that backbones are compared on
LIMIT_S = 1800.0  # of one conversion
PYTHON = "HOMEROOM_LITERT_PYTHON"
MODULE = "homeroom_exporter.interchange.litert_worker"

Signatures = Mapping[str, Mapping[str, Sequence[int]]]  # by name, the shape of each input


@dataclass(frozen=True)
class Conversion:
    """`refused`: by the file of a graph, why LiteRT has none."""

    graphs: tuple[GraphFile, ...]
    twins: tuple[Twin, ...]
    refused: Mapping[str, str]


def converter() -> str:
    """The Python that converts: this one, or that of another environment, named by HOMEROOM_LITERT_PYTHON.

    MissingExtraError where there is none, or nothing here to run what it makes.
    """
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise MissingExtraError("LiteRT is not installed", remedy="pip install 'homeroom[litert]'")
    if importlib.util.find_spec("litert_torch") is not None:
        return sys.executable
    named = os.environ.get(PYTHON, "")
    if not named or not Path(named).is_file():
        raise MissingExtraError(
            "nothing here converts for LiteRT",
            remedy=f"pip install 'homeroom[exporter,convert]' in an environment of its own, and name it in {PYTHON}",
        )
    return named


def convert(
    contents: Contents,
    inputs: Mapping[str, Sequence[Prepared]],
    scratch: Path,
    *,
    threads: int,
    progress: Callable[[str], None] = lambda stage: None,
) -> Conversion:
    """Convert every graph of the bundle. inputs: prepared values of each modality, to compare backbones on."""
    converter()
    made: list[GraphFile] = []
    twins: list[Twin] = []
    refused: dict[str, str] = {}
    floats = {g.modality: g.path for g in contents.graphs if g.role == "features" and g.precision == "float32"}
    for graph in contents.graphs:
        if graph.role == "grad_heads":  # a device may do without
            continue
        progress(f"converting {Path(graph.name).stem} for LiteRT")
        try:
            if graph.role == "features":
                other, twin = _backbone(contents.design, graph, floats[graph.modality], inputs, scratch, threads)
            else:
                other, twin = _step(contents, graph, scratch, threads)
        except HomeroomError as problem:
            refused[graph.name] = problem.what
            continue
        made.append(other)
        twins.append(twin)
    return Conversion(tuple(made), tuple(twins), refused)


def _twin_of(graph: GraphFile, scratch: Path) -> GraphFile:
    found = replace(graph, runtime="litert", tried=(litert_version(),))
    return replace(found, path=scratch / Path(found.name).name)


def _step(contents: Contents, graph: GraphFile, scratch: Path, threads: int) -> tuple[GraphFile, Twin]:
    if contents.design.adapter is not None:
        raise ExportError("an encoder with LoRA inside shares its frozen weights among ONNX graphs only")
    tier = contents.tiers.get(graph.tier)
    design = tier.design if tier else contents.design
    theta = contents.theta[tier.index] if tier else contents.theta
    theta = theta + np.random.default_rng(0).standard_normal(theta.size).astype(np.float32) * np.float32(0.02)
    feeds = {"theta": theta, **example(design, graph.role, graph.batch, graph.tokens or {}, seed=1)}
    other = _twin_of(graph, scratch)
    run_converter(graph.path, other.path, {"step": {name: value.shape for name, value in feeds.items()}})
    ours, theirs = load(graph.path, threads=threads), load(other.path, threads=threads)
    wanted, made = ours(feeds), theirs(feeds)
    error = max(relative_error(made[name], value) for name, value in wanted.items())
    if not error <= PARITY:
        raise ExportError(f"its values would differ from onnxruntime's by {error:.0e}")
    for edge in EDGES:
        if not all(np.isfinite(value).all() for value in theirs({**feeds, **edge_feeds(feeds, edge)}).values()):
            raise ExportError(f"it would give values that are not finite on {edge} inputs")
    sizes = footprint(graph.path, feeds, threads), footprint(other.path, feeds, threads)
    return other, Twin(Path(graph.name).stem, f"{error:.1e}", *sizes)


def _backbone(
    design: Design,
    graph: GraphFile,
    reference: Path,
    inputs: Mapping[str, Sequence[Prepared]],
    scratch: Path,
    threads: int,
) -> tuple[GraphFile, Twin]:
    """From the float32 graph in every precision, so that nothing is quantized twice."""
    modality = design.modality(str(graph.modality))
    if graph.precision == "int4":
        raise ExportError("LiteRT's own int4 is of another form")
    values = fidelity.spread(inputs[modality.name], INPUTS)
    feeds = collate(modality, list(values)[: fidelity.BATCH])
    other = _twin_of(graph, scratch)
    run_converter(
        reference, other.path, signatures(modality, feeds), "none" if graph.precision == "float32" else "int8"
    )
    said = (_rounding if graph.precision == "float32" else _drift)(modality, reference, other.path, values)
    sizes = footprint(graph.path, feeds, threads), footprint(other.path, feeds, threads)
    return other, Twin(Path(graph.name).stem, said, *sizes)


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
    if steps.max() > 1 or share > ROUNDED:
        raise ExportError(f"its features would differ from onnxruntime's: {share:.1%} of them, by up to {steps.max()}")
    return f"{int((steps > 0).sum())} of {steps.size:,} rounded otherwise"


def _drift(modality: Modality, reference: Path, other: Path, values: Sequence[Prepared]) -> str:
    mean, worst = fidelity.agreement(modality, reference, other, values)
    limit = modality.tolerance
    if mean < limit.mean or worst < limit.worst:
        raise ExportError(f"int8 features would be too far from float32 (cosine {mean:.3f}, worst {worst:.3f})")
    return f"cosine {mean:.4f} ({worst:.4f})"


def run_converter(source: Path, target: Path, shapes: Signatures, quantize: str = "none") -> None:
    """Write `target` from the ONNX graph `source`; ExportError with the reason where that does not go."""
    job = {"source": str(source), "target": str(target), "signatures": shapes, "quantize": quantize}
    with tempfile.TemporaryDirectory(prefix="homeroom-litert-") as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        try:
            done = subprocess.run(
                [converter(), "-m", MODULE, str(path)], capture_output=True, text=True, check=False, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise ExportError(f"the converter took more than {LIMIT_S / 60:.0f} minutes") from None
    if done.returncode:
        raise ExportError(_reason(done.stderr, done.returncode), where=source.name)


def _reason(words: str, code: int) -> str:
    """One sentence that is the same at every export: no paths, no addresses."""
    told = [line for line in words.splitlines() if line.startswith("homeroom: ")]
    if told:
        return told[-1].removeprefix("homeroom: ")
    return f"the converter ended with code {code}" if code > 0 else f"the converter was ended by signal {-code}"
