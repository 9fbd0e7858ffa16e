"""Inputs as apps hold them: each answers as the equal file, bit for bit; what is none gets a sentence."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny
from PIL import Image

from homeroom import Device, Sample
from homeroom.data.media_values import media_bytes
from homeroom.data.preprocess import audio, image
from homeroom.data.validation import resolve
from homeroom.errors import Code, InputError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (23, 37, 4), np.uint8)
WAVE = RNG.uniform(-0.9, 0.9, 4801)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def wav(wave: np.ndarray, rate: int, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, subtype, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "pixels", [PIXELS, PIXELS[:, :, :3], PIXELS[:, :, 0], PIXELS[::2, ::-1, :3], PIXELS[:1, :1, 0]]
)
def test_pixels_decode_as_their_png(pixels: np.ndarray, version: int) -> None:
    ours, theirs = media_bytes(pixels, "image", ""), png(pixels)
    decoded = [np.asarray(image.decode(data, version=version)) for data in (ours, theirs)]
    np.testing.assert_array_equal(*decoded)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(ours))), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_a_pillow_image_is_read_as_the_rgb_that_it_shows(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(RNG.integers(0, 65536, (9, 7)).astype(np.uint16))
    elif mode == "PA":
        picture = Image.fromarray(PIXELS).convert("RGB").convert("P").convert("PA")
    else:
        picture = Image.fromarray(PIXELS).convert("RGB").convert(mode)
    assert picture.mode == mode
    decoded = image.decode(media_bytes(picture, "image", ""), version=2)
    expected = np.asarray(picture, np.uint16) >> 8 if mode == "I;16" else np.asarray(picture.convert("RGB"))
    if mode == "I;16":
        assert np.abs(np.asarray(decoded)[:, :, 0].astype(int) - expected).max() <= 1
    else:
        np.testing.assert_array_equal(np.asarray(decoded), expected)


def test_a_photo_that_lies_on_its_side_stays_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS[:, :, :3]).save(tmp_path / "side.png", exif=exif)
    given = media_bytes(Image.open(tmp_path / "side.png"), "image", "")
    upright = image.decode((tmp_path / "side.png").read_bytes(), version=2)
    assert upright.size == (23, 37)
    np.testing.assert_array_equal(np.asarray(image.decode(given, version=2)), np.asarray(upright))


SOUNDS = {
    "FLOAT": WAVE.astype(np.float32),
    "DOUBLE": WAVE,
    "PCM_16": (WAVE * 32767).astype(np.int16),
    "PCM_32": (WAVE * 2147483647).astype(np.int32),
}


@pytest.mark.parametrize("subtype", SOUNDS)
@pytest.mark.parametrize("channels", [0, 1, 2])
def test_waveforms_decode_as_their_wav(subtype: str, channels: int) -> None:
    wave = SOUNDS[subtype]
    wave = np.stack([wave, wave[::-1]][:channels], 1) if channels else wave
    ours, theirs = media_bytes((wave, np.int64(22050)), "audio", ""), wav(wave, 22050, subtype)
    (heard, rate), (expected, _) = (audio.decode(data, version=2) for data in (ours, theirs))
    assert rate == 22050
    assert heard.tobytes() == expected.tobytes()


def test_other_orders_of_bytes_and_uint8_are_the_same_sound() -> None:
    wave = SOUNDS["FLOAT"]
    assert media_bytes((wave.astype(">f4"), 8000), "audio", "") == media_bytes((wave, 8000), "audio", "")
    coarse = ((WAVE + 1) * 127).astype(np.uint8)
    heard, _ = audio.decode(media_bytes((coarse, 8000), "audio", ""))
    np.testing.assert_allclose(heard, (coarse - 128.0) / 128, atol=1e-6)


class AsyncFile:
    async def read(self, _: int = -1) -> bytes:
        return b""


REFUSED: list[tuple[str, Any, str]] = [
    ("picture", np.zeros((3, 8, 8), np.uint8), r"uint8 \[3, 8, 8\].*transpose\(1, 2, 0\)"),
    ("picture", np.zeros((2, 8, 8, 3), np.uint8), "give one picture"),
    ("picture", np.zeros((8, 8, 2), np.uint8), r"\[8, 8, 2\]"),
    ("picture", np.zeros((8, 8, 3), np.float32), r"float32 .*\(array \* 255\).round\(\)"),
    ("picture", np.zeros((8, 8), np.int64), r'if white is 255: array.astype\("uint8"\)'),
    ("picture", np.zeros((8, 8), bool), r'if white is True: \(array \* 255\).astype\("uint8"\)'),
    ("picture", np.zeros((0, 8, 3), np.uint8), "8 x 0 pixels"),
    ("picture", np.zeros(8, np.uint8), r"uint8 \[8\]"),
    ("picture", Image.new("F", (4, 4)), "mode F"),
    ("picture", Image.new("I", (4, 4)), "mode I"),
    ("picture", (WAVE, 8000), "an array of pixels, not tuple"),
    ("picture", 17, "not int"),
    ("picture", io.StringIO("x"), 'gives str, not bytes .*mode "rb"'),
    ("picture", AsyncFile(), "await it, and give the bytes"),
    ("picture", io.BytesIO(b"no picture"), "is not a picture"),
    ("speech", WAVE, r"without its rate .*\(wave, rate\)"),
    ("speech", (8000, WAVE), "has the rate before the waveform"),
    ("speech", (WAVE, 8000.5), "has the rate 8000.5"),
    ("speech", (WAVE, True), "has the rate True"),
    ("speech", (WAVE, 0), "has the rate 0"),
    ("speech", (WAVE.reshape(1, -1), 8000), r"channels go last: wave.T"),
    ("speech", (WAVE.reshape(1, 1, -1), 8000), "give one sound"),
    ("speech", (WAVE.astype(np.float16), 8000), 'float16 .*astype\\("float32"\\)'),
    ("speech", (WAVE.astype(np.complex64), 8000), "complex64"),
    ("speech", (WAVE.astype(np.int8), 8000), r'\(wave / 128\).astype\("float32"\)'),
    ("speech", (WAVE * 32768, 8000), "divide 16-bit integers by 32768"),
    ("speech", (np.append(WAVE, np.nan), 8000), "not finite"),
    ("speech", (WAVE[:0], 8000), "is empty"),
    ("speech", (list(WAVE), 8000), "not tuple"),
    ("speech", PIXELS, "without its rate"),
    ("pictures", PIXELS, "needs a list of up to 4"),
]


@pytest.mark.parametrize(("slot", "value", "sentence"), REFUSED)
def test_what_is_no_input_gets_a_sentence(slot: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        resolve(Sample(**{slot: value}), tiny.draft())


def test_inputs_are_bounded_before_they_are_encoded() -> None:
    large = np.broadcast_to(np.uint8(0), (10_000, 10_000, 3))
    for slot, value in (("picture", large), ("speech", (np.broadcast_to(np.float32(0), (1 << 24) + 1), 8000))):
        with pytest.raises(InputError) as refused:
            resolve(Sample(**{slot: value}), tiny.draft())
        assert refused.value.code == Code.TOO_LARGE
    with pytest.raises(InputError, match="is larger than 64 MB"):
        resolve(Sample(picture=io.BytesIO(bytes((64 << 20) + 1))), tiny.draft())


def test_a_file_that_is_open_can_be_asked_about_twice() -> None:
    file = io.BytesIO(b"head" + png(PIXELS))
    file.seek(4)
    sample = Sample(picture=file)
    first, second = (resolve(sample, tiny.draft()) for _ in range(2))
    assert first == second
    assert file.tell() == 4


@pytest.fixture(scope="module")
def device(tiny_bundle: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOMEROOM_KEYS", str(folder / "keys"))
        with Device.open(folder / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
            yield opened


def test_each_form_is_answered_explained_and_stored_as_the_file(device: Device, tmp_path: Path) -> None:
    row = tiny.samples(1, 3)[0]
    (tmp_path / "cat.png").write_bytes(row["picture"])
    (tmp_path / "cat.wav").write_bytes(row["speech"])
    picture = Image.open(io.BytesIO(row["picture"]))
    wave, rate = soundfile.read(io.BytesIO(row["speech"]), dtype="int16")
    pictures = (
        tmp_path / "cat.png",
        io.BytesIO(row["picture"]),
        bytearray(row["picture"]),
        picture,
        np.asarray(picture),
    )
    sounds = (
        tmp_path / "cat.wav",
        io.BytesIO(row["speech"]),
        memoryview(row["speech"]),
        (wave, rate),
        (wave[:, None], rate),
    )
    expected = device.predict(Sample(picture=row["picture"], speech=row["speech"]))
    why = device.explain(Sample(picture=row["picture"], speech=row["speech"]), "category")
    for seen, heard in zip(pictures, sounds, strict=True):
        assert device.predict(Sample(picture=seen, speech=heard)) == expected
    assert device.explain(Sample(picture=np.asarray(picture), speech=(wave, rate)), "category") == why
    several = Sample(word="the cat", pictures=[np.asarray(picture), picture, row["picture"], None])
    assert device.predict(several) == device.predict(Sample(word="the cat", pictures=[row["picture"]] * 3))
    (name,) = device.add(Sample(picture=np.asarray(picture), speech=(wave, rate), subject="p-1"))
    assert [sample.sample_id for sample in device.store.samples()] == [name]
