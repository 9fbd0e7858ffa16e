"""Names a file by its first bytes, for files that are not what their name says."""

from __future__ import annotations

from homeroom.errors import InputError

HEAD_BYTES = 64
HEIC_KIND, MP4_KIND, WEBM_KIND = "a HEIC picture", "an MP4 file (m4a, AAC)", "a WebM or Matroska file"
AMR_KIND, AAC_KIND, WMA_KIND = "an AMR sound", "an AAC sound", "a Windows Media (WMA) file"
EMPTY_KIND, LFS_KIND = "an empty file (0 bytes)", "a Git LFS pointer, not the file itself"
PAGE_KIND = "a web page (HTML)"
ZIP_MAGIC, OLD_OFFICE_MAGIC = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript (EPS)"),
    (ZIP_MAGIC, "a zip or Office file"),
    (OLD_OFFICE_MAGIC, "an old Office file"),
    (b"version https://git-lfs", LFS_KIND),
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
REMEDIES = {
    EMPTY_KIND: "copy it again, from where it is whole",
    LFS_KIND: "get the file itself: git lfs pull",
    PAGE_KIND: "download the file itself: a site answered with a page, perhaps to log in",
}
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def not_read(data: bytes, what: str, where: str, remedy: str) -> InputError:
    """The error of a file that is no `what`, such as "picture": what it is by its bytes, and what to do.

    remedy: where its bytes tell no better one.
    """
    kind = file_kind(data)
    named = f": it is {kind}" if kind else ""
    return InputError(f"is not a {what} that can be read{named}", where=where, remedy=REMEDIES.get(kind, remedy))


def file_kind(data: bytes) -> str:
    """What a file is by its bytes, such as "a HEIC picture"; empty where they tell nothing."""
    head = data[:HEAD_BYTES]
    if not data:
        return EMPTY_KIND
    if head[4:8] == b"ftyp":
        if head[8:12] in HEIF_BRANDS:
            return HEIC_KIND
        return "an AVIF picture" if head[8:12] in (b"avif", b"avis") else MP4_KIND
    for signature, name in SIGNATURES:
        if head.startswith(signature):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return PAGE_KIND
    return "" if any(byte < 9 or 13 < byte < 32 for byte in head) or not text else "a text"
