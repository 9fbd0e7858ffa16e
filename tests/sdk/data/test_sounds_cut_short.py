"""Sounds that end before their header says are read to their end and said, or refused with what to do."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from homeroom.data.preprocess.audio import decode
from homeroom.data.preprocess.recordings import length_note
from homeroom.errors import InputError

WAVE = (0.4 * np.sin(np.arange(128_000) / 6)).astype(np.float32)


def written(kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, WAVE, 16_000, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype"), [*((kind, None) for kind in ("MP3", "AIFF", "AU", "W64", "RF64", "WAV")), ("OGG", "OPUS")]
)
def test_a_sound_cut_short_is_read_and_said(kind, subtype):
    whole = written(kind, subtype)
    half = whole[: len(whole) // 2]
    assert length_note(whole, "a") == ""
    assert "cut short" in length_note(half, "a")
    assert 0 < len(decode(half)[0]) < len(WAVE)


def test_an_mp3_cut_short_behind_a_picture_tag_is_said():
    tag = b"ID3\x03\x00\x00\x00\x01\x00\x00" + bytes(128 * 128)
    whole = tag + written("MP3")
    assert length_note(whole, "a.mp3") == ""
    assert "cut short" in length_note(whole[:-2000], "a.mp3")


@pytest.mark.parametrize(("container", "options"), [("webm", {}), ("mp4", {"movflags": "faststart"})])
def test_a_container_cut_short_is_said(container, options, tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / f"a.{container}"
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libopus" if container == "webm" else "aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((WAVE * 32_767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate, frame.pts = 48_000, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)
    whole = path.read_bytes()
    assert length_note(whole, "a") == ""
    assert "cut short" in length_note(whole[: len(whole) * 2 // 3], "a")


def test_an_mp4_without_its_table_of_sounds_says_how_much_of_it_is_there():
    pytest.importorskip("av")
    cut = (24).to_bytes(4, "big") + b"ftypM4A " + bytes(12) + (9_000).to_bytes(4, "big") + b"mdat" + bytes(500)
    with pytest.raises(InputError, match="cut short: of 9,024 bytes 532 are there") as refused:
        decode(cut)
    assert "whole" in (refused.value.remedy or "")


@pytest.mark.parametrize(("data", "words"), [(b"", "copy"), (b"<html><p>Log in", "download"), (b"%PDF-1.7", "use WAV")])
def test_a_file_that_is_no_sound_says_what_to_do_with_it(data, words):
    with pytest.raises(InputError) as refused:
        decode(data)
    assert words in (refused.value.remedy or "")


@pytest.mark.parametrize("kind", ["FLAC", "CAF"])
def test_a_sound_that_cannot_be_read_when_cut_short_is_refused_with_what_to_do(kind):
    whole = written(kind)
    with pytest.raises(InputError) as refused:
        decode(whole[: len(whole) // 2])
    assert "cut short" in (refused.value.remedy or "")
