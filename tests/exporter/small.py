"""A recipe's bundle without the self-check, and whether a bundle's graphs are as the contract says."""

from __future__ import annotations

from pathlib import Path

import onnx
import tiny

from homeroom.contract import graph_io
from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Tensor
from homeroom.contract.signing import certify
from homeroom.data.ingest import read_samples
from homeroom.data.tasks import kind_of
from homeroom.runtime.bundle import Bundle, open_bundle, write_signature
from homeroom_exporter.bundle import write
from homeroom_exporter.encoders import backbone
from homeroom_exporter.export.design import calibration_values, choose_golden_samples, design_of, draft
from homeroom_exporter.export.steps import assemble
from homeroom_exporter.model.design import Design
from homeroom_exporter.recipe.recipe import Recipe


def assembled(recipe: Recipe, calibration: Path, folder: Path, saliency: bool = False) -> tuple[Bundle, Design]:
    """The bundle in `folder`/bundle, and the design that its graphs were traced from.

    saliency: with graphs that explain answers.
    """
    samples = list(read_samples(calibration, draft(recipe)))
    made = {}
    for encoder in recipe.encoders:
        place = folder / encoder.modality
        place.mkdir()
        made[encoder.modality] = backbone.build(encoder, calibration_values(recipe, encoder.modality, samples), place)
    design = design_of(recipe, made)
    contents = assemble(
        design,
        made,
        choose_golden_samples(recipe, samples),
        scratch=folder,
        name=recipe.name,
        version=1,
        batch=recipe.batch,
        seed=recipe.seed,
        training=recipe.training,
        provenance={},
        threads=1,
        saliency=saliency,
    )
    with write.staging(folder / "bundle") as out:
        certificate = certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
        write_signature(out, write.fill(out, contents), certificate, tiny.EXPORTER)
    return with_checked_io(open_bundle(folder / "bundle", root=None)), design


def with_checked_io(bundle: Bundle) -> Bundle:
    """The bundle; every graph's real inputs and outputs: names, dtypes and shapes are those of `contract.graph_io`."""
    manifest, sizes = bundle.manifest, {FULL_TIER: bundle.layout.size}
    sizes |= {tier.name: tier.size for tier in manifest.tiers}
    for graph in (graph for graph in manifest.every_graph if graph.runtime == "onnx"):
        if graph.role == "features":
            inputs, features = graph_io.features_io(manifest.modality(str(graph.modality)))
            outputs = [features]
        else:
            per_token = [task.name for task in manifest.tasks if kind_of(task).per_token]
            step = manifest, graph.role, graph.batch, graph.tokens, per_token
            asked = [task.name for task in manifest.tasks if task.kind == "tracing" and manifest.format > 2]
            inputs = [Tensor(graph_io.THETA, "float32", (sizes[graph.tier],)), *graph_io.step_inputs(*step, asked)]
            outputs = graph_io.step_outputs(*step, sizes[graph.tier])
        model = onnx.load(bundle.file(graph.file), load_external_data=False)
        for declared, values in ((inputs, model.graph.input), (outputs, model.graph.output)):
            real = [(v.name, write.DTYPES[v.type.tensor_type.elem_type], _shape(v)) for v in values]
            known = [(t.name, t.dtype, _known(t, shape)) for t, (_, _, shape) in zip(declared, real, strict=True)]
            assert real == known, graph.file
    return bundle


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value or -1 for dimension in value.type.tensor_type.shape.dim)


def _known(tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The declared shape; how many tokens a picture's pull has is the encoder's own."""
    own = tensor.name.endswith(f".{graph_io.PULL}") and tensor.shape[-1] == -1
    return (*tensor.shape[:-1], shape[-1]) if own else tensor.shape
