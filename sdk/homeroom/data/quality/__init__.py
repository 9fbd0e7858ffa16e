"""Quality gates: flag inputs that are unfit to learn from, one module a modality. A flagged input is kept for review.

Gates catch what no lesson wants (a black picture, a silent clip) or wants less (a blurred one); what is merely hard
passes. `docs/quality.md` lists the thresholds.
"""

from __future__ import annotations

import msgspec

from homeroom.contract.manifest import AudioPreprocess, Manifest, Preprocess, TablePreprocess, TextPreprocess
from homeroom.data.decoder import client
from homeroom.data.preprocess.media import decoded
from homeroom.data.preprocess.plain_text import plain
from homeroom.data.quality import table, text
from homeroom.data.quality.finding import QualityFinding
from homeroom.data.samples import StoredInput, StoredSample
from homeroom.data.tasks import kind_of

__all__ = ["QualityFinding", "far_labels", "poor_inputs"]

FAR_LABEL_SCALES = 8  # from the task's offset, as of a table's cells


def poor_inputs(sample: StoredSample, manifest: Manifest) -> dict[tuple[str, int], QualityFinding]:
    """Findings by (slot, index), for every input that a person should review before it counts in full."""
    findings = {}
    for slot, values in sample.inputs.items():
        for index, value in enumerate(values):
            if value is not None and (finding := _assess_input(value, sample.language, manifest, slot)):
                name = f"{slot}[{index}]" if manifest.slot(slot).count > 1 else slot
                findings[slot, index] = finding._replace(reason=f"{name}: {finding.reason}")
    return findings


def far_labels(sample: StoredSample, manifest: Manifest) -> list[str]:
    """Sentences on labels that are numbers far outside what the recipe states of their tasks."""
    found = []
    for name, label in sample.labels.items():
        task = manifest.task(name)
        far, is_stated = FAR_LABEL_SCALES * task.scale, (task.offset, task.scale) != (0.0, 1.0)
        if is_stated and kind_of(task).numbers and isinstance(label, int | float) and abs(label - task.offset) > far:
            least, largest = task.offset - far, task.offset + far
            unit = "" if task.unit is msgspec.UNSET else f" {task.unit}"
            found.append(f"label {name} is {label:g}{unit}, usual are {least:g} to {largest:g}{unit}")
    return found


def _assess_input(value: StoredInput, language: str | None, manifest: Manifest, slot: str) -> QualityFinding | None:
    modality = manifest.modality(manifest.slot(slot).modality)
    preprocess = modality.preprocess
    if isinstance(value, str):
        plain_only = isinstance(preprocess, TextPreprocess) and preprocess.version > 1
        return text.assess(plain(value).text if plain_only else value, language, modality.known_languages)
    if isinstance(preprocess, TablePreprocess) and isinstance(value, dict):
        return table.assess(preprocess, value)
    return client.run(assess_media, preprocess, value) if isinstance(value, bytes) else None


def assess_media(preprocess: Preprocess, data: bytes) -> QualityFinding | None:
    """Returns why a picture or a sound is poor, or None; runs in the decoder."""
    content = decoded(preprocess, data)
    if isinstance(preprocess, AudioPreprocess):
        from homeroom.data.quality import audio

        wave, rate = content
        return audio.assess(wave, rate, preprocess)
    from homeroom.data.quality import image

    return image.assess(content)
