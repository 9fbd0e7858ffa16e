"""From a design and its backbones to the contents of a bundle: graphs, first theta, golden samples; torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from homeroom.contract.manifest import Training
from homeroom_exporter import golden
from homeroom_exporter.backbone import Backbone
from homeroom_exporter.golden import Features, Run
from homeroom_exporter.model import Design, initial_theta
from homeroom_exporter.trace import trace
from homeroom_exporter.write import Contents, GraphFile


def session(path: Path, threads: int) -> Run:
    """A graph as a function of its inputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in made.get_outputs()]
    return lambda feeds: dict(zip(names, made.run(names, dict(feeds)), strict=True))


def variants(design: Design) -> list[dict[str, int]]:
    """Token counts by modality of each variant: one for each bucket of text, or one where no text is read."""
    fixed = {m.name: m.buckets[-1] for m in design.modalities}
    text = next((m for m in design.modalities if m.name == "text"), None)
    return [{**fixed, "text": bucket} for bucket in text.buckets] if text else [fixed]


def step_graphs(design: Design, scratch: Path, batch: int, *, single: bool) -> list[GraphFile]:
    """Trace every variant of `grad` and `predict` into `scratch`; `single`: predict for one sample too."""
    graphs = []
    for tokens in variants(design):
        for role, size in (("grad", batch), ("predict", batch), *((("predict", 1),) if single else ())):
            graph = GraphFile(scratch, role, (onnxruntime.__version__,), batch=size, tokens=tokens)
            path = scratch / Path(graph.name).name
            path.write_bytes(trace(design, role, size, tokens).SerializeToString(deterministic=True))
            graphs.append(GraphFile(path, role, (onnxruntime.__version__,), batch=size, tokens=tokens))
    return graphs


def assemble(
    design: Design,
    backbones: Mapping[str, Backbone],
    rows: Sequence[Mapping[str, Any]],
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
) -> Contents:
    """Everything that the bundle holds, its files under `scratch`. rows: golden samples, raw inputs by slot."""
    theta = initial_theta(design.layout, seed)
    graphs = step_graphs(design, scratch, batch, single=single)
    for backbone in backbones.values():
        for precision, path in sorted(backbone.graphs.items()):
            graphs.append(GraphFile(path, "features", (onnxruntime.__version__,), precision, backbone.modality.name))
    files = {place: path for backbone in backbones.values() for place, path in backbone.files.items()}
    reference = {m: session(backbone.graphs["float32"], threads) for m, backbone in backbones.items()}
    predict = Predictor(design, graphs, theta, batch, threads)
    return Contents(
        name=name,
        version=version,
        design=design,
        theta=theta,
        graphs=tuple(graphs),
        files=files,
        golden=golden.golden_files(design, rows, reference, files.__getitem__, predict),
        training=training,
        licences=tuple(licence for backbone in backbones.values() for licence in backbone.licences),
        provenance={**provenance, "seed": str(seed)},
    )


class Predictor:
    """Outputs of every task for any number of rows of features, by the predict graphs themselves."""

    def __init__(
        self, design: Design, graphs: Sequence[GraphFile], theta: np.ndarray, batch: int, threads: int
    ) -> None:
        self.design, self.theta, self.batch, self.threads = design, theta, batch, threads
        self.graphs = [g for g in graphs if g.role == "predict" and g.batch == batch]

    def __call__(self, rows: Sequence[Features]) -> dict[str, np.ndarray]:
        """`{task}.output`: float32 [rows, width]."""
        tokens = golden.bucket(self.design, rows)
        run = session(next(g.path for g in self.graphs if g.tokens == tokens), self.threads)
        parts = [
            run({"theta": self.theta, **golden.feeds(self.design, rows[i : i + self.batch], self.batch, tokens)})
            for i in range(0, len(rows), self.batch)
        ]
        return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}
