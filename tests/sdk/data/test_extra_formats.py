"""Pictures and sounds of telephones and browsers: read with their extras, told without; lengths that headers lack."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny
from PIL import Image

from homeroom import Device, Sample
from homeroom.data.decoder import client
from homeroom.data.ingest.folder import modality_of
from homeroom.data.preprocess import recordings
from homeroom.data.preprocess.audio import decode as hear
from homeroom.data.preprocess.image import decode as look
from homeroom.data.preprocess.recordings import length_note
from homeroom.errors import InputError
from homeroom.system.installation import how_to_install

needs_heic = pytest.mark.skipif(find_spec("pillow_heif") is None, reason="the extra `heic` is not installed")
needs_av = pytest.mark.skipif(find_spec("av") is None, reason="the extra `av` is not installed")
RATE = 16_000
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2_000)
RECORDINGS = {  # ending -> container, codec, rate
    ".m4a": ("ipod", "aac", 44_100),
    ".aac": ("adts", "aac", 44_100),
    ".3gp": ("3gp", "aac", 32_000),
    ".webm": ("webm", "libopus", 48_000),
    ".amr": ("amr", "libopencore_amrnb", 8_000),
    ".wma": ("asf", "wmav2", 44_100),
}


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with Device.open(tmp_path_factory.mktemp("device"), tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        yield opened


def tone(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """float32 [n]: 440 Hz at a third of full scale."""
    return (np.sin(2 * math.pi * 440 * np.arange(int(seconds * rate)) / rate) / 3).astype(np.float32)


def recording(ending: str, seconds: float = 1.0) -> bytes:
    import av

    container, codec, rate = RECORDINGS[ending]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 12_200 if ending == ".amr" else 64_000
        frame = av.AudioFrame.from_ndarray((tone(seconds, rate) * 32_767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = rate
        frame.pts = 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    return buffer.getvalue()


def photo(turned: bool = False) -> bytes:
    import pillow_heif

    picture = Image.new("RGB", (96, 64), (200, 40, 40))
    picture.paste((40, 40, 200), (48, 0, 96, 64))
    buffer = io.BytesIO()
    exif = picture.getexif()
    if turned:
        exif[0x0112] = 6
    pillow_heif.from_pillow(picture).save(buffer, quality=90, exif=exif.tobytes())
    return buffer.getvalue()


def wav(seconds: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds), RATE, "PCM_16", format="WAV")
    return buffer.getvalue()


def loudness(wave: np.ndarray) -> float:
    return float(np.sqrt((wave[len(wave) // 4 : -len(wave) // 4] ** 2).mean()))


@needs_heic
def test_a_heic_photo_is_read_upright_whatever_it_is_called(device: Device, tmp_path: Path) -> None:
    seen = np.asarray(look(photo()), np.float32)
    assert seen.shape == (64, 96, 3)
    assert np.abs(seen[:, :40].mean((0, 1)) - (200, 40, 40)).max() < 8
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.heic").write_bytes(photo())
    (tmp_path / "cat" / "b.jpg").write_bytes(photo())
    receipt = device.take_in(tmp_path)
    assert (receipt.added + receipt.known, receipt.unread) == (2, {})


@needs_heic
def test_a_heic_photo_with_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InputError, match="more than 0"):
        look(photo(), limit_bytes=10_000)
    with pytest.raises(InputError, match=r"damaged|can be read"):
        look(photo()[:300])


@needs_av
@pytest.mark.parametrize("ending", RECORDINGS)
def test_recordings_of_telephones_and_browsers_are_read_in_the_decoder(
    ending: str, device: Device, tmp_path: Path
) -> None:
    wave, rate = client.run(hear, recording(ending))
    assert rate == RECORDINGS[ending][2]
    assert len(wave) / rate == pytest.approx(1.0, abs=0.15)
    assert loudness(wave) == pytest.approx(1 / 3 / math.sqrt(2), rel=0.25)
    (tmp_path / f"cat{ending}").write_bytes(recording(ending))
    assert device.take_in(tmp_path).added == 1


@needs_av
def test_a_recording_that_is_too_long_cut_short_or_without_a_sound_is_refused_or_read_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = recording(".webm", 3.0)
    wave, rate = hear(whole[: len(whole) // 2])
    assert 0.5 < len(wave) / rate < 2.5
    with pytest.raises(InputError, match=r"MP4 file .* cut short: of "):
        hear(recording(".m4a")[:200])
    monkeypatch.setattr(recordings, "BYTES_LIMIT", 10_000)
    with pytest.raises(InputError, match="longer than 10 minutes"):
        hear(recording(".m4a"))


@needs_av
def test_a_playlist_that_names_a_file_of_the_machine_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(wav())
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.wav\n",
        f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n",
    ):
        with pytest.raises(InputError, match="is not a sound that can be read"):
            hear(text.encode())


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeroom.data.preprocess.heic.find_spec", lambda asked: None)
    monkeypatch.setattr("homeroom.data.preprocess.recordings.find_spec", lambda asked: None)


@pytest.mark.parametrize(
    ("read", "data", "words"),
    [
        (look, HEIC, ("HEIC picture", how_to_install("heic"), "save it as JPEG")),
        (
            hear,
            b"\0\0\0\x20ftypM4A " + bytes(99),
            ("MP4 file (m4a, AAC)", how_to_install("av"), "save the sound as MP3"),
        ),
        (hear, b"\x1aE\xdf\xa3" + bytes(99), ("WebM", how_to_install("av"), "save the sound as MP3")),
        (hear, b"#!AMR\n" + bytes(99), ("AMR", how_to_install("av"), "save the sound as MP3")),
    ],
)
def test_without_its_extra_a_format_is_named_with_the_extra_and_a_way_around(
    read: Callable[[bytes], object], data: bytes, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch)
    with pytest.raises(InputError) as refused:
        read(data)
    for word in words:
        assert word in str(refused.value)
    assert (modality_of(".heic"), modality_of(".m4a")) == (None, None)


def test_a_folder_names_what_an_extra_would_read(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(tiny.samples(1, seed=1)[0]["picture"])
    (tmp_path / "cat" / "b.heic").write_bytes(HEIC)
    (tmp_path / "cat" / "c.m4a").write_bytes(b"x")
    unread = device.take_in(tmp_path).unread
    assert how_to_install("heic") in unread["cat/b.heic"]
    assert how_to_install("av") in unread["cat/c.m4a"]


def streamed(stated: int) -> bytes:
    """A WAV file whose header states another length of its samples, as a recorder leaves it that was switched off."""
    data = wav()
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", stated) + data[at + 4 :]


@pytest.mark.parametrize("stated", [0, 0xFFFFFFFF])
def test_a_wav_without_a_length_is_read_to_its_end_and_it_is_said(stated: int, device: Device, tmp_path: Path) -> None:
    wave, _ = hear(streamed(stated))
    assert np.array_equal(wave, hear(wav())[0])
    (tmp_path / "a.wav").write_bytes(streamed(stated))
    receipt = device.take_in(tmp_path)
    assert receipt.added == 1
    assert "a.wav: its header states no length, so it was read to its end" in receipt.notes
    assert "states no length" in device.predict(Sample(speech=streamed(stated)))["category"].reason


def test_a_wav_that_is_cut_short_is_read_as_far_as_it_goes_and_it_is_said(device: Device, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav()[:-8_000])
    (note,) = device.take_in(tmp_path).notes
    assert "a.wav: is cut short: 24,000 of 32,000 bytes of sound are there" in note
    assert length_note(wav(), "a.wav") == ""
    for broken in (b"RIFF", b"RIFF\0\0\0\0WAVE", b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff", wav()[:44]):
        assert length_note(broken, "a.wav") == ""
