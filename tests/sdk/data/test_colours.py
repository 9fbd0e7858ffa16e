"""Colour profiles: a picture of a phone, a scanner or a press has the colours that its maker saw, from version 2 on."""

from __future__ import annotations

import io
from typing import Any

import icc
import numpy as np
import pytest
from PIL import Image, ImageCms

from homeroom.contract.manifest import ImagePreprocess
from homeroom.data.media_values import media_bytes
from homeroom.data.preprocess.media import check, prepared
from homeroom.data.preprocess.prepared import Prepared
from sdk.data.test_pictures import file, seen

SPEC = ImagePreprocess(size=32, resize=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), version=2)
PRINTED_CYAN = (0, 164, 229)  # of icc.PAPER_CYAN, by its Lab values
SRGB = ImageCms.createProfile("sRGB")


def scene() -> Image.Image:
    """Colours that every profile here can show, some of them strong."""
    y, x = np.mgrid[:48, :60]
    return Image.fromarray(np.stack([60 + x * 2, 60 + y * 3, 200 - x], -1).astype(np.uint8))


def into(profile: bytes, mode: str = "RGB") -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(scene(), SRGB, source, outputMode=mode)


def worst(data: bytes, version: int = 2) -> float:
    return float(np.abs(seen(data, version) - np.asarray(scene(), np.float32)).max())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_wide_gamut_photo_has_its_colours(kind: str) -> None:
    data = file(into(icc.rgb()), kind, icc_profile=icc.rgb(), **({"quality": 100} if kind != "TIFF" else {}))
    near = 12 if kind in ("JPEG", "WEBP", "AVIF") else 3
    assert worst(data) <= near
    assert worst(data, version=1) > 2 * near, "bundles of before see it as they did"


def test_a_profile_holds_for_palettes_transparency_and_reduced_photos() -> None:
    wide = into(icc.rgb())
    clear = wide.convert("RGBA")
    clear.putalpha(Image.new("L", wide.size, 255))
    assert worst(file(clear, icc_profile=icc.rgb())) <= 3
    assert worst(file(wide.quantize(256, dither=Image.Dither.NONE), icc_profile=icc.rgb())) <= 20
    large = wide.resize((2880, 2304), Image.Resampling.BILINEAR)
    found = seen(file(large, "JPEG", quality=95, icc_profile=icc.rgb()))
    assert found.shape == (1152, 1440, 3)
    assert np.abs(found[::24, ::24] - np.asarray(scene(), np.float32)).mean() < 6


def test_grey_has_the_levels_of_its_profile() -> None:
    ramp = Image.linear_gradient("L")
    linear = seen(file(ramp, icc_profile=icc.grey(1.0)))
    assert linear[55, 0, 0] == pytest.approx(128, abs=3), "a linear 0.216 is half of sRGB's levels"
    deep = Image.fromarray(np.asarray(ramp, np.uint16) * 257)
    assert np.abs(seen(file(deep, icc_profile=icc.grey(1.0))) - linear).max() <= 1
    assert np.array_equal(
        seen(file(ramp, icc_profile=icc.rgb())), seen(file(ramp.convert("RGB"), icc_profile=icc.rgb()))
    )


def test_srgb_by_any_profile_is_left_bit_for_bit() -> None:
    data = ImageCms.ImageCmsProfile(SRGB).tobytes()
    assert worst(file(scene(), icc_profile=data)) == 0


def test_cmyk_is_as_printed() -> None:
    cyan = Image.new("CMYK", (48, 48), (255, 0, 0, 0))
    with_profile = seen(file(cyan, "TIFF", icc_profile=icc.cmyk()))
    assert with_profile[0, 0] == pytest.approx(PRINTED_CYAN, abs=4)
    assert seen(file(cyan, "JPEG", quality=100, icc_profile=icc.cmyk()))[0, 0] == pytest.approx(PRINTED_CYAN, abs=6)
    assert seen(file(cyan, "TIFF"))[0, 0] == pytest.approx((0, 255, 255), abs=2), "by its complement"


def test_lab_is_read() -> None:
    lab = ImageCms.profileToProfile(scene(), SRGB, ImageCms.createProfile("LAB"), outputMode="LAB")
    del lab.info["icc_profile"]
    assert worst(file(lab, "TIFF")) <= 20, "8 bits of Lab are coarse where colours are strong"


@pytest.mark.parametrize(
    ("picture", "profile", "says"),
    [
        (Image.new("CMYK", (48, 48), (255, 0, 0, 0)), None, "is in CMYK without a colour profile"),
        (scene(), b"not a profile", "cannot be used"),
        (scene(), icc.rgb()[:200], "cannot be used"),
        (scene(), icc.cmyk(), "cannot be used"),
        (Image.new("CMYK", (48, 48)), icc.rgb(), "cannot be used"),
        (scene(), icc.grey(), "cannot be used"),
    ],
)
def test_colours_that_are_not_known_are_said_and_taken_as_they_stand(
    picture: Image.Image, profile: bytes | None, says: str
) -> None:
    data = file(picture, "TIFF", **({"icc_profile": profile} if profile else {}))
    assert says in check(SPEC, data, "a.tif")
    assert check(SPEC, data, "a.tif").startswith("a.tif: ")
    assert np.array_equal(seen(data), seen(data, version=1))


def test_nothing_is_said_of_a_profile_that_is_used() -> None:
    for profile in (icc.rgb(), ImageCms.ImageCmsProfile(SRGB).tobytes(), None):
        data = file(scene(), **({"icc_profile": profile} if profile else {}))
        assert check(SPEC, data, "a.png") == ""


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_further_pictures_of_a_file_are_not_passed_over_without_a_word(kind: str) -> None:
    other = Image.new("RGB", scene().size)
    assert "several pictures" in check(SPEC, file(scene(), kind, save_all=True, append_images=[other]), "a")
    assert check(SPEC, file(scene(), kind), "a") == ""


def test_the_second_lens_of_a_phone_is_no_further_picture() -> None:
    assert check(SPEC, file(scene(), "MPO", save_all=True, append_images=[scene()]), "a.jpg") == ""


def test_training_and_answers_see_the_same() -> None:
    """`media.prepared` is what answers see of a file from outside, `preprocess.prepare` what training sees."""
    import tiny

    from homeroom.data.preprocess import prepare

    data, found = file(into(icc.rgb()), icc_profile=icc.rgb()), list[Prepared]()
    modality: Any = next(one for one in tiny.draft().modalities if one.name == "image")
    assert modality.preprocess.version == 2
    found = [prepared(modality, data), prepare(modality, data, lambda name: tiny.bundle().path / name)]
    assert np.array_equal(found[0].arrays["pixels"], found[1].arrays["pixels"])


def test_a_pillow_image_has_the_colours_of_its_file() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    inks = Image.new("CMYK", (48, 40), (255, 0, 0, 0))
    inks.paste((0, 0, 0, 0), (0, 0, 10, 10))
    for data in (
        file(into(icc.rgb()), icc_profile=icc.rgb()),
        file(inks, "TIFF", icc_profile=icc.cmyk()),
        file(inks, "JPEG", icc_profile=icc.cmyk(), exif=exif),
    ):
        for version in (1, 2):
            held = media_bytes(Image.open(io.BytesIO(data)), "image", "picture")
            assert np.array_equal(seen(held, version), seen(data, version))
