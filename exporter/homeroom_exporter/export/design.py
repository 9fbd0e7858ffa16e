"""The design of a bundle, from its recipe and calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from homeroom.contract import manifest
from homeroom.contract.manifest import Manifest, Preprocess
from homeroom.data.preprocess import hashed_content
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError
from homeroom_exporter.bundle import golden
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.model.design import Design
from homeroom_exporter.model.lora.build import LoraEncoder
from homeroom_exporter.recipe.recipe import Recipe

# Values that a backbone's compression and quantization are fitted on, at most.
CALIBRATION_VALUES = {"text": 1024, "image": 256, "audio": 128, "table": 4096, "sequence": 1024}


def design_of(
    recipe: Recipe,
    backbones: Mapping[str, Backbone],
    inside: LoraEncoder | None = None,
    added: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> Design:
    """The recipe's model on its built encoders; inside: the encoder that has LoRA inside; added: as of `Design`."""
    modalities = {name: built.modality for name, built in backbones.items()}
    if inside:
        modalities[inside.adapter.modality.name] = inside.adapter.modality
    return Design(
        modalities=tuple(modalities[spec.modality] for spec in recipe.encoders),
        scales={name: built.scale for name, built in backbones.items()},
        slots=recipe.slots,
        tasks=recipe.tasks,
        heads=recipe.heads,
        width=recipe.width,
        hidden=recipe.hidden,
        weighting=recipe.weighting,
        objectives=recipe.objectives,
        adapter=inside.adapter if inside else None,
        scopes=recipe.scopes,
        added=added,
    )


def draft(recipe: Recipe) -> Manifest:
    """The manifest's slots and tasks, to check samples against before there is a bundle."""
    modalities = tuple(
        manifest.Modality(
            name=spec.modality,
            features_id="0" * 64,
            encoder=spec.source,
            taps=("0",),
            dim=spec.dim,
            buckets=spec.buckets,
            preprocess=manifest.at_version(_draft_preprocess(spec), spec.preprocessing),
            tolerance=manifest.Tolerance(0.0, 0.0),
        )
        for spec in recipe.encoders
    )
    return Manifest(
        format=manifest.MANIFEST_FORMAT,
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


def _draft_preprocess(spec: EncoderSpec) -> Preprocess:
    """Enough of an encoder's preprocessing to check samples by."""
    match spec.modality:
        case "text":
            return manifest.TextPreprocess(tokenizer="none")
        case "image":
            return manifest.ImagePreprocess(size=1, resize=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        case "audio":
            return manifest.AudioPreprocess(rate=16_000, samples=16_000, form="waveform")
        case "table":
            return manifest.TablePreprocess(columns=spec.columns)
        case "sequence":
            return manifest.SequencePreprocess(skills=spec.skills)


def calibration_values(recipe: Recipe, modality: str, samples: Sequence[StoredSample]) -> list[Any]:
    """Different values of one modality, spread over the samples, at most CALIBRATION_LIMIT of them."""
    slots = [slot for slot in recipe.slots if slot.modality == modality]
    by_content = {
        hashed_content(v): v for sample in samples for slot in slots for _, v in golden.slot_values(slot, sample)
    }
    if not by_content:
        fault = f"no calibration sample has a value for {modality}"
        raise InputError(fault, where=modality, remedy="add some, or drop the encoder")
    values = list(by_content.values())
    step = max(1, -(-len(values) // CALIBRATION_VALUES[modality]))
    return values[::step]


def choose_golden_samples(recipe: Recipe, samples: Sequence[StoredSample]) -> list[StoredSample]:
    """Samples spread over the calibration samples, then those that show a slot not yet shown."""
    chosen = [samples[i * len(samples) // recipe.golden] for i in range(min(recipe.golden, len(samples)))]
    shown = {slot for sample in chosen for slot in sample.inputs}
    for sample in samples:
        if not sample.inputs.keys() <= shown:
            chosen.append(sample)
            shown |= sample.inputs.keys()
    return chosen
