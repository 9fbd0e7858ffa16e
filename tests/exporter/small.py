"""A recipe's bundle without the self-check, which weighs each graph in a process of its own."""

from __future__ import annotations

from pathlib import Path

import tiny

from homeroom.contract.signing import certify
from homeroom.data.ingest import read_samples
from homeroom.runtime.bundle import Bundle, open_bundle, write_signature
from homeroom_exporter.bundle import write
from homeroom_exporter.encoders import backbone
from homeroom_exporter.export.design import calibration_values, choose_golden_samples, design_of, draft
from homeroom_exporter.export.steps import assemble
from homeroom_exporter.model.design import Design
from homeroom_exporter.recipe.recipe import Recipe


def assembled(recipe: Recipe, calibration: Path, folder: Path) -> tuple[Bundle, Design]:
    """The bundle in `folder`/bundle, and the design that its graphs were traced from."""
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
    )
    with write.staging(folder / "bundle") as out:
        certificate = certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
        write_signature(out, write.fill(out, contents), certificate, tiny.EXPORTER)
    return open_bundle(folder / "bundle", root=None), design
