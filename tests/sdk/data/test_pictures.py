"""What a model sees of pictures as people have them: grey of scanners, photos of phones, drawings with text."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from homeroom.data.preprocess import svg
from homeroom.data.preprocess.image import REDUCED_PIXELS, decode
from homeroom.errors import InputError
from homeroom.system import hardware

NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
RED = '<rect width="64" height="64" fill="red"/>'


def file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def drawing(body: str, size: str = 'viewBox="0 0 64 64"', before: str = "") -> bytes:
    return f"{before}<svg {NAMES} {size}>{body}</svg>".encode()


def seen(data: bytes, version: int = 2) -> np.ndarray:
    return np.asarray(decode(data, version=version), np.float32)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("top", [3_000, 30_000, 65_535])
def test_grey_of_16_bits_is_as_dark_as_it_is(kind: str, top: int) -> None:
    ramp = np.linspace(0, top, 40 * 50).reshape(40, 50)
    found = seen(file(Image.fromarray(ramp.astype(np.uint16)), kind))
    assert np.abs(found[..., 0] - ramp / 65_535 * 255).max() <= 1.0
    assert np.array_equal(found[..., 0], found[..., 2])


def test_grey_whose_white_is_not_known_is_refused() -> None:
    for picture in (Image.new("F", (9, 9), 0.5), Image.new("I", (9, 9), 70_000)):
        with pytest.raises(InputError, match="white is not known"):
            seen(file(picture, "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_white_paper(mode: str) -> None:
    picture = Image.new("RGBA", (20, 20), (10, 10, 10, 0))
    picture.paste((10, 10, 10, 255), (0, 0, 10, 20))
    data = file(picture.convert(mode), "TIFF" if mode == "PA" else "PNG") if mode != "P" else file(picture.quantize(8))
    found = seen(data)
    assert found[:, :10].max() < 40
    assert found[:, 10:].min() > 240


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_large_photo_is_upright_at_a_reduced_scale(kind: str, orientation: int) -> None:
    """Every corner has its own colour, so that a turn or a mirror is noticed."""
    small = Image.new("RGB", (2, 2))
    small.putdata([(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file(small.resize((2600, 1800), Image.Resampling.NEAREST), kind, exif=exif, quality=90)
    whole, found = decode(data, version=1), decode(data, version=2)
    assert found.size == tuple(side // 2 for side in whole.size)
    close = np.asarray(whole.resize((8, 8)), np.float32) - np.asarray(found.resize((8, 8)), np.float32)
    assert np.abs(close).max() < 12


def test_a_photo_of_48_megapixels_takes_little_memory() -> None:
    """Of version 1 it takes 190 MB, so that no training under a budget came past it."""
    picture = Image.new("RGB", (8000, 6000), (90, 120, 40))
    data = file(picture, "JPEG", quality=60)
    del picture
    if not hardware.forget_peak():
        pytest.skip("this system does not tell the peak")
    before = hardware.resident()
    found = decode(data, version=2)
    assert hardware.peak_resident() - before < 40 << 20
    assert found.size == (2000, 1500)
    assert found.width * found.height <= REDUCED_PIXELS


def test_a_photo_of_108_megapixels_is_taken() -> None:
    assert decode(file(Image.new("L", (12_000, 9_000), 90), "JPEG"), version=2).size == (1500, 1125)


FONTS = ["", 'font-family="Comic Sans MS"', 'font-family="serif" font-weight="bold"', 'font-family="monospace"']


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("text", ["Ag", "Жя", "ΩΣ", "שלום", "سلام", "≤½→é"])
def test_the_text_of_a_drawing_is_drawn(text: str, font: str) -> None:
    data = drawing(f'<rect width="64" height="64" fill="white"/><text y="40" font-size="20" {font}>{text}</text>')
    assert (seen(data) < 128).mean() > 0.005
    assert seen(data, version=1).min() == 255  # as bundles of before saw it


def test_letters_that_the_font_lacks_refuse_the_drawing() -> None:
    with pytest.raises(InputError, match="letters that the font here lacks: 漢 😀"):
        seen(drawing("<text>a <tspan>漢</tspan>😀</text>"))
    assert seen(drawing(f"{RED}<title>漢</title><desc>😀</desc>")).mean() < 100


def test_the_font_has_its_licence_beside_it() -> None:
    assert svg.FONT.stat().st_size < 300_000
    assert "Bitstream Vera" in svg.FONT.with_suffix(".LICENSE.txt").read_text("utf-8")


LINKS = {
    "a picture of the web": '<image href="https://example.org/a.png" width="64" height="64"/>',
    "a file beside it": '<image xlink:href="a.png" width="64" height="64"/>',
    "a file of the machine": '<image href="file:///etc/passwd" width="64" height="64"/>',
    "another drawing inside": '<image href="data:image/svg+xml;base64,PHN2Zy8+" width="64" height="64"/>',
    "a part of another drawing": '<use href="b.svg#a"/>',
    "a paint of another drawing": '<rect width="9" height="9" fill="url(b.svg#a)"/>',
    "a style": "<style>rect { fill: url('https://example.org/#a') }</style>",
    "an imported style": "<style>@import 'a.css';</style>",
    "a link by an entity": '<image href="&l;" width="9" height="9"/>',
    "a web page inside": '<foreignObject width="9" height="9"><p xmlns="http://www.w3.org/1999/xhtml">a</p></foreignObject>',
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("case", LINKS)
def test_a_drawing_that_lacks_something_here_is_refused(
    case: str, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(file(Image.new("RGB", (8, 8), "blue")))
    data = drawing(RED + LINKS[case], before='<!DOCTYPE svg [<!ENTITY l "a.png">]>')
    with pytest.raises(InputError, match="not drawn") as refused:
        seen(data, version)
    assert "PNG" in refused.value.remedy


@pytest.mark.parametrize("version", [1, 2])
def test_no_file_of_the_machine_is_read(version: int, tmp_path: Path) -> None:
    path = tmp_path / "private.png"
    path.write_bytes(file(Image.new("RGB", (8, 8), "blue")))
    with pytest.raises(InputError, match="not drawn"):
        seen(drawing(f'<image href="{path}" width="64" height="64"/>'), version)


def test_what_is_inside_a_drawing_is_drawn() -> None:
    blue = "data:image/png;base64," + base64.b64encode(file(Image.new("RGB", (8, 8), "blue"))).decode()
    body = f'<defs><linearGradient id="g"><stop stop-color="blue"/></linearGradient><g id="u">{RED}</g></defs>'
    body += f'<a href="https://example.org"><use href="#u"/></a><image href="{blue}" width="32" height="32"/>'
    body += '<rect x="32" width="32" height="32" fill="url(#g)"/>'
    body += "<style>@font-face { src: url(data:font/woff2;base64,AA) }</style>"
    found = seen(drawing(body, before='<?xml version="1.0" encoding="ISO-8859-1"?>'))
    assert found[:500, ..., 2].min() > 250
    assert found[520:, ..., 0].min() > 250


@pytest.mark.parametrize(
    "size", ['width="20mm" height="10mm"', 'width="100%" viewBox="0 0 40 20"', 'viewBox="0 0 4e9 2e9"']
)
def test_a_drawing_keeps_its_shape_whatever_its_unit(size: str) -> None:
    width, height = decode(drawing(RED, size), version=2).size
    assert max(width, height) == svg.CANVAS_PIXELS
    assert 0.9 < width / height / 2 < 1.1 or "%" in size


@pytest.mark.parametrize("size", ['width="1" height="4000"', 'width="4000" height="1"', 'viewBox="0 0 1 1e9"'])
def test_a_drawing_that_is_far_longer_than_wide_is_refused(size: str) -> None:
    with pytest.raises(InputError, match="16 times"):
        seen(drawing(RED, size))
