"""What is held about one subject, as files that the subject can open; imports the store's records only."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import safetensors.numpy

from homeroom.errors import InputError
from homeroom.store import Export
from homeroom.system.files import make_directory, write_durable

ENDINGS = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"RIFF", "wav"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"ID3", "mp3"),
)


def describe(held: Export) -> dict[str, Any]:
    """Everything but media, which are given by their size."""
    return _document(held, lambda _sample, _slot, _place, data: f"{len(data)} bytes")


def write_export(held: Export, folder: Path) -> int:
    """Write export.json and the media beside it; return the number of files. InputError if the folder holds any."""
    make_directory(folder)
    if any(folder.iterdir()):
        raise InputError("is not empty", where=str(folder), remedy="name a new folder: what is there might stay in it")
    written: list[str] = []

    def save(sample: int, slot: str, place: int, data: bytes) -> str:
        name = f"{sample + 1:05d}-{slot}-{place}.{_ending(data)}"
        write_durable(folder / name, data)
        written.append(name)
        return name

    document = _document(held, save)
    if held.profile is not None:
        write_durable(folder / "profile.safetensors", safetensors.numpy.save(held.profile.segments))
        written.append("profile.safetensors")
    write_durable(folder / "export.json", msgspec.json.format(msgspec.json.encode(document), indent=1))
    return len(written) + 1


def _document(held: Export, media: Any) -> dict[str, Any]:
    samples = []
    for number, sample in enumerate(held.samples):
        row = msgspec.structs.asdict(sample)
        row["inputs"] = {
            slot: [
                media(number, slot, place, value) if isinstance(value, bytes) else value
                for place, value in enumerate(places)
            ]
            for slot, places in sample.inputs.items()
        }
        samples.append(row)
    profile = None
    if held.profile is not None:
        sizes = {segment_id: len(values) for segment_id, values in held.profile.segments.items()}
        profile = {**held.profile.facts, "segments": sizes}
    return asdict(replace(held, profile=None)) | {"samples": samples, "profile": profile}


def _ending(data: bytes) -> str:
    if data[8:12] == b"WEBP":
        return "webp"
    if b"<svg" in data[:1000]:
        return "svg"
    return next((ending for start, ending in ENDINGS if data.startswith(start)), "bin")
