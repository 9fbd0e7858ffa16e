"""The stages of an export, each with one job; `pipeline.export` runs them in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from homeroom.contract.signing import Certificate
from homeroom.data.ingest import read_samples
from homeroom.data.preprocess import Prepared, prepare
from homeroom.data.samples import StoredSample
from homeroom.errors import ExportError, InputError
from homeroom.system import clock
from homeroom_exporter.bundle.synthetic import synthetic_samples
from homeroom_exporter.bundle.write import BundleContents
from homeroom_exporter.check import linear_probe, tap_probe
from homeroom_exporter.check.check import SelfCheck, check
from homeroom_exporter.check.footprint import RuntimeComparison
from homeroom_exporter.check.tap_probe import TapChoice
from homeroom_exporter.encoders import backbone, processors
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.export.design import calibration_values, choose_golden_samples, design_of, draft
from homeroom_exporter.export.extend import (
    Extended,
    added_labels,
    continuation_of,
    extended_theta,
    with_earlier_statistics,
)
from homeroom_exporter.export.statistics import fit_statistics
from homeroom_exporter.export.statistics_size import statistics_sentence
from homeroom_exporter.export.steps import assemble, library_versions, reads_token_pairs
from homeroom_exporter.export.teach import teach
from homeroom_exporter.interchange import litert
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.build import LoraEncoder
from homeroom_exporter.model.lora.plan import Checkpoint
from homeroom_exporter.model.tiers import make_tiers
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.recipe.recipe import Recipe

Progress = Callable[[str], None]
CALIBRATION_LIMIT_BYTES = 2 << 30  # all samples are held at once
CALIBRATION_SAMPLE_BYTES = 1000  # of each, beside its texts and files


@dataclass(frozen=True)
class BuiltEncoders:
    """A recipe's encoders: frozen backbones by modality, or LoRA inside one; `choices`: layers taken by probes."""

    backbones: Mapping[str, Backbone]
    inside: LoraEncoder | None
    choices: tuple[TapChoice, ...]


def read_calibration(recipe: Recipe, path: Path, progress: Progress = lambda stage: None) -> list[StoredSample]:
    """The calibration samples, all in memory, but for those that consent or their last day keeps out of a bundle.

    progress: is told how many those are.

    Raises InputError where there is none, all are too large, or all labels of a task are the same.
    """
    samples, size_bytes, left_out, today = list[StoredSample](), 0, 0, clock.now().date().isoformat()
    for sample in read_samples(path, draft(recipe)):
        if not sample.trainable or sample.is_over(today):
            left_out += 1
            continue
        samples.append(sample)
        values = (value for each in sample.inputs.values() for value in each)
        size_bytes += CALIBRATION_SAMPLE_BYTES + sum(len(value) for value in values if isinstance(value, bytes | str))
        if size_bytes > CALIBRATION_LIMIT_BYTES:
            says = f"holds more than {CALIBRATION_LIMIT_BYTES >> 20:,} MB of samples"
            raise InputError(says, where=str(path), remedy="some hundreds of them are enough: give a part")
    if left_out:
        progress(f"{left_out:,} left out: their consent is refused or withdrawn, or their last day has passed")
    if not samples:
        raise InputError("holds no sample that may be used", where=str(path), remedy="give a hundred, with labels")
    linear_probe.refuse_one_class(recipe.tasks, samples, str(path))
    return samples


def build_encoders(
    recipe: Recipe,
    samples: Sequence[StoredSample],
    scratch: Path,
    *,
    start: Checkpoint | None,
    progress: Progress,
    kept: Mapping[str, Backbone] = MappingProxyType({}),
) -> BuiltEncoders:
    """Build every encoder in a folder of its own under `scratch`, but those that are `kept` from an earlier bundle.

    start: the PEFT checkpoint that LoRA begins from.
    """
    backbones: dict[str, Backbone] = dict(kept)
    inside: LoraEncoder | None = None
    choices: list[TapChoice] = []
    for spec in (one for one in recipe.encoders if one.modality not in kept):
        progress(f"building the {spec.modality} backbone from {spec.source}")
        folder = scratch / spec.modality
        folder.mkdir()
        if recipe.adapter and recipe.adapter.modality == spec.modality:
            pairs = reads_token_pairs(recipe, spec)
            inside = lora.build(spec, recipe.adapter, folder, pairs=pairs, seed=recipe.seed, start=start)
            _hold(spec, inside, calibration_values(recipe, spec.modality, samples))
            continue
        if choice := tap_probe.choose(recipe, spec, samples, folder, progress=progress):
            spec = msgspec.structs.replace(spec, taps=tap_probe.recipe_taps(choice))
            choices.append(choice)
        values = calibration_values(recipe, spec.modality, samples)
        backbones[spec.modality] = backbone.build(spec, values, folder, progress=progress)
    return BuiltEncoders(backbones, inside, tuple(choices))


