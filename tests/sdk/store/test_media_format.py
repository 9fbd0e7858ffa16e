"""What a hand-over calls a picture or a sound, and as what the page sends it, is what its bytes are."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from homeroom.store.subject_export import media_format


@pytest.mark.parametrize(
    ("kind", "ending", "media_type"),
    [
        ("PNG", "png", "image/png"),
        ("JPEG", "jpg", "image/jpeg"),
        ("WEBP", "webp", "image/webp"),
        ("TIFF", "tif", "image/tiff"),
        ("BMP", "bmp", "image/bmp"),
        ("AVIF", "avif", "image/avif"),
        ("JPEG2000", "jp2", "image/jp2"),
    ],
)
def test_a_picture_is_named_by_its_bytes(kind: str, ending: str, media_type: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    assert media_format(buffer.getvalue()) == (ending, media_type)


@pytest.mark.parametrize(
    ("kind", "ending", "media_type"),
    [
        ("WAV", "wav", "audio/wav"),
        ("FLAC", "flac", "audio/flac"),
        ("OGG", "ogg", "audio/ogg"),
        ("MP3", "mp3", "audio/mpeg"),
        ("AIFF", "aiff", "audio/aiff"),
    ],
)
def test_a_sound_is_named_by_its_bytes(kind: str, ending: str, media_type: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(8000, np.float32), 8000, format=kind)
    assert media_format(buffer.getvalue()) == (ending, media_type)


def test_a_drawing_is_one_and_what_is_not_known_is_sent_as_bytes() -> None:
    drawing = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
    assert media_format(drawing) == ("svg", "image/svg+xml")
    for data in (b"<html><script>", b"", b"GIF"):
        assert media_format(data) == ("bin", "application/octet-stream")
