"""Files from outside that an export reads: regular ones only, and none beyond its bound before anything is decoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from homeroom.errors import ExportError, HomeroomError
from homeroom.system.files import open_regular, read_bounded

TEXT_LIMIT_BYTES = 1 << 20  # of a recipe, a configuration, a licence
TOKENIZER_LIMIT_BYTES = 64 << 20  # also of other files of a model that hold no weights
WEIGHTS_LIMIT_BYTES = 16 << 30
GRAPH_LIMIT_BYTES = 2 << 30  # what protobuf holds
WEIGHTS_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx"})


def read_text(path: Path, limit_bytes: int = TEXT_LIMIT_BYTES, error: type[HomeroomError] = ExportError) -> str:
    """A whole text file, UTF-8; `error` where it cannot be read, is another kind of file, or too large."""
    try:
        data = read_bounded(path, limit_bytes)
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", where=str(path)) from None
    if len(data) > limit_bytes:
        raise error(f"is larger than {limit_bytes >> 20} MB", where=str(path), remedy="is it the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise error("is not UTF-8 text", where=str(path)) from None


def read_settings(path: Path, where: str) -> dict[str, Any]:
    """A configuration, one JSON object; ExportError where it is none."""
    try:
        settings = json.loads(read_text(path))
    except (ValueError, RecursionError) as problem:
        raise ExportError(f"{path.name} is not JSON: {problem}", where=where) from None
    if not isinstance(settings, dict):
        raise ExportError(f"{path.name} is not one JSON object", where=where)
    return settings


def check_graph(path: Path, where: str) -> None:
    """ExportError unless an ONNX file is a regular one that protobuf can hold."""
    _check_size(path, GRAPH_LIMIT_BYTES, where)


def check_model_folder(folder: Path, where: str) -> None:
    """ExportError where a file of a model's folder is a pipe or a device, or larger than a library should read."""
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            weights = path.suffix in WEIGHTS_SUFFIXES
            _check_size(path, WEIGHTS_LIMIT_BYTES if weights else TOKENIZER_LIMIT_BYTES, where)


def _check_size(path: Path, limit_bytes: int, where: str) -> None:
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
    except OSError as problem:
        raise ExportError(f"{path.name} cannot be read: {problem.strerror}", where=where) from None
    if size > limit_bytes:
        raise ExportError(f"{path.name} is larger than {limit_bytes >> 20:,} MB", where=where)
