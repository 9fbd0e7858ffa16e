"""Explanation page: one self-contained HTML page with the inputs, their regions coloured by attribution.

Blue speaks for the answer, orange against it; the stronger the colour, the larger the share. The page loads nothing,
and every text of a sample is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Manifest
from homeroom.data.samples import MediaReference, StoredSample
from homeroom.inference.explain import Explanation, RegionAttribution
from homeroom.inference.regions import encode_png, visible_square

FOR, AGAINST = "29, 111, 214", "222, 110, 20"  # red, green, blue; distinct for colour-blind eyes too
PICTURE_PIXELS = 420  # side of a picture on the page
WAVE_SIZE_PIXELS = (420, 90)  # width and height of a sound's wave
EXPLANATION_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem }
mark { color: inherit; border-radius: .25rem; padding: .1rem .15rem }
figure { margin: 0 } svg { max-width: 100%; height: auto; border-radius: .4rem }
table { border-collapse: collapse; width: 100% } td { padding: .15rem .5rem .15rem 0; vertical-align: middle }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bar { display: inline-block; height: .8rem; border-radius: .2rem; min-width: 2px }
.note { color: #5b6675; font-size: .9rem } audio { width: 100%; margin-top: .4rem }
"""
READING_NOTE = (
    "How to read this: blue parts pulled towards the answer, orange ones away from it; the percentages are shares of "
    "all pull. They are computed from the model's inner features by expected gradients against the bundle's own golden "
    "samples. A word's share also holds what the model made of it in its sentence. “Without” was tried: that part "
    "alone was taken away and the model asked again. It says what the model used, not what is true."
)


def page(why: Explanation, sample: StoredSample, manifest: Manifest) -> str:
    """Renders the HTML document of an explanation; sample: the one explained, with its media."""
    title = f"{why.task}: {why.label}"
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in why.sentences()[1:])
    inputs = "".join(_input(why, sample, manifest, slot, index) for slot, index in _present(sample))
    probability = why.answer.probabilities.get(why.label)
    lead = f"<p>Probability {probability:.0%}</p>" if probability is not None else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{EXPLANATION_CSS}</style></head><body>"
        f"<h1>{escape(title)}</h1>{lead}{sentences}{inputs}<h2>All parts</h2>{_table(why.parts)}"
        f'<p class="note">{READING_NOTE}</p>'
        "</body></html>\n"
    )


def _present(sample: StoredSample) -> Iterator[tuple[str, int]]:
    for slot, values in sample.inputs.items():
        yield from ((slot, index) for index, value in enumerate(values) if value is not None)


def _input(why: Explanation, sample: StoredSample, manifest: Manifest, slot: str, index: int) -> str:
    parts = [part for part in why.parts if (part.slot, part.place) == (slot, index)]
    if not parts:
        return ""  # the task does not read it
    value = sample.inputs[slot][index]
    assert value is not None
    assert not isinstance(value, MediaReference)
    share = sum(abs(part.share) for part in parts)
    name = f"{slot} {index + 1}" if len(sample.inputs[slot]) > 1 else slot
    heading = f"<h2>{escape(name)} <span class=note>{share:.0%} of all pull</span></h2>"
    spec = manifest.modality(manifest.slot(slot).modality).preprocess
    if isinstance(value, str):
        return heading + _text(value, parts)
    if isinstance(value, Mapping | list):
        return heading + _table(parts)
    if isinstance(spec, ImagePreprocess):
        return heading + _picture(value, parts, spec)
    assert isinstance(spec, AudioPreprocess)
    return heading + _sound(value, parts)


def _colour(share: float, largest: float, depth: float = 0.65) -> str:
    return f"rgba({FOR if share > 0 else AGAINST}, {depth * abs(share) / max(largest, 1e-9):.3f})"


def _largest(parts: Sequence[RegionAttribution]) -> float:
    return max((abs(part.share) for part in parts), default=1.0)


