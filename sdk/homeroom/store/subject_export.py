"""All that is held about one subject, as files that the subject can open."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import safetensors.numpy

from homeroom.errors import InputError
from homeroom.store import Export
from homeroom.system.files import check_folder_of, make_directory, removed_on_failure, write_durable

MEDIA_SIGNATURES = {
    b"\x89PNG": ("png", "image/png"),
    b"\xff\xd8\xff": ("jpg", "image/jpeg"),
    b"GIF8": ("gif", "image/gif"),
    b"RIFF": ("wav", "audio/wav"),
    b"OggS": ("ogg", "audio/ogg"),
    b"fLaC": ("flac", "audio/flac"),
    b"ID3": ("mp3", "audio/mpeg"),
}  # by the first bytes: a file's ending and its media type


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
    formats = (names for start, names in MEDIA_SIGNATURES.items() if data.startswith(start))
    return next(formats, ("bin", "application/octet-stream"))


def _document(export: Export, media: Any) -> dict[str, Any]:
    samples = [msgspec.structs.asdict(sample) for sample in export.samples]
    for number, row in enumerate(samples):
        if row["author"] is None:
            del row["author"]  # as in a release that knows none
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
