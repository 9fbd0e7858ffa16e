"""Step graphs of a design in every variant, assembled into a bundle's contents."""

from __future__ import annotations

import importlib.metadata
import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Training
from homeroom.data.samples import StoredSample
from homeroom.runtime.backend import load
from homeroom_exporter.bundle import golden
from homeroom_exporter.bundle.golden import Features
from homeroom_exporter.bundle.write import VARYING, Contents, GraphFile
from homeroom_exporter.encoders.backbone import Backbone, EncoderSpec
from homeroom_exporter.interchange import peft
from homeroom_exporter.model.design import Design, initial_theta
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.build import Inside
from homeroom_exporter.model.tiers import Tier, sheltered
from homeroom_exporter.recipe.recipe import Recipe
from homeroom_exporter.trace.trace import trace

PART = 16  # rows that a training graph holds of a batch: half of the default, for a machine with two cores
SALIENCY_BATCH = 16  # points on the way to one sample that a device computes at once
MADE_WITH = ("homeroom", "torch", "onnx", "onnxruntime", "numpy")


def made_with() -> dict[str, str]:
    return {f"made_with.{name}": importlib.metadata.version(name) for name in MADE_WITH}


def variants(design: Design) -> list[dict[str, int]]:
    """Token counts by modality of each variant: one for each bucket of text (with each of sequences), else one."""
    fixed: dict[str, int] = {m.name: m.buckets[-1] for m in design.modalities}
    varying = [m for m in design.modalities if m.name in VARYING]
    return [
        {**fixed, **{m.name: bucket for m, bucket in zip(varying, buckets, strict=True)}}
        for buckets in itertools.product(*(m.buckets for m in varying))
    ]


def lora_pairs(recipe: Recipe, spec: EncoderSpec) -> bool:
    """Whether an encoder with LoRA inside reads two texts at once, or keeps every token."""
    return spec.modality == "text" and not {"pair", "spans"}.isdisjoint(recipe.heads.values())


def part_of(design: Design, batch: int) -> int:
    """Rows of a `grad` graph: a part of the batch, so that a device runs several side by side and holds less.

    All of it where rows are compared with each other, and with a backbone inside, whose weights each part would unpack.
    """
    whole = design.adapter or any(objective.kind == "alignment" for objective in design.objectives)
    return batch if whole or batch % PART else PART


def step_graphs(
    design: Design,
    scratch: Path,
    batch: int,
    *,
    single: bool = False,
    clipped: bool = False,
    saliency: bool = False,
    tier: str = FULL_TIER,
    inside: Inside | None = None,
) -> list[GraphFile]:
    """Trace every variant of every step of a tier into `scratch`; the options are the recipe's."""
    steps = [("grad", part_of(design, batch)), ("predict", batch)]
    steps += [("predict", 1)] if single else []
    steps += [("grad_heads", part_of(design, batch))] if not inside else []
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
    tiers: Mapping[str, Tier] | None = None,
    inside: Inside | None = None,
) -> Contents:
    """Everything that the bundle holds, its files under `scratch`; `samples` become the golden ones."""
    theta = initial_theta(design.layout, seed)
    if training.nested:
        theta = sheltered(design, tiers or {}, theta)
    if inside:
        theta = inside.adapter.initial(design.layout, theta)
        shutil.copyfile(inside.stored, scratch / inside.stored.name)
    graphs = step_graphs(design, scratch, batch, single=single, clipped=clipped, saliency=saliency, inside=inside)
    for tier, small in (tiers or {}).items():
        graphs += step_graphs(
            small.design, scratch, batch, single=single, clipped=clipped, saliency=saliency, tier=tier, inside=inside
        )
    for made in backbones.values():
        for precision, path in sorted(made.graphs.items()):
            graphs.append(GraphFile(path, "features", (onnxruntime.__version__,), precision, made.modality.name))
    files = {place: path for made in backbones.values() for place, path in made.files.items()}
    licences = [licence for made in backbones.values() for licence in made.licences]
    if inside:
        files |= {**inside.files, f"graphs/{inside.stored.name}": inside.stored}
        for place, data in peft.files(inside.adapter).items():
            files[place] = scratch / Path(place).name
            files[place].write_bytes(data)
        licences += inside.licences
    reference = {m: load(made.graphs["float32"], threads=threads) for m, made in backbones.items()}
    predict = Predictor(design, graphs, theta, batch, threads)
    return Contents(
        name=name,
        version=version,
        design=design,
        theta=theta,
        graphs=tuple(graphs),
        files=files,
        golden=golden.golden_files(design, samples, reference, files.__getitem__, predict),
        training=msgspec.structs.replace(training, batch=batch),
        licences=tuple(licences),
        provenance={**provenance, "seed": str(seed)},
        tiers=tiers or {},
    )


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
            run({"theta": self.theta, **golden.feeds(self.design, rows[i : i + self.batch], self.batch, tokens)})
            for i in range(0, len(rows), self.batch)
        ]
        return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}
