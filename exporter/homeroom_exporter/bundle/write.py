"""Writes a bundle: everything into a scratch directory, hashed, signed, then renamed into place at once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import safetensors.numpy

from homeroom.contract import manifest
from homeroom.contract.canonical_json import canonical, digest_file
from homeroom.contract.continuation import MASKED_FORMAT, Continuation
from homeroom.contract.layout import FULL_TIER
from homeroom.contract.statistics.section import Section
from homeroom.errors import DiskFullError
from homeroom.runtime.backend import SUFFIXES
from homeroom.runtime.bundle import zip_bundle
from homeroom.runtime.fallback import second_file
from homeroom.system.files import DISK_FULL_ERRNOS as NO_SPACE
from homeroom.system.files import refusal
from homeroom_exporter.bundle.mapped_tables import place
from homeroom_exporter.bundle.scratch import claim, refuse_present
from homeroom_exporter.model.design import Design
from homeroom_exporter.model.tiers import NestedDesign

SECOND = "second.homeroom"  # in the scratch directory
THETA, SCALES, TIERS, GOLDEN = "theta.safetensors", "scales.safetensors", "tiers.safetensors", "golden"
VARYING = ("text", "sequence")  # modalities whose inputs differ in length: a graph for each bucket
LITERT_FORMAT = 3  # of the file's schema, "TFL3"
DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
}


@dataclass(frozen=True)
class GraphFile:
    """One graph in a scratch directory: what it is for, and the runtimes that ran it."""

    path: Path
    role: str
    tried: tuple[str, ...] = ()
    precision: str = "float32"
    modality: manifest.ModalityName | None = None
    batch: int = -1
    tokens: Mapping[str, int] | None = None
    tier: str = FULL_TIER
    runtime: manifest.Runtime = "onnx"

    @property
    def name(self) -> str:
        """Its place in the bundle."""
        suffix = SUFFIXES[self.runtime]
        if self.role == "features":
            return f"graphs/features.{self.modality}.{self.precision}{suffix}"
        tier = "" if self.tier == FULL_TIER else f".{self.tier}"
        lengths = [f".{name}{self.tokens[name]}" for name in VARYING if self.tokens and name in self.tokens]
        return f"graphs/{self.role}{tier}{''.join(lengths)}.batch{self.batch}{suffix}"


@dataclass(frozen=True)
class Fitted:
    """The manifest's section on statistics, and the bytes of its file."""

    section: Section
    file: bytes


@dataclass(frozen=True)
class BundleContents:
    """What a bundle is made of. `files`: further files by their place; `scales`: float32 [taps, dim] by modality.

    `converted`: graphs again for LiteRT; `unconverted`: the places of those that are not among them, and why;
    `statistics`: what heads are solved from, None where no task can be; `continues`: the bundle that this one extends.
    """

    name: str
    version: int
    design: Design
    theta: np.ndarray
    graphs: Sequence[GraphFile]
    files: Mapping[str, Path]
    golden: Mapping[str, bytes]
    training: manifest.Training
    licences: tuple[manifest.Licence, ...]
    provenance: Mapping[str, str]
    tiers: Mapping[str, NestedDesign] = field(default_factory=dict)
    converted: Sequence[GraphFile] = ()
    unconverted: Mapping[str, str] = field(default_factory=dict)
    statistics: Fitted | None = None
    continues: Continuation | None = None


def graph_entry(graph: GraphFile) -> manifest.Graph:
    """The manifest's facts about a graph, read from the file itself."""
    read = _onnx_facts if graph.runtime == "onnx" else _litert_facts
    facts = {**vars(graph), "file": graph.name, "tokens": dict(graph.tokens or {}), **read(graph.path)}
    return msgspec.convert(facts, manifest.Graph)


def _onnx_facts(path: Path) -> dict[str, Any]:
    model = onnx.load(path, load_external_data=False)

    def tensors(values: Sequence[onnx.ValueInfoProto]) -> list[dict[str, Any]]:
        types = {value.name: value.type.tensor_type for value in values}
        shapes = {name: [dimension.dim_value or -1 for dimension in kind.shape.dim] for name, kind in types.items()}
        return [{"name": name, "dtype": DTYPES[types[name].elem_type], "shape": shapes[name]} for name in types]

    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return {"opset": opset, "inputs": tensors(model.graph.input), "outputs": tensors(model.graph.output)}


