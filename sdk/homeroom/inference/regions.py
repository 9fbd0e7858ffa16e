"""Regions: the parts of an input that a person can point at: words, picture cells, moments, interactions, columns."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Modality, SequencePreprocess, TextPreprocess
from homeroom.data.decoder import client
from homeroom.data.preprocess.media import heard_s
from homeroom.data.preprocess.sequence import Interaction
from homeroom.data.samples import StoredInput

MOST_MOMENTS = 10  # of one sound
WHOLE_INPUT = "as a whole"
ROW_NAMES, COLUMN_NAMES = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True)
class Region:
    """One region of one input.

    tokens: its tokens in the features; none for a column.
    where: characters [start, end) of a text; left, top, right, bottom of a picture as shares of its visible square;
    seconds [start, end) of a sound; indices [start, end) of a sequence; () for a column or the input as a whole.
    """

    name: str
    tokens: tuple[int, ...]
    where: tuple[float, ...] = ()
    column: str | None = None


def regions(modality: Modality, value: StoredInput, tokens: int, bundle_file: Callable[[str], Path]) -> list[Region]:
    """Divides one input into regions, each of its tokens in one of them; tokens: their number."""
    match modality.preprocess:
        case TextPreprocess() as spec:
            return _words(spec, bundle_file(spec.tokenizer), str(value), modality.buckets[-1], tokens)
        case ImagePreprocess():
            return _cells(tokens)
        case AudioPreprocess() as spec:
            assert isinstance(value, bytes)
            begin_s, _, _ = client.run(heard_s, spec, value)
            return _moments(tokens, spec.samples / spec.rate / modality.buckets[-1], begin_s)
        case SequencePreprocess():
            assert isinstance(value, list)
            return _interactions(value, tokens)
        case spec:
            assert isinstance(value, Mapping)
            present = [c.name for c in spec.columns if value.get(c.name) is not None]
            return [Region(f"{name} = {_cell_text(value[name])}", (), (), name) for name in present]


def _cell_text(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(spec: TextPreprocess, tokenizer: Path, text: str, limit: int, tokens: int) -> list[Region]:
    from homeroom.data.preprocess.text import word_spans

    tokens_of: dict[tuple[int, int] | None, list[int]] = {}
    for token, span in enumerate(word_spans(tokenizer, text, limit, spec.version)[:tokens]):
        tokens_of.setdefault(span, []).append(token)
    return [
        Region(WHOLE_INPUT, tuple(indices))
        if span is None
        else Region(f"“{text[span[0] : span[1]]}”", tuple(indices), tuple(map(float, span)))
        for span, indices in tokens_of.items()
    ]


def _interactions(history: list[Interaction], tokens: int) -> list[Region]:
    """The last interactions, as many as there are tokens; a start token counts as the whole input."""
    start = tokens - min(len(history), tokens)
    first = len(history) - (tokens - start)
    return [Region(WHOLE_INPUT, (0,))] * start + [
        Region(f"{skill} {'right' if correct else 'wrong'}", (index - first + start,), (index, index + 1))
        for index, (skill, correct, _) in enumerate(history)
        if index >= first
    ]


def _cells(tokens: int) -> list[Region]:
    """The whole picture, then a square grid row by row, as the exporter pools it (`taps.pool_regions`)."""
    side = math.isqrt(tokens - 1)
    if side * side != tokens - 1:
        return [Region(WHOLE_INPUT, tuple(range(tokens)))]
    return [Region(WHOLE_INPUT, (0,))] + [
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


def _moments(tokens: int, token_s: float, heard_from_s: float) -> list[Region]:
    """At most MOST_MOMENTS runs of tokens; token_s: seconds of one token; heard_from_s: where the first begins."""
    length = -(-tokens // MOST_MOMENTS)
    moments = []
    for first in range(0, tokens, length):
        last = min(first + length, tokens)
        begin_s, end_s = (heard_from_s + edge * token_s for edge in (first, last))
        moments.append(Region(f"{begin_s:.1f} to {end_s:.1f} s", tuple(range(first, last)), (begin_s, end_s)))
    return moments


def visible_square(data: bytes, spec: ImagePreprocess) -> tuple[Any, tuple[float, float, float, float]]:
    """The decoded picture, and the left, top, width and height in pixels of the square that the model sees of it."""
    from homeroom.data.preprocess.image import decode

    picture = decode(data, version=spec.version)
    sides = picture.size if spec.fit == "squash" else (min(picture.size),) * 2
    width, height = (side * spec.size / spec.resize for side in sides)
    return picture, ((picture.width - width) / 2, (picture.height - height) / 2, width, height)


def square_png(data: bytes, spec: ImagePreprocess, side: int) -> bytes:
    """The square of a picture that the model sees, as PNG; runs in the decoder."""
    picture, (left, top, width, height) = visible_square(data, spec)
    square = picture.crop((round(left), round(top), round(left + width), round(top + height)))
    return encode_png(np.asarray(square.resize((side, side))))


def wave_peaks(data: bytes, spec: AudioPreprocess, columns: int) -> tuple[np.ndarray, float]:
    """The largest amplitude of each column of a sound's wave, float32 [columns], and its seconds; in the decoder."""
    from homeroom.data.preprocess.audio import decode

    wave, rate = decode(data, version=spec.version)
    parts = np.array_split(np.abs(wave), min(columns, max(1, len(wave))))
    return np.array([part.max(initial=0.0) for part in parts]), len(wave) / rate


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [height, width, 3] as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
