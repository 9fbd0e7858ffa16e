"""The parts of a sample that a person can point at: words, regions, moments, columns; and the sample without one.

Where tokens lie follows from each modality's preprocessing; imports preprocess and samples.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Modality, SequencePreprocess, TextPreprocess
from homeroom.data.preprocess.sequence import Interaction
from homeroom.data.samples import StoredInput, StoredSample

MOST_MOMENTS = 10  # a sound is told in at most so many
WHOLE_INPUT = "as a whole"
ROW_NAMES, COLUMN_NAMES = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True)
class Region:
    """One part of one input. `tokens`: its places in the features; empty for a column, which has no token of its own.

    `where`: characters [start, end) of a text; left, top, right, bottom of a picture as shares of what the model sees
    of it; seconds [start, end) of a sound; places [start, end) of a sequence; () for a column or the input as a whole.
    """

    name: str
    tokens: tuple[int, ...]
    where: tuple[float, ...] = ()
    column: str | None = None


def regions(modality: Modality, value: StoredInput, tokens: int, bundle_file: Callable[[str], Path]) -> list[Region]:
    """The parts of one input whose features have so many tokens, each token in one part."""
    match modality.preprocess:
        case TextPreprocess() as spec:
            return _words(bundle_file(spec.tokenizer), str(value), modality.buckets[-1], tokens)
        case ImagePreprocess():
            return _cells(tokens)
        case AudioPreprocess() as spec:
            return _moments(tokens, spec.samples / spec.rate / modality.buckets[-1])
        case SequencePreprocess():
            assert isinstance(value, list)
            return _interactions(value, tokens)
        case spec:
            assert isinstance(value, Mapping)
            given = [c.name for c in spec.columns if value.get(c.name) is not None]
            return [Region(f"{name} = {_cell(value[name])}", (), (), name) for name in given]


def _cell(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(tokenizer: Path, text: str, limit: int, tokens: int) -> list[Region]:
    from homeroom.data.preprocess.text import word_spans

    found: dict[tuple[int, int] | None, list[int]] = {}
    for token, place in enumerate(word_spans(tokenizer, text, limit)[:tokens]):
        found.setdefault(place, []).append(token)
    return [
        Region(WHOLE_INPUT, tuple(places))
        if word is None
        else Region(f"“{text[word[0] : word[1]]}”", tuple(places), tuple(map(float, word)))
        for word, places in found.items()
    ]


def _interactions(history: list[Interaction], tokens: int) -> list[Region]:
    """Those that are read: the start, if it is among the tokens, counts as the whole."""
    whole = tokens - min(len(history), tokens)
    first = len(history) - (tokens - whole)
    return [Region(WHOLE_INPUT, (0,))] * whole + [
        Region(f"{skill} {'right' if right else 'wrong'}", (place - first + whole,), (place, place + 1))
        for place, (skill, right, _) in enumerate(history)
        if place >= first
    ]


def _cells(tokens: int) -> list[Region]:
    """The whole picture, then a square grid row by row, as the exporter pools it (`taps.pool_regions`)."""
    side = math.isqrt(tokens - 1)
    whole = [Region(WHOLE_INPUT, (0,))]
    if side * side != tokens - 1:
        return [Region(WHOLE_INPUT, tuple(range(tokens)))]
    return whole + [
        Region(
            _cell_name(row, column, side),
            (1 + row * side + column,),
            (column / side, row / side, (column + 1) / side, (row + 1) / side),
        )
        for row in range(side)
        for column in range(side)
    ]


def _cell_name(row: int, column: int, side: int) -> str:
    if side == 1:
        return "the middle"
    if side > 3:
        return f"row {row + 1}, column {column + 1} of {side}"
    rows, columns = (ROW_NAMES[::2], COLUMN_NAMES[::2]) if side == 2 else (ROW_NAMES, COLUMN_NAMES)
    return "the centre" if side == 3 and row == column == 1 else f"{rows[row]} {columns[column]}"


def _moments(tokens: int, seconds: float) -> list[Region]:
    each = -(-tokens // MOST_MOMENTS)
    found = []
    for first in range(0, tokens, each):
        last = min(first + each, tokens)
        begin, end = first * seconds, last * seconds
        found.append(Region(f"{begin:.1f} to {end:.1f} s", tuple(range(first, last)), (begin, end)))
    return found


def without(sample: StoredSample, slot: str, place: int, region: Region, modality: Modality) -> StoredSample | None:
    """The sample as if that part were not there; None if nothing of the sample would remain."""
    value = sample.inputs[slot][place]
    assert value is not None
    rest = _take_away(value, region, modality)
    places = [rest if i == place else one for i, one in enumerate(sample.inputs[slot])]
    inputs = {**sample.inputs, slot: places}
    if all(one is None for values in inputs.values() for one in values):
        return None
    return msgspec.structs.replace(sample, inputs=inputs)


def _take_away(value: StoredInput, region: Region, modality: Modality) -> StoredInput | None:
    if region.column is not None:
        assert isinstance(value, Mapping)
        row = {**value, region.column: None}
        return None if all(cell is None for cell in row.values()) else row
    if not region.where:
        return None
    if isinstance(value, str):
        start, end = (int(edge) for edge in region.where)
        left = " ".join(f"{value[:start]} {value[end:]}".split())
        return left or None
    if isinstance(value, list):
        return [one for place, one in enumerate(value) if place != int(region.where[0])] or None
    assert isinstance(value, bytes)
    if isinstance(modality.preprocess, ImagePreprocess):
        return _grey(value, region.where, modality.preprocess)
    return _silent(value, region.where)


def seen(data: bytes, spec: ImagePreprocess) -> tuple[Any, tuple[float, float, float, float]]:
    """The picture as decoded, and (left, top, width, height) in its pixels of what the model sees as a square."""
    from homeroom.data.preprocess.image import decode

    picture = decode(data)
    sides = picture.size if spec.fit == "squash" else (min(picture.size),) * 2
    wide, high = (side * spec.size / spec.resize for side in sides)
    return picture, ((picture.width - wide) / 2, (picture.height - high) / 2, wide, high)


def _grey(data: bytes, box: tuple[float, ...], spec: ImagePreprocess) -> bytes:
    """The picture with a box filled with its mean colour, as PNG."""
    picture, (left, top, wide, high) = seen(data, spec)
    pixels = np.array(picture)
    x0, x1 = (round(left + edge * wide) for edge in (box[0], box[2]))
    y0, y1 = (round(top + edge * high) for edge in (box[1], box[3]))
    pixels[max(y0, 0) : y1, max(x0, 0) : x1] = pixels.reshape(-1, 3).mean(0)
    return png(pixels)


def png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _silent(data: bytes, seconds: tuple[float, ...]) -> bytes:
    """The sound with silence between two moments, as WAV."""
    import soundfile

    from homeroom.data.preprocess.audio import decode

    wave, rate = decode(data)
    wave = wave.copy()
    wave[int(seconds[0] * rate) : int(seconds[1] * rate)] = 0.0
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV")
    return buffer.getvalue()
