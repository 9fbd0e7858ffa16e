"""Step graphs of a design in every variant, assembled into a bundle's contents."""

from __future__ import annotations

import importlib.metadata
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from homeroom.contract.continuation import MASKED_LOGIT, Continuation, label_columns
from homeroom.contract.graph_io import THETA
from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Licence, Training
from homeroom.data.samples import StoredSample
from homeroom.runtime.backend import load
from homeroom_exporter.bundle import golden
from homeroom_exporter.bundle.golden import Features
from homeroom_exporter.bundle.write import VARYING, BundleContents, GraphFile
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.interchange import peft
from homeroom_exporter.model.design import Design, initial_theta
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.build import LoraEncoder
from homeroom_exporter.model.tasks import HEADS
from homeroom_exporter.model.tiers import NestedDesign, sheltered
from homeroom_exporter.recipe.recipe import Recipe
from homeroom_exporter.trace.trace import trace

GRAD_GRAPH_ROWS = 16  # rows that a training graph holds of a batch: half of the default, for a machine with two cores
SALIENCY_BATCH = 16  # points on the way to one sample that a device computes at once
LIBRARIES = ("homeroom", "torch", "onnx", "onnxruntime", "numpy")


def library_versions() -> dict[str, str]:
    """What a bundle was made with, for the manifest's provenance."""
    return {f"made_with.{name}": importlib.metadata.version(name) for name in LIBRARIES}


def variants(design: Design) -> list[dict[str, int]]:
    """Token counts by modality of each variant: one for each bucket of text (with each of sequences), else one."""
    fixed: dict[str, int] = {m.name: m.buckets[-1] for m in design.modalities}
    varying = [m for m in design.modalities if m.name in VARYING]
    return [
        {**fixed, **{m.name: bucket for m, bucket in zip(varying, buckets, strict=True)}}
        for buckets in itertools.product(*(m.buckets for m in varying))
    ]


def reads_token_pairs(recipe: Recipe, spec: EncoderSpec) -> bool:
    """Whether an encoder with LoRA inside reads two texts at once, or keeps every token."""
    return spec.modality == "text" and any(HEADS[head].reads_text_tokens for head in recipe.heads.values())


def grad_graph_rows(design: Design, batch: int) -> int:
    """Rows of a `grad` graph: a part of the batch, so that a device runs several side by side and holds less.

    All of it where rows are compared with each other, and with a backbone inside, whose weights each part would unpack.
    """
    whole = design.adapter or any(objective.kind == "alignment" for objective in design.objectives)
    return batch if whole or batch % GRAD_GRAPH_ROWS else GRAD_GRAPH_ROWS


def step_graphs(
    design: Design,
    scratch: Path,
    batch: int,
    *,
    single: bool = False,
    clipped: bool = False,
    saliency: bool = False,
    tier: str = FULL_TIER,
    inside: LoraEncoder | None = None,
) -> list[GraphFile]:
    """Trace every variant of every step of a tier into `scratch`; the options are the recipe's."""
    steps = [("grad", grad_graph_rows(design, batch)), ("predict", batch)]
    steps += [("predict", 1)] if single else []
    steps += [("grad_heads", grad_graph_rows(design, batch))] if not inside else []
    steps += [("grad_clipped", batch)] if clipped else []
    steps += [("saliency", min(batch, SALIENCY_BATCH))] if saliency else []
    graphs = []
    for tokens in variants(design):
        for role, size in steps:
            graph = GraphFile(scratch, role, (onnxruntime.__version__,), batch=size, tokens=tokens, tier=tier)
            if inside:
                graph = replace(graph, precision=inside.adapter.precision)
            graph = replace(graph, path=scratch / Path(graph.name).name)
            model = trace(design, role, size, tokens)
            if inside and design.adapter:
                model = lora.attach(model, replace(inside, adapter=design.adapter))
            graph.path.write_bytes(model.SerializeToString(deterministic=True))
            graphs.append(graph)
    return graphs


