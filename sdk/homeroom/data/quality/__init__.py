"""Is an input fit to learn from? One module a modality, thresholds with their units; a poor one is set aside, not lost.

A gate says why in a few words, or None. Gates are for what no lesson wants (a black picture, a silent clip), or what it
wants less (a blurred one); what is merely hard passes. `docs/quality.md` lists them.
"""

from __future__ import annotations

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Manifest
from homeroom.data.quality.finding import QualityFinding
from homeroom.data.samples import StoredInput, StoredSample

__all__ = ["QualityFinding", "poor_inputs"]


def poor_inputs(sample: StoredSample, manifest: Manifest) -> dict[tuple[str, int], QualityFinding]:
    """By (slot, place), every input that should not be learned from as others are before a person has looked at it."""
    found = {}
    for slot, places in sample.inputs.items():
        for place, value in enumerate(places):
            if value is not None and (poor := _assess_input(value, sample.language, manifest, slot)):
                name = f"{slot}[{place}]" if manifest.slot(slot).count > 1 else slot
                found[slot, place] = poor._replace(why=f"{name}: {poor.why}")
    return found


def _assess_input(value: StoredInput, language: str | None, manifest: Manifest, slot: str) -> QualityFinding | None:
    """Decoders are imported when first used."""
    preprocess = manifest.modality(manifest.slot(slot).modality).preprocess
    if isinstance(value, str):
        from homeroom.data.quality import text

        return text.assess(value, language)
    if isinstance(preprocess, ImagePreprocess) and isinstance(value, bytes):
        from homeroom.data.quality import image

        return image.assess(value)
    if isinstance(preprocess, AudioPreprocess) and isinstance(value, bytes):
        from homeroom.data.quality import audio

        return audio.assess(value, preprocess)
    return None
