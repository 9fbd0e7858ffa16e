"""Explanation page: one self-contained HTML page with the inputs, their regions coloured by attribution.

Blue speaks for the answer, orange against it; the stronger the colour, the larger the share. The page loads nothing,
and every text of a sample is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Manifest
from homeroom.data.decoder import client
from homeroom.data.samples import InputReference, StoredInput, StoredSample
from homeroom.inference.explain import Explanation, RegionAttribution
from homeroom.inference.regions import square_png, wave_peaks
from homeroom.system.html.render import render

TEMPLATE = Path(__file__).with_suffix(".html")
PICTURE_PIXELS = 420  # side of a picture on the page
WAVE_WIDTH, WAVE_HEIGHT = 420, 90  # of a sound's wave, pixels
READING_NOTE = (
    "How to read this: blue parts pulled towards the answer, orange ones away from it; the percentages are shares of "
    "all pull. They are computed from the model's inner features by expected gradients against the bundle's own golden "
    "samples. A word's share also holds what the model made of it in its sentence. “Without” was tried: that part "
    "alone was taken away and the model asked again. It says what the model used, not what is true."
)


def page(why: Explanation, sample: StoredSample, manifest: Manifest) -> str:
    """Renders the HTML document of an explanation; sample: the one explained, with its media."""
    return render(TEMPLATE, why=why, inputs=list(_inputs(why, sample, manifest)), note=READING_NOTE)


def _inputs(why: Explanation, sample: StoredSample, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The inputs that the task reads, each with its parts and what is drawn of it."""
    for slot, values in sample.inputs.items():
        spec = manifest.modality(manifest.slot(slot).modality).preprocess
        for index, value in enumerate(values):
            parts = [part for part in why.parts if (part.slot, part.place) == (slot, index)]
            if value is None or not parts:
                continue
            said = manifest.slot(slot).said
            name = f"{said} {index + 1}" if len(values) > 1 else said
            share = sum(abs(part.share) for part in parts)
            yield {"name": name, "share": share, "parts": parts, **_drawing(value, parts, spec)}


def _drawing(value: StoredInput, parts: Sequence[RegionAttribution], spec: object) -> dict[str, Any]:
    assert not isinstance(value, InputReference)
    if isinstance(value, str):
        return {"pieces": list(_pieces(value, parts))}
    if isinstance(value, Mapping | list):
        return {}
    if isinstance(spec, ImagePreprocess):
        return {"picture": _picture(value, spec)}
    assert isinstance(spec, AudioPreprocess)
    return _sound(value, spec, parts)


def _pieces(text: str, parts: Sequence[RegionAttribution]) -> Iterator[tuple[str, RegionAttribution | None, str]]:
    """A text in pieces: what stands before a part, the part, and its own text; the rest last."""
    done = 0
    for part in sorted((p for p in parts if p.where), key=lambda p: p.where):
        start, end = (int(edge) for edge in part.where)
        yield text[done:start], part, text[start:end]
        done = end
    yield text[done:], None, ""


def _picture(data: bytes, spec: ImagePreprocess) -> str:
    """The square of a picture that the model sees, as PNG in base64."""
    return base64.b64encode(client.run(square_png, data, spec, PICTURE_PIXELS)).decode()


def _sound(data: bytes, spec: AudioPreprocess, parts: Sequence[RegionAttribution]) -> dict[str, Any]:
    """A sound's wave as an SVG path, the seconds along its width, and the sound itself."""
    peaks, length_s = client.run(wave_peaks, data, spec, WAVE_WIDTH // 2)
    seconds = max(length_s, max((p.where[1] for p in parts if p.where), default=0.0), 1e-3)
    peaks = peaks / max(float(peaks.max(initial=0.0)), 1e-9) * (WAVE_HEIGHT / 2 - 4)
    step = length_s / seconds * WAVE_WIDTH / len(peaks)
    path = "".join(
        f"M{step * (i + 0.5):.1f} {WAVE_HEIGHT / 2 - peak:.1f}v{2 * peak:.1f}" for i, peak in enumerate(peaks)
    )
    kind = "audio/ogg" if data.startswith(b"OggS") else "audio/flac" if data.startswith(b"fLaC") else "audio/wav"
    sound = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"wave": path, "seconds": seconds, "width": WAVE_WIDTH, "height": WAVE_HEIGHT, "sound": sound}