def assemble(
    design: Design,
    backbones: Mapping[str, Backbone],
    samples: Sequence[StoredSample],
    *,
    scratch: Path,
    name: str,
    version: int,
    batch: int,
    seed: int,
    training: Training,
    provenance: Mapping[str, str],
    threads: int,
    single: bool = False,
    clipped: bool = False,
    saliency: bool = False,
    tiers: Mapping[str, NestedDesign] | None = None,
    inside: LoraEncoder | None = None,
    continues: Continuation | None = None,
    extend: Callable[[np.ndarray], np.ndarray] | None = None,
) -> BundleContents:
    """Everything that a bundle holds.

    backbones: by modality, their files already written.
    samples: those that become the golden ones.
    scratch: folder that graphs are written to.
    name, version, batch, seed, training, single, clipped, saliency: the recipe's.
    provenance: what the manifest says the bundle was made from.
    threads: of the runtime that computes the golden outputs.
    tiers: smaller designs within theta, by name.
    inside: the encoder that has LoRA inside.
    continues: of a bundle that extends an earlier one; extend: the seed's theta to that one's first theta.
    """
    tiers = tiers or {}
    theta = first_theta(design, seed, tiers if training.nested else {}, inside)
    theta = extend(theta) if extend else theta
    if inside:
        shutil.copyfile(inside.stored, scratch / inside.stored.name)
    graphs: list[GraphFile] = []
    for tier, tier_design in {FULL_TIER: design, **{name: tier.design for name, tier in tiers.items()}}.items():
        options = {"single": single, "clipped": clipped, "saliency": saliency}
        graphs += step_graphs(tier_design, scratch, batch, **options, tier=tier, inside=inside)
    graphs += _features_graphs(backbones)
    files, licences = _further_files(backbones, inside, scratch)
    reference = {name: load(built.graphs["float32"], threads=threads) for name, built in backbones.items()}
    shown = as_answered(design, theta, continues)
    predict = Predictor(design, graphs, shown, batch, threads)
    return BundleContents(
        name=name,
        version=version,
        design=design,
        theta=theta,
        graphs=tuple(graphs),
        files=files,
        golden=golden.golden_files(design, samples, reference, files.__getitem__, predict),
        training=msgspec.structs.replace(training, batch=batch),
        licences=licences,
        provenance={**provenance, "seed": str(seed)},
        tiers=tiers,
        continues=continues,
    )


def with_theta(
    contents: BundleContents,
    backbones: Mapping[str, Backbone],
    samples: Sequence[StoredSample],
    theta: np.ndarray,
    threads: int,
) -> BundleContents:
    """The contents with another first theta float32 [P], and the golden outputs of `samples` with it."""
    design, files = contents.design, contents.files
    reference = {name: load(built.graphs["float32"], threads=threads) for name, built in backbones.items()}
    predict = Predictor(design, contents.graphs, theta, contents.training.batch, threads)
    return replace(
        contents, theta=theta, golden=golden.golden_files(design, samples, reference, files.__getitem__, predict)
    )


def as_answered(design: Design, theta: np.ndarray, continues: Continuation | None) -> np.ndarray:
    """Theta as devices feed it to graphs: with labels masked that nobody has taught (`Graphs.masked`)."""
    shown = theta.copy()
    for task in design.tasks:
        masked = continues.masked.get(task.name, ()) if continues else ()
        columns = label_columns(design.layout, f"head.{task.name}") if masked else []
        for label in masked:
            shown[columns[task.labels.index(label)][-1]] = MASKED_LOGIT
    return shown


def first_theta(
    design: Design, seed: int, nested: Mapping[str, NestedDesign], inside: LoraEncoder | None
) -> np.ndarray:
    """float32 [P], drawn by the seed; nested: tiers that no outer channel may feed at first."""
    theta = initial_theta(design.layout, seed)
    if nested:
        theta = sheltered(design, nested, theta)
    return inside.adapter.initial(design.layout, theta) if inside else theta


def _features_graphs(backbones: Mapping[str, Backbone]) -> list[GraphFile]:
    return [
        GraphFile(path, "features", (onnxruntime.__version__,), precision, built.modality.name)
        for built in backbones.values()
        for precision, path in sorted(built.graphs.items())
    ]


def _further_files(
    backbones: Mapping[str, Backbone], inside: LoraEncoder | None, scratch: Path
) -> tuple[dict[str, Path], tuple[Licence, ...]]:
    """Tokenizers, licences and LoRA's frozen weights by their names in the bundle, and the manifest's licences."""
    files = {name: path for built in backbones.values() for name, path in built.files.items()}
    licences = [licence for built in backbones.values() for licence in built.licences]
    if inside:
        files |= {**inside.files, f"graphs/{inside.stored.name}": inside.stored}
        for name, data in peft.files(inside.adapter).items():
            files[name] = scratch / Path(name).name
            files[name].write_bytes(data)
        licences += inside.licences
    return files, tuple(licences)


class Predictor:
    """Outputs of every task for any number of samples' features, by the predict graphs themselves."""

    def __init__(
        self, design: Design, graphs: Sequence[GraphFile], theta: np.ndarray, batch: int, threads: int
    ) -> None:
        self.design, self.theta, self.batch, self.threads = design, theta, batch, threads
        self.graphs = [g for g in graphs if (g.role, g.batch, g.tier) == ("predict", batch, FULL_TIER)]

    def __call__(self, rows: Sequence[Features]) -> dict[str, np.ndarray]:
        """`{task}.output`: float32 [rows, width], or [rows, tokens, width]."""
        tokens = golden.bucket(self.design, rows)
        run = load(next(g.path for g in self.graphs if g.tokens == tokens), threads=self.threads)
        parts = [
            run({THETA: self.theta, **golden.feeds(self.design, rows[i : i + self.batch], self.batch, tokens)})
            for i in range(0, len(rows), self.batch)
        ]
        return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}
