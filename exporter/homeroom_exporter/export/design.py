"""The design of a bundle, from its recipe and calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeroom.contract.manifest import (
    MANIFEST_FORMAT,
    AudioPreprocess,
    ImagePreprocess,
    Manifest,
    Modality,
    Preprocess,
    SequencePreprocess,
    TablePreprocess,
    TextPreprocess,
    Tolerance,
)
from homeroom.data.preprocess import hashed_content
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError
from homeroom_exporter.bundle import golden
from homeroom_exporter.encoders.backbone import Backbone, EncoderSpec
from homeroom_exporter.model.design import Design
from homeroom_exporter.model.lora.build import Inside
from homeroom_exporter.recipe.recipe import Recipe

CALIBRATION_LIMIT = {
    "text": 1024,
    "image": 256,
    "audio": 128,
    "table": 4096,
    "sequence": 1024,
}  # values shown to a backbone's builder


def design_of(recipe: Recipe, backbones: Mapping[str, Backbone], inside: Inside | None = None) -> Design:
    made = {name: b.modality for name, b in backbones.items()}
    if inside:
        made[inside.adapter.modality.name] = inside.adapter.modality
    return Design(
        modalities=tuple(made[encoder.modality] for encoder in recipe.encoders),
        scales={name: b.scale for name, b in backbones.items()},
        slots=recipe.slots,
        tasks=recipe.tasks,
        heads=recipe.heads,
        width=recipe.width,
        hidden=recipe.hidden,
        weighting=recipe.weighting,
        objectives=recipe.objectives,
        adapter=inside.adapter if inside else None,
        scopes=recipe.scopes,
    )


def draft(recipe: Recipe) -> Manifest:
    """The manifest's slots and tasks, to check samples against before there is a bundle."""
    modalities = tuple(
        Modality(
            name=e.modality,
            features_id="0" * 64,
            encoder=e.source,
            taps=("0",),
            dim=e.dim,
            buckets=e.buckets,
            preprocess=_form(e),
            tolerance=Tolerance(0.0, 0.0),
        )
        for e in recipe.encoders
    )
    return Manifest(
        format=MANIFEST_FORMAT,
        name=recipe.name,
        version=recipe.version,
        files={},
        modalities=modalities,
        slots=recipe.slots,
        tasks=recipe.tasks,
        segments=(),
        graphs=(),
        theta="",
        golden="",
    )


def _form(encoder: EncoderSpec) -> Preprocess:
    """Enough of an encoder's preprocessing to check samples by."""
    match encoder.modality:
        case "text":
            return TextPreprocess(tokenizer="none")
        case "image":
            return ImagePreprocess(size=1, resize=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        case "audio":
            return AudioPreprocess(rate=16_000, samples=16_000, form="waveform")
        case "table":
            return TablePreprocess(columns=encoder.columns)
        case "sequence":
            return SequencePreprocess(skills=encoder.skills)


def values_of(recipe: Recipe, modality: str, samples: Sequence[StoredSample]) -> list[Any]:
    """Different values of one modality, spread over the samples, at most CALIBRATION_LIMIT of them."""
    slots = [slot for slot in recipe.slots if slot.modality == modality]
    found = {hashed_content(v): v for sample in samples for slot in slots for _, v in golden.places(slot, sample)}
    if not found:
        raise InputError(
            f"no calibration sample has a value for {modality}", where=modality, remedy="add some, or drop the encoder"
        )
    values = list(found.values())
    step = max(1, -(-len(values) // CALIBRATION_LIMIT[modality]))
    return values[::step]


def representative(recipe: Recipe, samples: Sequence[StoredSample]) -> list[StoredSample]:
    """Golden samples, spread over the calibration samples, those that show a slot not yet shown first."""
    order = [samples[i * len(samples) // recipe.golden] for i in range(min(recipe.golden, len(samples)))]
    shown = {slot for sample in order for slot in sample.inputs}
    for sample in samples:
        if not sample.inputs.keys() <= shown:
            order.append(sample)
            shown |= sample.inputs.keys()
    return order
