"""What a model sees of an input is pinned for each version of preprocessing, so that old bundles keep theirs."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any

import icc
import numpy as np
import pytest
import soundfile
import tiny
from PIL import Image

from homeroom.contract.canonical_json import canonical
from homeroom.contract.manifest import (
    AudioPreprocess,
    ImagePreprocess,
    Modality,
    TextPreprocess,
    Tolerance,
    at_version,
    identifying,
)
from homeroom.contract.manifest_checks import read_manifest
from homeroom.data.preprocess import prepare
from homeroom.errors import BundleError

IMAGE = ImagePreprocess(size=32, resize=40, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.5))
SOUND = AudioPreprocess(rate=8000, samples=4000, form="waveform", gain=2.0)
TEXT = TextPreprocess(tokenizer="tokenizer/text.json")


def scene(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x * y) % 251], -1).astype(np.uint8)


def file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def deep(kind: str) -> bytes:
    return file(Image.fromarray(np.linspace(0, 30_000, 48 * 60).reshape(48, 60).astype(np.uint16)), kind)


def clear(mode: str) -> bytes:
    picture = Image.fromarray(scene(48, 60)).convert("RGBA")
    picture.putalpha(Image.fromarray(scene(48, 60)[..., 0]))
    return file(picture.convert(mode))


def sideways() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(Image.fromarray(scene(48, 60)), exif=exif)


def tone(seconds: float = 0.4) -> np.ndarray:
    return (0.4 * np.sin(np.arange(int(seconds * 8000)) * 0.3)).astype(np.float32)


def wav(wave: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 8000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def quiet(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * 8000), np.float32)


INPUTS: dict[str, Callable[[], Any]] = {
    "picture": lambda: file(Image.fromarray(scene(48, 60))),
    "grey of 16 bits": lambda: deep("PNG"),
    "TIFF of 16 bits": lambda: deep("TIFF"),
    "RGBA": lambda: clear("RGBA"),
    "LA": lambda: clear("LA"),
    "palette": lambda: file(Image.fromarray(scene(48, 60)).quantize(32), transparency=3),
    "sideways": sideways,
    "wide gamut": lambda: file(Image.fromarray(scene(48, 60)), icc_profile=icc.rgb()),
    "CMYK of a press": lambda: file(Image.fromarray(scene(48, 60)).convert("CMYK"), "TIFF", icc_profile=icc.cmyk()),
    "CMYK": lambda: file(Image.fromarray(scene(48, 60)).convert("CMYK"), "TIFF"),
    "6 megapixels": lambda: file(Image.fromarray(scene(3000, 2000)), compress_level=1),
    "sound": lambda: wav(tone()),
    "one side": lambda: wav(np.stack([tone(), quiet(0.4)], 1)),
    "anti-phase": lambda: wav(np.stack([tone(), -tone()], 1)),
    "late": lambda: wav(np.concatenate([quiet(1.0), tone(), quiet(0.3)])),
    "long": lambda: wav(np.concatenate([tone(0.5) / 4, tone(0.5), tone(0.5) / 2])),
    "text": lambda: "The red cat runs, not the dog.",
    "pasted": lambda: "<p>The red&nbsp;cat &quot;runs&quot;,</p>\n not the dog.",
    "curly": lambda: "The red cat “runs”, not the d\u00ado\u200bg’s \ufb01sh.",
}


def digest(name: str, version: int) -> str:
    value = INPUTS[name]()
    spec: Any = TEXT if isinstance(value, str) else SOUND if value[:4] == b"RIFF" else IMAGE
    spec = at_version(spec, version)  # type: ignore[arg-type]
    kind = {TextPreprocess: "text", ImagePreprocess: "image", AudioPreprocess: "audio"}[type(spec)]
    described = Modality(
        name=kind,  # type: ignore[arg-type]
        features_id="0" * 64,
        encoder="",
        taps=("0",),
        dim=1,
        buckets=(16, 32) if kind == "text" else (10,),
        preprocess=spec,
        tolerance=Tolerance(1.0, 1.0),
    )
    prepared = prepare(described, value, lambda name: tiny.bundle().path / name)
    (array,) = prepared.arrays.values()
    return hashlib.sha256(array.tobytes()).hexdigest()[:16] + f" {prepared.tokens}"


# By version: SHA-256 of the array, its first 16 digits, and the tokens. The first is what 0.1.0 gives.
BY_PROFILE = ""  # littlecms may round otherwise on another machine: test_colours holds what it gives
PINNED = {
    "picture": ("6a6ebff31a0c8732 10", "6a6ebff31a0c8732 10"),
    "grey of 16 bits": ("8aa74db60657dedc 10", "74a38c4ca7603906 10"),
    "TIFF of 16 bits": ("8aa74db60657dedc 10", "74a38c4ca7603906 10"),
    "RGBA": ("6c59c5fe89ae3862 10", "6c59c5fe89ae3862 10"),
    "LA": ("ab523981b0494cb1 10", "ab523981b0494cb1 10"),
    "palette": ("47b8c7cc90d1b18e 10", "47b8c7cc90d1b18e 10"),
    "sideways": ("e95af0718f90aab0 10", "e95af0718f90aab0 10"),
    "wide gamut": ("6a6ebff31a0c8732 10", BY_PROFILE),
    "CMYK of a press": ("6a6ebff31a0c8732 10", BY_PROFILE),
    "CMYK": ("6a6ebff31a0c8732 10", "6a6ebff31a0c8732 10"),
    "6 megapixels": ("4f88ffb735809e67 10", "5a46298c3f2458e1 10"),
    "sound": ("e5b0fc8dff88463f 8", "e5b0fc8dff88463f 8"),
    "one side": ("ad26857f819e0df0 8", "e5b0fc8dff88463f 8"),
    "anti-phase": ("f85f2c34eb2843d2 8", "e5b0fc8dff88463f 8"),
    "late": ("f85f2c34eb2843d2 10", "29beb4f5f19bec99 10"),
    "long": ("f6b684c33ab5ba69 10", "2194f803cd8715fe 10"),
    "text": ("f63d4704cfe4d26b 11", "f63d4704cfe4d26b 11"),
    "pasted": ("555bec60cab471e3 32", "9cf76d9695c82556 13"),
    "curly": ("7764fbbf2e5cf585 16", "6aa906db08204ce3 16"),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", INPUTS)
def test_what_a_model_sees_is_what_it_saw(name: str, version: int) -> None:
    found, pinned = digest(name, version), PINNED[name][version - 1]
    assert found == pinned or (pinned == BY_PROFILE and found != PINNED[name][0])


def test_a_side_that_is_silent_or_cancels_changes_nothing() -> None:
    assert PINNED["one side"][1] == PINNED["anti-phase"][1] == PINNED["sound"][1] == PINNED["sound"][0]


def test_the_version_is_part_of_the_identity_of_features_and_the_first_is_as_it_was() -> None:
    assert "version" not in identifying(IMAGE)
    assert identifying(at_version(IMAGE, 1)) == identifying(IMAGE)
    assert identifying(at_version(IMAGE, 2))["version"] == 2


def test_a_version_of_preprocessing_that_is_not_known_is_refused() -> None:
    manifest = json.loads((tiny.bundle().path / "manifest.json").read_bytes())
    manifest["modalities"][0]["preprocess"]["version"] = 9
    with pytest.raises(BundleError, match=r"version"):
        read_manifest(canonical(manifest))


def test_exports_are_told_apart_from_what_readers_of_before_know() -> None:
    """A reader of format 1 reads over the version, and would compute other features without a word."""
    assert json.loads((tiny.bundle().path / "manifest.json").read_bytes())["format"] == 2
