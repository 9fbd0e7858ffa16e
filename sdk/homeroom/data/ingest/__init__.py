"""Ingest: reads samples from JSON Lines, CSV or a folder, one module a format. Errors name the file and the row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from homeroom.contract.manifest import Manifest
from homeroom.data.ingest.csv_file import read_csv
from homeroom.data.ingest.folder import read_folder
from homeroom.data.ingest.jsonl import read_jsonl
from homeroom.data.samples import Sample, StoredSample
from homeroom.data.validation import resolve
from homeroom.errors import InputError

__all__ = ["read", "read_samples"]


def read(samples: Sequence[Sample | str | Path], manifest: Manifest) -> Iterator[StoredSample]:
    """Yields checked samples: those given, and those of the files and folders given, read one at a time."""
    for item in samples:
        yield from [resolve(item, manifest)] if isinstance(item, Sample) else read_samples(Path(item), manifest)


def read_samples(path: Path, manifest: Manifest) -> Iterator[StoredSample]:
    """Yields the checked samples of a .jsonl or .csv file, or of a folder; files that they name lie below it.

    Raises InputError where it cannot be read, holds no sample, or holds a wrong one.
    """
    if path.is_dir():
        samples, base = read_folder(path, manifest), path
    elif not path.exists():
        raise InputError("there is no such file or folder", where=str(path), remedy="check the path")
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        samples, base = read_jsonl(path.resolve()), path.parent
    elif path.suffix.lower() == ".csv":
        samples, base = read_csv(path.resolve(), manifest), path.parent
    else:
        raise InputError(
            f"files of kind {path.suffix or path.name!r} are not read",
            where=str(path),
            remedy="give a .jsonl or .csv file, or a folder with pictures, sounds and texts",
        )
    empty = True
    for sample in samples:
        empty = False
        try:
            yield resolve(sample, manifest, base=base)
        except InputError as problem:
            where = " ".join(filter(None, (str(sample.origin or path.name), problem.where)))
            raise InputError(problem.what, where=where, remedy=problem.remedy) from None
    if empty:
        raise InputError("holds no sample", where=str(path), remedy="check that it is the right file")
