"""Quality gates: flag inputs that are unfit to learn from, one module a modality. A flagged input is kept for review.

Gates catch what no lesson wants (a black picture, a silent clip) or wants less (a blurred one); what is merely hard
passes. `docs/quality.md` lists the thresholds.
"""

from __future__ import annotations

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Manifest
from homeroom.data.quality.finding import QualityFinding
from homeroom.data.samples import StoredInput, StoredSample

__all__ = ["QualityFinding", "poor_inputs"]


def poor_inputs(sample: StoredSample, manifest: Manifest) -> dict[tuple[str, int], QualityFinding]:
    """Findings by (slot, index), for every input that a person should review before it counts in full."""
    findings = {}
    for slot, values in sample.inputs.items():
        for index, value in enumerate(values):
            if value is not None and (finding := _assess_input(value, sample.language, manifest, slot)):
                name = f"{slot}[{index}]" if manifest.slot(slot).count > 1 else slot
                findings[slot, index] = finding._replace(reason=f"{name}: {finding.reason}")
    return findings


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
