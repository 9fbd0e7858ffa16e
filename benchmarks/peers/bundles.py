"""Bundles for benchmarks: as the exporter makes them, without the self-check's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from homeroom.contract.signing import certify, new_key
from homeroom.data.samples import StoredSample
from homeroom.runtime.bundle import Bundle, open_bundle, write_signature
from homeroom_exporter.bundle import write
from homeroom_exporter.bundle.write import BundleContents
from homeroom_exporter.encoders import backbone
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.export.design import calibration_values, choose_golden_samples, design_of
from homeroom_exporter.export.steps import assemble
from homeroom_exporter.model.tiers import make_tiers
from homeroom_exporter.recipe.recipe import Recipe


def assembled(
    recipe: Recipe,
    samples: Sequence[StoredSample],
    folder: Path,
    *,
    tiers: tuple[str, ...] = (),
    progress: Callable[[str], None] = lambda stage: None,
    **graphs: Any,
) -> tuple[BundleContents, dict[str, Backbone]]:
    """What the bundle holds, its files in `folder`, and its backbones by modality; samples calibrate them.

    graphs: which further ones, as in `homeroom_exporter.export.steps.assemble`.
    """
    made = {
        spec.modality: backbone.build(
            spec, calibration_values(recipe, spec.modality, samples), folder, progress=progress
        )
        for spec in recipe.encoders
    }
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
        tiers=make_tiers(design, tiers),
        **graphs,
    )
    return contents, made


def signed(contents: BundleContents, folder: Path) -> Bundle:
    """The bundle in `folder`/bundle, signed with keys of its own."""
    root, key = new_key(), new_key()
    with write.staging(folder / "bundle") as out:
        write_signature(out, write.fill(out, contents), certify(root, "exporter", key, "benchmark"), key)
    return open_bundle(folder / "bundle", root=None)
