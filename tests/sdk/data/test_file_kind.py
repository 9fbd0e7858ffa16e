"""A file that is not what its name says is named by its bytes."""

from __future__ import annotations

import pytest

from homeroom.data.preprocess import audio, image
from homeroom.data.preprocess.file_kind import file_kind
from homeroom.errors import InputError

FILES = {
    "a HEIC picture": b"\0\0\0\x18ftypheic" + bytes(99),
    "an MP4 file (m4a, AAC)": b"\0\0\0\x20ftypM4A " + bytes(99),
    "an empty file (0 bytes)": b"",
    "a PDF": b"%PDF-1.7\n" + bytes(99),
    "a Git LFS pointer, not the file itself": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "a web page (HTML)": b"\xef\xbb\xbf <!DOCTYPE html><html>",
    "a zip or Office file": b"PK\x03\x04" + bytes(99),
    "a WebM or Matroska file": b"\x1aE\xdf\xa3" + bytes(99),
    "an AMR sound": b"#!AMR\n" + b"\xff" * 99,
    "a text": b"not a picture at all",
}


@pytest.mark.parametrize("kind", FILES)
def test_what_it_is_stands_in_the_refusal(kind: str) -> None:
    assert file_kind(FILES[kind]) == kind
    for decode in (image.decode, audio.decode):
        with pytest.raises(InputError) as refused:
            decode(FILES[kind], "a.jpg")
        assert kind in refused.value.what
        assert refused.value.remedy


def test_bytes_that_tell_nothing_are_not_guessed() -> None:
    assert file_kind(bytes(range(40))) == ""