def _hold(spec: EncoderSpec, inside: LoraEncoder, values: Sequence[Any]) -> None:
    raw = [value.read_bytes() if isinstance(value, Path) else value for value in values]
    processors.hold(spec, inside.adapter.modality, inside.files.__getitem__, raw)


def provenance_of(recipe_digest: str, choices: Sequence[TapChoice], start: Checkpoint | None) -> dict[str, str]:
    """What a bundle was made from and with, for its manifest."""
    taps = {f"taps.{choice.modality}": choice.summary for choice in choices}
    return {"recipe": recipe_digest, **library_versions(), **taps, **(start.facts if start else {})}


def golden_samples(
    recipe: Recipe, backbones: Mapping[str, Backbone], samples: Sequence[StoredSample]
) -> tuple[list[StoredSample], str]:
    """The samples that travel in the bundle, and a sentence on whose they are."""
    if recipe.golden_from == "synthetic":
        return synthetic_samples(recipe, backbones), f"{recipe.golden} synthetic golden samples travel in the bundle"
    chosen = choose_golden_samples(recipe, samples)
    said = f"{len(chosen)} calibration samples travel in the bundle as golden samples, with their texts and media"
    return chosen, f'{said}: whoever gets it can read them (golden_from = "synthetic" draws others)'


def contents_of(
    recipe: Recipe,
    encoders: BuiltEncoders,
    samples: Sequence[StoredSample],
    scratch: Path,
    *,
    provenance: Mapping[str, str],
    threads: int,
    progress: Progress,
    teacher: Certificate | None = None,
    extended: Extended | None = None,
) -> BundleContents:
    """The bundle's contents for onnxruntime: theta, step graphs, backbones and golden samples.

    teacher: the exporter's certificate where theta starts from the labels of the samples.
    extended: the earlier bundle that this one goes on from.
    """
    added = added_labels(extended, recipe.tasks) if extended else {}
    design = design_of(recipe, encoders.backbones, encoders.inside, added)
    golden, sentence = golden_samples(recipe, encoders.backbones, samples)
    progress(sentence)
    manifest = msgspec.structs.replace(draft(recipe), modalities=design.modalities)
    how = continuation_of(extended, design) if extended else None
    contents = assemble(
        design,
        encoders.backbones,
        golden,
        scratch=scratch,
        name=recipe.name,
        version=recipe.version,
        batch=recipe.batch,
        seed=recipe.seed,
        training=recipe.training,
        provenance=provenance,
        threads=threads,
        single=recipe.single,
        clipped=recipe.clipped,
        saliency=recipe.saliency and bool(design.explained),
        inside=encoders.inside,
        tiers=make_tiers(design, recipe.tiers),
        continues=how,
        extend=partial(extended_theta, extended, how, design.layout, design.tasks) if extended and how else None,
    )
    fitted = fit_statistics(
        manifest,
        encoders.backbones,
        samples,
        threads=threads,
        letters=recipe.letters,
        components=recipe.components,
        theta_values=contents.theta.size,
    )
    if fitted:
        progress(statistics_sentence(manifest, fitted.section, contents.theta.size))
    if teacher is not None:
        progress("learning from the labels of the calibration samples")
        contents = teach(contents, encoders.backbones, golden, samples, teacher, scratch, threads=threads)
    contents = replace(contents, statistics=fitted)
    return with_earlier_statistics(contents, extended) if extended else contents


def with_litert(
    contents: BundleContents,
    recipe: Recipe,
    backbones: Mapping[str, Backbone],
    samples: Sequence[StoredSample],
    scratch: Path,
    *,
    threads: int,
    progress: Progress,
) -> tuple[BundleContents, tuple[RuntimeComparison, ...]]:
    """The contents with LiteRT's graphs beside them, and how each compares with its ONNX graph."""
    inputs = {name: _prepared(built, calibration_values(recipe, name, samples)) for name, built in backbones.items()}
    folder = scratch / "litert"
    folder.mkdir()
    conversion = litert.convert(contents, inputs, folder, threads=threads, progress=progress)
    return replace(contents, converted=conversion.graphs, unconverted=conversion.refused), conversion.comparisons


def _prepared(built: Backbone, values: Sequence[Any]) -> list[Prepared]:
    raw = [value.read_bytes() if isinstance(value, Path) else value for value in values]
    return [
        prepare(built.modality, value, built.files.__getitem__)
        for value in fidelity.spread(raw, litert.COMPARED_INPUTS)
    ]


def check_contents(
    contents: BundleContents,
    encoders: BuiltEncoders,
    samples: Sequence[StoredSample],
    *,
    comparisons: tuple[RuntimeComparison, ...],
    threads: int,
    show: Callable[[SelfCheck], None],
) -> SelfCheck:
    """The self-check, shown; ExportError where it failed."""
    report = check(contents, encoders.backbones, samples, threads=threads)
    report = replace(report, litert=comparisons, unconverted=contents.unconverted, taps=encoders.choices)
    show(report)
    if not report.passed:
        reason = f"the self-check failed: {'; '.join(report.failures)}"
        raise ExportError(reason, where=contents.name, remedy="nothing was written")
    return report
