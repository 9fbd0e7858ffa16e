"""The flow of an export: recipe -> backbones -> design -> graphs -> golden samples -> self-check -> written bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.manifest import (
    Manifest,
)
from homeroom.contract.signing import Certificate
from homeroom.data.ingest import read_samples
from homeroom.data.preprocess import Prepared, prepare
from homeroom.errors import ExportError, InputError
from homeroom.runtime.bundle import write_signature
from homeroom_exporter.bundle.scratch import claim
from homeroom_exporter.bundle.write import fill, staging
from homeroom_exporter.check import check, linear_probe, tap_probe
from homeroom_exporter.check.footprint import Twin
from homeroom_exporter.encoders import backbone
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.export.design import design_of, draft, representative, values_of
from homeroom_exporter.export.steps import assemble, lora_pairs, made_with
from homeroom_exporter.interchange import litert
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.build import Inside
from homeroom_exporter.model.lora.plan import Checkpoint
from homeroom_exporter.model.tiers import make_tiers
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.recipe.recipe import Recipe, with_modules

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """A written bundle and the self-check that it passed."""

    path: Path
    manifest: Manifest
    bundle_id: str
    report: check.Report


def export(
    recipe: Recipe,
    calibration: Path,
    out: Path,
    key: Ed25519PrivateKey,
    certificate: Certificate,
    *,
    modules: Mapping[str, Any] | None = None,
    start: Checkpoint | None = None,
    threads: int = 2,
    progress: Progress = lambda stage: None,
    show: Callable[[check.Report], None] = lambda report: None,
) -> Exported:
    """Make the bundle that the recipe describes and write it to the directory `out`, which must not exist.

    calibration: samples (JSONL, CSV or a folder) that the backbones' compression and quantization are fitted on; the
    labelled ones also serve the self-check, and a few become the golden samples. modules: torch modules by modality for
    encoders whose source is `torch:<folder>`; they are copied, never changed. start: a PEFT checkpoint whose layers,
    ranks and values the recipe's adapter takes. `show` gets the self-check's report.
    Raises ExportError if it failed; nothing is written then.
    """
    if "litert" in recipe.runtimes:
        litert.converter()  # said before the long work
    stated, recipe = digest(msgspec.json.encode(recipe)), with_modules(recipe, modules or {})
    with staging(out) as folder, closing(claim(Path(tempfile.gettempdir()), "homeroom-export-")) as work:
        scratch = work.path
        progress("reading the calibration samples")
        samples = list(read_samples(calibration, draft(recipe)))
        if not samples:
            raise InputError("holds no sample", where=str(calibration), remedy="give a hundred or more, with labels")
        linear_probe.refuse_one_class(recipe.tasks, samples, str(calibration))
        backbones: dict[str, Backbone] = {}
        inside: Inside | None = None
        chosen: list[tap_probe.TapChoice] = []
        for encoder in recipe.encoders:
            progress(f"building the {encoder.modality} backbone from {encoder.source}")
            place = scratch / encoder.modality
            place.mkdir()
            if recipe.adapter and recipe.adapter.modality == encoder.modality:
                pairs = lora_pairs(recipe, encoder)
                inside = lora.build(encoder, recipe.adapter, place, pairs=pairs, seed=recipe.seed, start=start)
                continue
            if choice := tap_probe.choose(recipe, encoder, samples, place, progress=progress):
                encoder = msgspec.structs.replace(encoder, taps=tap_probe.named(choice))
                chosen.append(choice)
            values = values_of(recipe, encoder.modality, samples)
            backbones[encoder.modality] = backbone.build(encoder, values, place, progress=progress)
        progress("tracing the training step")
        design = design_of(recipe, backbones, inside)
        contents = assemble(
            design,
            backbones,
            representative(recipe, samples),
            scratch=scratch,
            name=recipe.name,
            version=recipe.version,
            batch=recipe.batch,
            seed=recipe.seed,
            training=recipe.training,
            provenance={
                "recipe": stated,
                **made_with(),
                **{f"taps.{choice.modality}": choice.said for choice in chosen},
                **(start.facts if start else {}),
            },
            threads=threads,
            single=recipe.single,
            clipped=recipe.clipped,
            saliency=recipe.saliency and bool(design.explained),
            inside=inside,
            tiers=make_tiers(design, recipe.tiers),
        )
        twins: tuple[Twin, ...] = ()
        if "litert" in recipe.runtimes:
            inputs = {name: _prepared(made, values_of(recipe, name, samples)) for name, made in backbones.items()}
            place = scratch / "litert"
            place.mkdir()
            found = litert.convert(contents, inputs, place, threads=threads, progress=progress)
            contents, twins = replace(contents, converted=found.graphs, unconverted=found.refused), found.twins
        progress("checking itself")
        report = check.check(contents, backbones, samples, threads=threads)
        report = replace(report, litert=twins, unconverted=contents.unconverted, taps=tuple(chosen))
        show(report)
        if not report.passed:
            raise ExportError(
                f"the self-check failed: {'; '.join(report.failures)}",
                where=recipe.name,
                remedy="nothing was written",
            )
        progress("writing")
        manifest = fill(folder, contents)
        bundle_id = write_signature(folder, manifest, certificate, key)
    return Exported(out, manifest, bundle_id, report)


def _prepared(made: Backbone, values: Sequence[Any]) -> list[Prepared]:
    chosen = [value.read_bytes() if isinstance(value, Path) else value for value in values]
    return [prepare(made.modality, value, made.files.__getitem__) for value in fidelity.spread(chosen, litert.INPUTS)]
