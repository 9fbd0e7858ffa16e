"""Ablation: a sample with one region taken away, so that the model can be asked again."""

from __future__ import annotations

import io
from collections.abc import Mapping

import msgspec
import numpy as np

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Modality
from homeroom.data.decoder import client
from homeroom.data.samples import StoredInput, StoredSample
from homeroom.inference.regions import Region, encode_png, visible_square


def ablate(sample: StoredSample, slot: str, index: int, region: Region, modality: Modality) -> StoredSample | None:
    """Returns the sample without a region of one of its inputs; None if no input would remain.

    A word is cut out, a picture's region greyed, a moment silenced, a cell emptied, an interaction removed.
    """
    value = sample.inputs[slot][index]
    assert value is not None
    ablated = _ablate_input(value, region, modality)
    inputs = {**sample.inputs, slot: [ablated if i == index else v for i, v in enumerate(sample.inputs[slot])]}
    if all(v is None for values in inputs.values() for v in values):
        return None
    return msgspec.structs.replace(sample, inputs=inputs)


def _ablate_input(value: StoredInput, region: Region, modality: Modality) -> StoredInput | None:
    if region.column is not None:
        assert isinstance(value, Mapping)
        row = {**value, region.column: None}
        return None if all(cell is None for cell in row.values()) else row
    if not region.where:
        return None
    if isinstance(value, str):
        start, end = (int(edge) for edge in region.where)
        return " ".join(f"{value[:start]} {value[end:]}".split()) or None
    if isinstance(value, list):
        return [interaction for i, interaction in enumerate(value) if i != int(region.where[0])] or None
    assert isinstance(value, bytes)
    if isinstance(modality.preprocess, ImagePreprocess):
        return client.run(grey_out, value, region.where, modality.preprocess)
    assert isinstance(modality.preprocess, AudioPreprocess)
    return client.run(silence, value, region.where, modality.preprocess)


def grey_out(data: bytes, box: tuple[float, ...], spec: ImagePreprocess) -> bytes:
    """Fills a box (left, top, right, bottom, as in `Region.where`) with the picture's mean colour; returns a PNG.

    Runs in the decoder.
    """
    picture, (left, top, width, height) = visible_square(data, spec)
    pixels = np.array(picture)
    del picture  # a large one leaves no room for both
    x0, x1 = (round(left + edge * width) for edge in (box[0], box[2]))
    y0, y1 = (round(top + edge * height) for edge in (box[1], box[3]))
    pixels[max(y0, 0) : y1, max(x0, 0) : x1] = pixels.reshape(-1, 3).mean(0)
    return encode_png(pixels)


def silence(data: bytes, seconds: tuple[float, ...], spec: AudioPreprocess) -> bytes:
    """Silences what the model hears of a sound from one second to another; returns it as a WAV file. In the decoder.

    The rest of the sound is left out, since another part would be the loudest one now.
    """
    import soundfile

    from homeroom.data.preprocess.audio import decode, window

    wave, rate = decode(data, version=spec.version)
    start, end = window(spec, wave, rate)
    wave = wave.copy()
    wave[int(seconds[0] * rate) : int(seconds[1] * rate)] = 0.0
    wave = wave[start:end]
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV")
    return buffer.getvalue()
