"""Synthetic golden samples, drawn by the recipe's seed: no person's text, picture or voice travels in the bundle."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from homeroom.data.preprocess import prepare
from homeroom.data.samples import StoredInput, StoredSample
from homeroom.errors import ExportError
from homeroom.runtime.backend import load
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.recipe.recipe import Recipe

TEXT_WORDS = (
    "the a one two red blue green small large old new cat dog bird tree river house road sun water light stone wheel "
    "is has sees makes turns moves opens falls grows because when under over with without then not often never"
)
RATE, CLIP_SECONDS = 16_000, 1.0
SIDE = 96  # pixels of a picture
SPARE = 3  # values are drawn for each that is taken


def synthetic_samples(recipe: Recipe, backbones: Mapping[str, Backbone]) -> list[StoredSample]:
    """`recipe.golden` samples with every input filled in and no label.

    Of each modality those values are taken whose quantized features agree best with float32's; ExportError where they
    are not within the tolerance, which a device holds them against.
    """
    pools: dict[str, list[StoredInput]] = {}
    for spec in recipe.encoders:
        wanted = recipe.golden * sum(slot.count for slot in recipe.slots if slot.modality == spec.modality)
        draw = np.random.default_rng([recipe.seed, *spec.modality.encode()])
        if spec.modality not in backbones:  # LoRA is inside: outputs are compared, nothing is quantized apart
            pools[spec.modality] = [_value(spec, draw) for _ in range(wanted)]
        else:
            values = [_value(spec, draw) for _ in range(SPARE * wanted)]
            pools[spec.modality] = _agreeing(backbones[spec.modality], values, wanted)
    taken = {name: iter(values) for name, values in pools.items()}
    return [
        StoredSample(inputs={s.name: [next(taken[s.modality]) for _ in range(s.count)] for s in recipe.slots})
        for _ in range(recipe.golden)
    ]


def _agreeing(built: Backbone, values: Sequence[StoredInput], wanted: int) -> list[StoredInput]:
    prepared = [prepare(built.modality, value, built.files.__getitem__) for value in values]
    exact, small = (
        list(fidelity.answers(built.modality, load(built.graphs[name], threads=1), prepared, 1))
        for name in ("float32", built.lowest)
    )
    cosines = [fidelity.similarity([a], [b])[0] for a, b in zip(exact, small, strict=True)]
    best = sorted(range(len(values)), key=lambda i: (-cosines[i], i))[:wanted]
    mean, worst = float(np.mean([cosines[i] for i in best])), cosines[best[-1]]
    if mean < built.modality.tolerance.mean or worst < built.modality.tolerance.worst:
        fault = f"quantized features of synthetic {built.modality.name} differ: cosine {mean:.4f}, worst {worst:.4f}"
        raise ExportError(fault, where="golden_from", remedy='golden_from = "calibration", with samples to publish')
    return [values[i] for i in sorted(best)]


def _value(spec: EncoderSpec, draw: np.random.Generator) -> StoredInput:
    match spec.modality:
        case "text":
            return " ".join(draw.choice(TEXT_WORDS.split(), int(draw.integers(3, 12))))
        case "image":
            return _picture(draw)
        case "audio":
            return _clip(draw)
        case "table":
            return {
                column.name: str(draw.choice(column.categories))
                if column.categories
                else round(float(np.clip(draw.normal(column.mean, column.std), *column.usual)), 6)
                for column in spec.columns
            }
        case "sequence":
            steps = int(draw.integers(2, 8))
            return [(str(draw.choice(spec.skills)), bool(draw.integers(2)), 60.0 * i) for i in range(steps)]


def _picture(draw: np.random.Generator) -> bytes:
    """A PNG of soft colours with a plain shape on them."""
    coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8))
    picture = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).copy()
    y, x = np.mgrid[:SIDE, :SIDE]
    centre_x, centre_y, radius = draw.uniform(0.3, 0.7), draw.uniform(0.3, 0.7), draw.uniform(0.1, 0.3)
    picture[(x / SIDE - centre_x) ** 2 + (y / SIDE - centre_y) ** 2 < radius**2] = draw.integers(0, 256, 3, np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _clip(draw: np.random.Generator) -> bytes:
    """A WAV of three gliding tones and a little noise."""
    time_s = np.arange(int(RATE * CLIP_SECONDS)) / RATE
    sound = draw.normal(0, 0.01, len(time_s))
    for start_hz, end_hz in draw.uniform(100, 3000, (3, 2)):
        phase = 2 * math.pi * (start_hz * time_s + (end_hz - start_hz) * time_s**2 / (2 * CLIP_SECONDS))
        sound += 0.2 * np.sin(phase) * np.sin(math.pi * time_s / CLIP_SECONDS)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        written.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()
