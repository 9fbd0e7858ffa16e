"""All that is held about one subject, as files that the subject can open."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import safetensors.numpy

from homeroom.data.preprocess.svg import is_svg
from homeroom.errors import InputError
from homeroom.store import Export
from homeroom.system.files import check_folder_of, make_directory, removed_on_failure, write_durable

MEDIA_SIGNATURES = (  # where bytes stand, the bytes, a file's ending and its media type; the first that fits
    (0, b"\x89PNG", "png", "image/png"),
    (0, b"\xff\xd8\xff", "jpg", "image/jpeg"),
    (0, b"GIF8", "gif", "image/gif"),
    (8, b"WEBP", "webp", "image/webp"),
    (0, b"II*\0", "tif", "image/tiff"),
    (0, b"MM\0*", "tif", "image/tiff"),
    (0, b"BM", "bmp", "image/bmp"),
    (0, b"\0\0\0\x0cjP", "jp2", "image/jp2"),
    (4, b"ftypavif", "avif", "image/avif"),
    (4, b"ftyphei", "heic", "image/heic"),
    (4, b"ftypmif1", "heic", "image/heic"),
    (4, b"ftyp", "m4a", "audio/mp4"),
    (8, b"WAVE", "wav", "audio/wav"),
    (0, b"OggS", "ogg", "audio/ogg"),
    (0, b"fLaC", "flac", "audio/flac"),
    (0, b"ID3", "mp3", "audio/mpeg"),
    *((0, bytes([0xFF, layer]), "mp3", "audio/mpeg") for layer in (0xE2, 0xE3, 0xF2, 0xF3, 0xFA, 0xFB)),
    (0, b"\xff\xf1", "aac", "audio/aac"),
    (0, b"\xff\xf9", "aac", "audio/aac"),
    (0, b"FORM", "aiff", "audio/aiff"),
    (0, b"\x1aE\xdf\xa3", "webm", "audio/webm"),
    (0, b"#!AMR", "amr", "audio/amr"),
)


def describe(export: Export) -> dict[str, Any]:
    """The export as a document; media are given by their size."""
    return _document(export, lambda _sample, _slot, _index, data: f"{len(data)} bytes")


def write_export(export: Export, folder: Path) -> int:
    """Writes export.json and the media beside it, all or nothing; returns the number of files.

    Raises InputError where the folder holds any, or the one that it lies in is not there.
    """
    check_folder_of(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError("is not empty", where=str(folder), remedy="name a new folder: what is there might stay in it")
    folder_is_new = not folder.exists()
    with removed_on_failure(folder):
        make_directory(folder)
        try:
            return _write_files(export, folder)
        except BaseException:
            for path in () if folder_is_new else folder.iterdir():
                path.unlink()
            raise


def _write_files(export: Export, folder: Path) -> int:
    written: list[str] = []

    def save(sample: int, slot: str, index: int, data: bytes) -> str:
        name = f"{sample + 1:05d}-{slot}-{index}.{_ending(data)}"
        write_durable(folder / name, data)
        written.append(name)
        return name

    document = _document(export, save)
    if export.profile is not None:
        write_durable(folder / "profile.safetensors", safetensors.numpy.save(export.profile.segments))
        written.append("profile.safetensors")
    write_durable(folder / "export.json", msgspec.json.format(msgspec.json.encode(document), indent=1))
    return len(written) + 1


def media_format(data: bytes) -> tuple[str, str]:
    """The ending of a file of a picture or sound, and its media type."""
    if is_svg(data):
        return "svg", "image/svg+xml"
    formats = ((ending, kind) for at, start, ending, kind in MEDIA_SIGNATURES if data.startswith(start, at))
    return next(formats, ("bin", "application/octet-stream"))


def _document(export: Export, media: Any) -> dict[str, Any]:
    samples = [msgspec.structs.asdict(sample) for sample in export.samples]
    for number, row in enumerate(samples):
        for name in ("author", "group"):
            if row[name] is None:
                del row[name]  # as in a release that knows none
        if not row["local_labels"]:
            del row["local_labels"]
        row["inputs"] = {slot: list(values) for slot, values in row["inputs"].items()}
        for slot, values in row["inputs"].items():
            for index, value in enumerate(values):
                if isinstance(value, bytes):
                    values[index] = media(number, slot, index, value)
    profile = None
    if export.profile is not None:
        sizes = {segment_id: len(values) for segment_id, values in export.profile.segments.items()}
        profile = {**export.profile.facts, "segments": sizes}
    # `audit` is always empty; whoever read an export of 0.1.0 expects it.
    document = asdict(replace(export, profile=None)) | {"samples": samples, "profile": profile, "audit": ()}
    if not export.authored:
        del document["authored"]
    return document


def _ending(data: bytes) -> str:
    if data[8:12] == b"WEBP":
        return "webp"
    if b"<svg" in data[:1000]:
        return "svg"
    return media_format(data)[0]
