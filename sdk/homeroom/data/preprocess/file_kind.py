"""Names a file by its first bytes, for files that are not what their name says."""

from __future__ import annotations

HEAD_BYTES = 64
HEIC_KIND, MP4_KIND, WEBM_KIND = "a HEIC picture", "an MP4 file (m4a, AAC)", "a WebM or Matroska file"
AMR_KIND, AAC_KIND, WMA_KIND = "an AMR sound", "an AAC sound", "a Windows Media (WMA) file"
ZIP_MAGIC, OLD_OFFICE_MAGIC = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript (EPS)"),
    (ZIP_MAGIC, "a zip or Office file"),
    (OLD_OFFICE_MAGIC, "an old Office file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"#!AMR", AMR_KIND),
    (b"\xff\xf1", AAC_KIND),
    (b"\xff\xf9", AAC_KIND),
    (b"\x1aE\xdf\xa3", WEBM_KIND),
    (b"OggS", "an Ogg file"),
    (b"RIFF", "a RIFF file (WAV, WebP, AVI)"),
    (b"fLaC", "a FLAC sound"),
    (b"ID3", "an MP3 sound"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x30\x26\xb2\x75", WMA_KIND),
)
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def named_kind(data: bytes) -> str:
    """The end of a sentence about a file that cannot be read: what it is, where its bytes tell."""
    kind = file_kind(data)
    return f": it is {kind}" if kind else ""


def file_kind(data: bytes) -> str:
    """What a file is by its bytes, such as "a HEIC picture"; empty where they tell nothing."""
    head = data[:HEAD_BYTES]
    if not data:
        return "an empty file (0 bytes)"
    if head[4:8] == b"ftyp":
        if head[8:12] in HEIF_BRANDS:
            return HEIC_KIND
        return "an AVIF picture" if head[8:12] in (b"avif", b"avis") else MP4_KIND
    for signature, name in SIGNATURES:
        if head.startswith(signature):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML)"
    return "" if any(byte < 9 or 13 < byte < 32 for byte in head) or not text else "a text"
