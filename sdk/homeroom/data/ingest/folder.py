"""Folders of media: files of one name make one sample, such as `cat.png`, `cat.ogg` and `cat.txt`.

A labels.csv has a column `file` (a name with or without its suffix) and the columns of a CSV file of samples. Without
labels, a sub-folder's name is the label of each task that has it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import Manifest, Task
from homeroom.data.ingest.csv_file import read_rows, to_sample
from homeroom.data.ingest.jsonl import read_jsonl
from homeroom.data.samples import Sample
from homeroom.data.tasks import kind_of
from homeroom.errors import InputError
from homeroom.system.files import read_below

MODALITY_SUFFIXES = {
    "image": (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".svg"),
    "audio": (".wav", ".ogg", ".oga", ".flac", ".mp3"),
    "text": (".txt",),
}
TEXT_LIMIT_BYTES = 1 << 20
FILE_LIMIT = 200_000


def read_folder(folder: Path, manifest: Manifest) -> Iterator[Sample]:
    """Yields samples, not yet checked, in the order of their names; those of a samples.jsonl if there is one."""
    if (folder / "samples.jsonl").exists():
        yield from read_jsonl(folder / "samples.jsonl")
        return
    groups = _group_files(folder)
    if not groups:
        raise InputError("holds no pictures, sounds or texts", where=str(folder), remedy="check the path")
    rows = _rows_by_group(folder, groups)
    for name, files in groups.items():
        row, where = rows.get(name, ({}, name))
        sample = to_sample(row, manifest, where)
        sample.inputs |= _bind_files(files, manifest, folder)
        sample.origin = where
        if not sample.labels and "/" in name:
            label = name.rsplit("/", 2)[-2]
            sample.labels |= {task.name: label for task in manifest.tasks if _has_class(task, label)}
        if sample.inputs:
            yield sample


def _has_class(task: Task, label: str) -> bool:
    return kind_of(task).classes is not None and label in task.labels


def _group_files(folder: Path) -> dict[str, list[Path]]:
    """Files by their path below the folder, without the suffix."""
    suffixes = {suffix for each in MODALITY_SUFFIXES.values() for suffix in each}
    groups: dict[str, list[Path]] = {}
    paths = list(islice(folder.rglob("*"), FILE_LIMIT + 1))
    if len(paths) > FILE_LIMIT:
        raise InputError(f"holds more than {FILE_LIMIT:,} files", where=str(folder), remedy="add it in parts")
    for path in sorted(paths):
        if path.suffix.lower() in suffixes and path.is_file():
            groups.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return groups


def _rows_by_group(folder: Path, groups: dict[str, list[Path]]) -> dict[str, tuple[dict[str, str], str]]:
    """Rows of labels.csv and where each is, by the group of files that they describe."""
    path = folder / "labels.csv"
    rows: dict[str, tuple[dict[str, str], str]] = {}
    if not path.exists():
        return rows
    known = {file.relative_to(folder).as_posix(): name for name, files in groups.items() for file in files}
    for row, where in read_rows(path):
        file = row.pop("file", None)
        name = known.get(str(file), file if file in groups else None)
        if name is None:
            raise InputError(f"speaks of {file!r}, which is not in the folder", where=where)
        rows[name] = (row, where)
    return rows


def _bind_files(files: list[Path], manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Binds each file to the one slot of its modality; InputError where there are several, or a second file for it."""
    inputs: dict[str, Any] = {}
    for path in files:
        modality = next(name for name, suffixes in MODALITY_SUFFIXES.items() if path.suffix.lower() in suffixes)
        slots = [slot.name for slot in manifest.slots if slot.modality == modality and slot.count == 1]
        where = path.relative_to(folder).as_posix()
        if not slots:
            continue
        if len(slots) > 1:
            raise InputError(f"could be any of {slots}", where=where, remedy="use a .csv or .jsonl file to say which")
        if slots[0] in inputs:
            raise InputError(f"a second {modality} for the same sample", where=where)
        inputs[slots[0]] = _read_text(folder, where) if modality == "text" else where
    return inputs


def _read_text(folder: Path, name: str) -> str:
    try:
        data = read_below(folder, name, TEXT_LIMIT_BYTES)
        if len(data) > TEXT_LIMIT_BYTES:
            raise InputError("is larger than 1 MB", where=name)
        return io.StringIO(data.decode("utf-8-sig"), newline=None).read().strip()
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=name) from None
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=name) from None
