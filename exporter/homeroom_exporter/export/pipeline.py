"""The flow of an export: recipe -> backbones -> design -> graphs -> golden samples -> self-check -> written bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.manifest import Manifest
from homeroom.contract.signing import Certificate
from homeroom.runtime.bundle import Bundle, write_signature
from homeroom.runtime.fallback import second_file
from homeroom_exporter.bundle.scratch import claim
from homeroom_exporter.bundle.write import fill, set_apart, staging
from homeroom_exporter.check.check import SelfCheck
from homeroom_exporter.check.footprint import RuntimeComparison
from homeroom_exporter.export import stages
from homeroom_exporter.export.extend import check_old_answers, kept_backbones, open_extended
from homeroom_exporter.export.teach import count_labelled
from homeroom_exporter.interchange import litert
from homeroom_exporter.model.lora.plan import Checkpoint
from homeroom_exporter.recipe.recipe import Recipe, with_modules

OLD_ANSWERS = 64  # calibration samples on which the answers of an earlier bundle are compared


@dataclass(frozen=True)
class Exported:
    """A written bundle and the self-check that it passed; `second`: the file of its float32 backbones, if any."""

    path: Path
    manifest: Manifest
    bundle_id: str
    report: SelfCheck
    second: Path | None = None


def export(
    recipe: Recipe,
    calibration: Path,
    out: Path,
    key: Ed25519PrivateKey,
    certificate: Certificate,
    *,
    modules: Mapping[str, Any] | None = None,
    start: Checkpoint | None = None,
    teach: bool = False,
    extends: Path | None = None,
    threads: int = 2,
    progress: stages.Progress = lambda stage: None,
    show: Callable[[SelfCheck], None] = lambda report: None,
) -> Exported:
    """Makes the bundle that the recipe describes and writes it to the directory `out`, which must not exist.

    Its float32 backbones, where there are int8 ones, go to a second file beside it.

    calibration: samples (JSONL, CSV or a folder) that the backbones' compression and quantization are fitted on; the
        labelled ones also serve the self-check, and a few become the golden samples.
    key, certificate: the exporter's private key, and the root's certificate of it.
    modules: torch modules by modality for encoders whose source is `torch:<folder>`; they are copied, never changed.
    start: a PEFT checkpoint whose layers, ranks and values the recipe's adapter takes.
    teach: theta starts from the labels of the calibration samples, in place of the seed's values.
    extends: an earlier bundle of the same name and root, whose encoders and theta go on (`extend`).
    threads: of the runtime, in the self-check.
    progress: called with the name of each stage; show: with the self-check's report.

    Raises ExportError if the self-check failed; nothing is written then.
    """
    for_litert = "litert" in recipe.runtimes
    if for_litert:
        litert.converter()  # refused before the long work
    recipe_digest, recipe = digest(msgspec.json.encode(recipe)), with_modules(recipe, modules or {})
    with staging(out) as folder, closing(claim(Path(tempfile.gettempdir()), "homeroom-export-")) as scratch:
        earlier = open_extended(extends, scratch.path, recipe, certificate) if extends else None
        progress("reading the calibration samples")
        samples = stages.read_calibration(recipe, calibration, progress)
        if teach:
            count_labelled(samples)  # refused before the long work
        kept = kept_backbones(earlier, recipe, scratch.path) if earlier else {}
        encoders = stages.build_encoders(recipe, samples, scratch.path, start=start, progress=progress, kept=kept)
        progress("tracing the training step")
        provenance = stages.provenance_of(recipe_digest, encoders.choices, start)
        provenance |= earlier.provenance if earlier else {}
        contents = stages.contents_of(
            recipe,
            encoders,
            samples,
            scratch.path,
            provenance=provenance,
            threads=threads,
            progress=progress,
            teacher=certificate if teach else None,
            extended=earlier,
        )
        comparisons: tuple[RuntimeComparison, ...] = ()
        if for_litert:
            contents, comparisons = stages.with_litert(
                contents, recipe, encoders.backbones, samples, scratch.path, threads=threads, progress=progress
            )
        progress("checking itself")
        report = stages.check_contents(contents, encoders, samples, comparisons=comparisons, threads=threads, show=show)
        progress("writing")
        manifest = fill(folder, contents)
        bundle_id = write_signature(folder, manifest, certificate, key)
        if earlier:
            made = Bundle(folder, manifest, bundle_id, certificate)
            equal = check_old_answers(earlier, made, samples[:OLD_ANSWERS], threads)
            progress(f"{equal:,} outputs on calibration samples are those of {earlier.label}, bit for bit")
        set_apart(folder, manifest)
    return Exported(out, manifest, bundle_id, report, second_file(out) if manifest.fallback_files else None)