def _text(text: str, parts: Sequence[RegionAttribution]) -> str:
    largest, done, html = _largest(parts), 0, []
    for part in sorted((p for p in parts if p.where), key=lambda p: p.where):
        start, end = (int(edge) for edge in part.where)
        style = f"background: {_colour(part.share, largest)}"
        html.append(escape(text[done:start]))
        html.append(f'<mark style="{style}" title="{part.share:+.1%}">{escape(text[start:end])}</mark>')
        done = end
    return f"<p>{''.join(html)}{escape(text[done:])}</p>"


def _picture(data: bytes, parts: Sequence[RegionAttribution], spec: ImagePreprocess) -> str:
    picture, (left, top, width, height) = visible_square(data, spec)
    square = picture.crop((round(left), round(top), round(left + width), round(top + height)))
    source = base64.b64encode(encode_png(np.asarray(square.resize((PICTURE_PIXELS, PICTURE_PIXELS))))).decode()
    largest, cells = _largest(parts), []
    for part in (p for p in parts if p.where):
        x0, y0, x1, y1 = (edge * PICTURE_PIXELS for edge in part.where)
        cells.append(
            f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" stroke="white" '
            f'fill="{_colour(part.share, largest)}"><title>{escape(part.name)} {part.share:+.1%}</title></rect>'
        )
    return (
        f'<figure><svg viewBox="0 0 {PICTURE_PIXELS} {PICTURE_PIXELS}" width="{PICTURE_PIXELS}" role="img">'
        f'<image href="data:image/png;base64,{source}" width="{PICTURE_PIXELS}" height="{PICTURE_PIXELS}"/>'
        f"{''.join(cells)}</svg></figure>"
    )


def _sound(data: bytes, parts: Sequence[RegionAttribution]) -> str:
    from homeroom.data.preprocess.audio import decode

    wave, rate = decode(data)
    (width, height), largest = WAVE_SIZE_PIXELS, _largest(parts)
    seconds = max(len(wave) / rate, max((p.where[1] for p in parts if p.where), default=0.0), 1e-3)
    moments = "".join(
        f'<rect x="{width * p.where[0] / seconds:.1f}" width="{width * (p.where[1] - p.where[0]) / seconds:.1f}" '
        f'height="{height}" fill="{_colour(p.share, largest)}"><title>{escape(p.name)} {p.share:+.1%}</title></rect>'
        for p in parts
        if p.where
    )
    columns = np.array_split(np.abs(wave), min(width // 2, max(1, len(wave))))
    peaks = np.array([column.max(initial=0.0) for column in columns])
    peaks = peaks / max(float(peaks.max(initial=0.0)), 1e-9) * (height / 2 - 4)
    shown = len(wave) / rate / seconds * width
    lines = "".join(
        f"M{shown * (i + 0.5) / len(peaks):.1f} {height / 2 - peak:.1f}v{2 * peak:.1f}" for i, peak in enumerate(peaks)
    )
    kind = "audio/ogg" if data.startswith(b"OggS") else "audio/flac" if data.startswith(b"fLaC") else "audio/wav"
    player = f'<audio controls src="data:{kind};base64,{base64.b64encode(data).decode()}"></audio>'
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{width}" role="img">{moments}'
        f'<path d="{lines}" stroke="#1c2430" stroke-width="1" fill="none"/></svg>{player}</figure>'
    )


def _table(parts: Sequence[RegionAttribution]) -> str:
    largest = _largest(parts)
    rows = [
        f"<tr><td>{escape(part.name)}</td><td class=note>{escape(part.slot)}</td>"
        f'<td><span class="bar" style="width: {10 * abs(part.share) / max(largest, 1e-9):.2f}rem; '
        f'background: {_colour(part.share, abs(part.share), 0.8)}"></span></td>'
        f'<td class="n">{part.share:+.1%}</td></tr>'
        for part in parts
    ]
    return f"<table>{''.join(rows)}</table>"