def _litert_facts(path: Path) -> dict[str, Any]:
    """Of all signatures together: a length that differs between them is -1."""
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(model_path=str(path))
    runners = [opened.get_signature_runner(name) for name in opened.get_signature_list()]

    def tensors(details: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        shapes = {name: np.array([each[name]["shape"] for each in details]) for name in sorted(details[0])}
        return [
            {
                "name": name,
                "dtype": np.dtype(details[0][name]["dtype"]).name,
                "shape": np.where((each == each[0]).all(0), each[0], -1).tolist(),
            }
            for name, each in shapes.items()
        ]

    return {
        "opset": LITERT_FORMAT,
        "inputs": tensors([runner.get_input_details() for runner in runners]),
        "outputs": tensors([runner.get_output_details() for runner in runners]),
    }


def litert_version() -> str:
    """The installed version of LiteRT, as the manifest names it."""
    return importlib.metadata.version("ai-edge-litert")


def _format(contents: BundleContents) -> int:
    """The oldest format that says what a reader must know."""
    if contents.continues and contents.continues.masked:
        return MASKED_FORMAT
    return manifest.MANIFEST_FORMAT if contents.design.asked else manifest.WHOLE_TARGETS_FORMAT


def fill(folder: Path, contents: BundleContents) -> manifest.Manifest:
    """Write every file of the bundle but its signature into `folder`, and those of its second file, as `set_apart`
    then moves them; returns the manifest written."""
    apart = {graph.name for graph in _fallback(contents)}
    for graph in (*contents.graphs, *contents.converted):
        mapped = (graph.role, graph.runtime) == ("features", "onnx") and graph.name not in apart
        (place if mapped else _copy)(graph.path, folder / graph.name)
    for name, path in contents.files.items():
        _copy(path, folder / name)
    blobs = {f"{GOLDEN}/{name}": data for name, data in contents.golden.items()}
    blobs[THETA] = safetensors.numpy.save({"theta": np.ascontiguousarray(contents.theta, np.float32)})
    blobs[SCALES] = safetensors.numpy.save(
        {name: np.ascontiguousarray(scale, np.float32) for name, scale in sorted(contents.design.scales.items())}
    )
    if contents.tiers:
        blobs[TIERS] = safetensors.numpy.save({name: tier.index for name, tier in sorted(contents.tiers.items())})
    if contents.statistics:
        blobs[contents.statistics.section.file] = contents.statistics.file
    for name, data in blobs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    listed = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: manifest.File(digest_file(folder / name), (folder / name).stat().st_size) for name in listed}
    entries = {graph.name: graph_entry(graph) for graph in (*contents.graphs, *contents.converted)}

    def listed_graphs(graphs: Sequence[GraphFile]) -> tuple[manifest.Graph, ...]:
        return tuple(entries[graph.name] for graph in graphs if graph.name not in apart)

    fallback = manifest.Fallback(
        tuple(entry for name, entry in entries.items() if name in apart),
        {name: file for name, file in files.items() if name in apart},
    )
    facts = manifest.Manifest(
        format=_format(contents),
        name=contents.name,
        version=contents.version,
        files={name: file for name, file in files.items() if name not in apart},
        modalities=contents.design.modalities,
        slots=contents.design.slots,
        tasks=contents.design.tasks,
        segments=contents.design.layout.segments,
        objectives=contents.design.objectives,
        graphs=listed_graphs([graph for graph in contents.graphs if graph.role != "grad_heads"]),
        settled=listed_graphs([graph for graph in contents.graphs if graph.role == "grad_heads"]),
        converted=listed_graphs(contents.converted),
        unconverted=dict(contents.unconverted),
        theta=THETA,
        golden=GOLDEN,
        training=contents.training,
        licences=contents.licences,
        provenance=dict(contents.provenance),
        tiers=tuple(manifest.Tier(name, len(tier.index)) for name, tier in contents.tiers.items()),
        tier_index=TIERS if contents.tiers else None,
        statistics=contents.statistics.section if contents.statistics else msgspec.UNSET,
        fallback=fallback if apart else msgspec.UNSET,
        continues=contents.continues or msgspec.UNSET,
    )
    (folder / "manifest.json").write_bytes(canonical(facts))
    return facts


def _fallback(contents: BundleContents) -> list[GraphFile]:
    """Backbones that devices take only where one in a lower precision, for the same runtime, does not hold."""
    backbones = [graph for graph in (*contents.graphs, *contents.converted) if graph.role == "features"]
    lower = {(graph.modality, graph.runtime) for graph in backbones if graph.precision != "float32"}
    return [g for g in backbones if g.precision == "float32" and (g.modality, g.runtime) in lower]


def set_apart(folder: Path, facts: manifest.Manifest) -> None:
    """Move the files of the manifest's second file out of a staged folder, into a zip that `staging` puts in place."""
    if apart := facts.fallback_files:
        others = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - set(apart)
        zip_bundle(folder, folder.parent / SECOND, leave_out=others)
        for name in apart:
            (folder / name).unlink()


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A scratch directory beside `out`, renamed to it at the end; on any error nothing is left, and `out` untouched.

    A second file of `set_apart` goes beside it. What an export into the same place left that was killed goes first.
    """
    refuse_present(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = claim(out.parent, f".{out.name}.")
    except OSError as problem:
        raise refusal(problem, out.parent) from None
    try:
        folder = scratch.path / "bundle"
        folder.mkdir()
        yield folder
        second = scratch.path / SECOND
        for path in [p for p in scratch.path.rglob("*") if p.is_file() and (p == second or folder in p.parents)]:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if second.exists():
            second.rename(second_file(out))
        try:
            folder.rename(out)
        except OSError:
            second_file(out).unlink(missing_ok=True)
            raise
    except OSError as problem:
        if problem.errno not in NO_SPACE:
            raise
        places = f"{out.parent}, or {tempfile.gettempdir()} where it is put together"
        remedy = "free some space, or name another folder for the work in TMPDIR"
        raise DiskFullError("no space left; nothing was written", where=places, remedy=remedy) from None
    finally:
        scratch.close()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
