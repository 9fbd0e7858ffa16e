"""Ingest: reads samples from JSON Lines, sheets or a folder, one module a format. Errors name the file and the row."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from homeroom.contract.manifest import Manifest
from homeroom.data.consent import check_day
from homeroom.data.ingest.column_memory import begin_sheet, remember
from homeroom.data.ingest.folder import lesson_folder, read_folder, why_not_read
from homeroom.data.ingest.group_column import check_group, with_group
from homeroom.data.ingest.hand_over import EXPORT_FILE, read_hand_over
from homeroom.data.ingest.intake import Intake, Problem, ReadOptions
from homeroom.data.ingest.jsonl import read_jsonl
from homeroom.data.ingest.sheet import SHEET_SUFFIXES
from homeroom.data.ingest.sheet_samples import read_sheet
from homeroom.data.samples import Sample, StoredSample
from homeroom.data.validation import media_names, reserved_fields, resolve
from homeroom.errors import InputError

__all__ = ["Intake", "Problem", "ReadOptions", "read", "read_samples", "remember_columns"]

JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")


def read(
    samples: Sequence[Sample | str | Path], manifest: Manifest, intake: Intake | None = None
) -> Iterator[StoredSample]:
    """Yields checked samples: those given, and those of the files and folders given, read one at a time.

    Raises InputError as `read_samples`, after all of them were read.
    """
    intake = intake or Intake()
    check_group(intake.options.group, manifest)
    for item in samples:
        if isinstance(item, Sample):
            intake.begin("", {})
            yield _kept(resolve(with_group(item, manifest, intake), manifest, note=intake.note), intake)
        elif isinstance(item, str | os.PathLike):
            yield from _checked(Path(item), manifest, intake)
        else:
            what = f"needs samples, or paths of files and folders, not {type(item).__name__}"
            raise InputError(what, remedy="give each as an argument of its own: *samples")
    intake.finish()


def remember_columns(intake: Intake) -> None:
    """Remembers beside each sheet that was read what a person said of its columns; the intake notes it."""
    options = intake.options
    for sheet in intake.sheets if options.columns or options.ignore or options.group else ():
        if sentence := remember(sheet, options):
            intake.note(sentence)


def read_samples(path: Path, manifest: Manifest) -> Iterator[StoredSample]:
    """Yields the checked samples of a file or folder; files that it names lie below its folder.

    Raises InputError where it cannot be read or holds no sample, and at its end where rows are wrong, which it lists.
    """
    return read([path], manifest)


def _checked(path: Path, manifest: Manifest, intake: Intake) -> Iterator[StoredSample]:
    given = intake.options
    try:
        yield from _checked_as_remembered(path, manifest, intake)
    finally:
        intake.options = given


def _checked_as_remembered(path: Path, manifest: Manifest, intake: Intake) -> Iterator[StoredSample]:
    before = intake.rows
    if path.is_file():
        intake.read.add(path)
    if path.is_dir():
        path = lesson_folder(path)
        reader = read_hand_over if (path / EXPORT_FILE).is_file() else read_folder
        samples, base = reader(path, manifest, intake), path
    elif not path.exists():
        raise InputError("there is no such file or folder", where=str(path), remedy="check the path")
    elif path.suffix.lower() in JSON_LINES_SUFFIXES:
        samples, base = read_jsonl(path.resolve(), intake, reserved_fields(manifest)), path.parent
    elif path.suffix.lower() in SHEET_SUFFIXES:
        begin_sheet(path, manifest, intake)
        samples, base = read_sheet(path.resolve(), manifest, intake), path.parent
    else:
        raise InputError(
            f"files of kind {path.suffix or path.name!r} are not read",
            where=str(path),
            remedy=why_not_read(path.suffix.lower())
            or "give a .csv, .tsv, .xlsx or .jsonl file, or a folder with pictures, sounds and texts",
        )
    for read_as in samples:
        sample = read_as
        try:
            sample = with_group(read_as, manifest, intake)
            stored = _kept(resolve(sample, manifest, base=base, note=intake.note), intake)
        except InputError as problem:
            intake.refuse(problem, sample.origin or path.name)
            continue
        intake.read |= {base / name for name in media_names(sample, manifest)}
        yield stored
    if intake.rows == before:
        raise InputError("holds no sample", where=str(path), remedy="check that it is the right file")


def _kept(sample: StoredSample, intake: Intake) -> StoredSample:
    """The sample; InputError where it would be removed at once, or its consent is of a day to come."""
    if intake.today and sample.is_over(intake.today):
        raise InputError(
            f"{sample.retain_until} has passed", where="retain_until", remedy="give a day to come, or none"
        )
    if intake.today and sample.consent:
        check_day(sample.consent, intake.today)
    return sample
