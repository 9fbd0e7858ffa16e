"""Samples of a sheet: one sample a row, or one interaction a row.

Columns: a slot's name; `slot.0`, `slot.1` for a slot with a count; `slot.column` for a table; `label.task`; and
subject, consent, consent_by, consent_on, consent_basis, consent_text, source, retain_until, language; in any case of
letters. An empty cell is a missing value. `|` separates several labels; a span is `4-9:label`. An interaction stands in
the columns `slot.skill`, `slot.correct` and perhaps `slot.time`; a person's rows, the oldest first, become one sample.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import CLIP_STD, Manifest, SequencePreprocess, TablePreprocess
from homeroom.data.cells import (
    ANY,
    Decimal,
    Range,
    decimal_of,
    is_missing,
    is_number,
    is_spreadsheet_error,
    parse_number,
)
from homeroom.data.consent import gather_consent
from homeroom.data.ingest.intake import Intake
from homeroom.data.ingest.jsonl import LINE_COLUMN, line_to_sample
from homeroom.data.ingest.sequences import gather_interactions
from homeroom.data.ingest.sheet import ColumnNames, Row, is_workbook, read_rows
from homeroom.data.samples import PERSONS, Sample
from homeroom.data.tasks import kind_of
from homeroom.data.validation import find_slot, find_task, reserved_fields
from homeroom.errors import InputError

LABEL_PREFIXES = ("label", "labels")
EXACT_LIMIT = 2.0**53  # whole numbers below are integers, as a kind that counts wants them
SHORTENED = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+")  # 1.23457E+11
DAY = re.compile(r"\d{4}-\d\d-\d\d( |$)")  # as `read_excel` writes it: typed 1-7
INTERACTION_COLUMNS = ("skill", "correct", "time")


def read_sheet(path: Path, manifest: Manifest, intake: Intake) -> Iterator[Sample]:
    """Yields the samples of a sheet, not yet checked; rows that cannot be one become problems of the intake."""
    return gather_interactions(_samples(path, manifest, intake), manifest, intake)


def _samples(path: Path, manifest: Manifest, intake: Intake) -> Iterator[Sample]:
    group = intake.options.group
    columns = SheetColumns.of(manifest, intake, path, group)
    for row, where in read_rows(path, known_columns(manifest, group), intake):
        with intake.row(where, row):
            if row.keys() == {LINE_COLUMN} and isinstance(line := row[LINE_COLUMN], str):
                yield line_to_sample(line.encode(), where, columns.reserved)
            else:
                yield to_sample(row, where, columns, intake)


@dataclass(frozen=True)
class SheetColumns:
    """How cells are read.

    reserved: columns that are no inputs. decimal: the separator of numbers. usual: the usual values of columns that
    hold numbers. times: columns that hold times, of which some are numbers. typed: whether cells have types of their
    own, as in a workbook.
    """

    manifest: Manifest
    reserved: Collection[str]
    decimal: Decimal
    usual: Mapping[str, Range]
    times: Collection[str]
    typed: bool

    @classmethod
    def of(cls, manifest: Manifest, intake: Intake, sheet: Path | None, *more: str) -> SheetColumns:
        """Reads the sheet once for its decimal separator, unless it is given. more: further names of columns."""
        usual, times, decimal = _numeric_columns(manifest), _time_columns(manifest), intake.options.decimal
        if sheet is not None and not decimal:
            rows = read_rows(sheet, known_columns(manifest, *more), Intake(intake.options, adding=intake.adding))
            named = (item for row, _ in rows for item in row.items() if item[0] in usual or item[0] in times)
            cells = (cell for _, cell in named if isinstance(cell, str))
            if is_workbook(sheet):  # whose percentages are written with a point by `read_excel`
                cells = (cell for cell in cells if not cell.endswith("%"))
            decimal = decimal_of(cells)
        typed = sheet is not None and is_workbook(sheet)
        return cls(manifest, reserved_fields(manifest), decimal, usual, times, typed)

    def holds_number(self, name: str, cell: Any) -> bool:
        """Whether a cell is a text to be read as a number."""
        return isinstance(cell, str) and (name in self.usual or (name in self.times and is_number(cell)))


def known_columns(manifest: Manifest, *more: str) -> ColumnNames:
    """The names of columns that a bundle knows. more: further names, empty ones aside."""
    names = [*(name for name in reserved_fields(manifest) if name != "labels"), LINE_COLUMN, *filter(None, more)]
    for slot in manifest.slots:
        parts = [str(number) for number in range(slot.count)]
        spec = manifest.modality(slot.modality).preprocess
        if isinstance(spec, TablePreprocess):
            parts += [column.name for column in spec.columns]
        if isinstance(spec, SequencePreprocess):
            parts += INTERACTION_COLUMNS
        for name in (slot.name, slot.modality):
            names += [name, *(f"{name}.{part}" for part in parts)]
    names += [f"{prefix}.{task.name}" for task in manifest.tasks for prefix in LABEL_PREFIXES]
    return ColumnNames(names)


def _numeric_columns(manifest: Manifest) -> dict[str, Range]:
    """The usual values of each column that holds numbers."""
    columns = {
        f"{prefix}.{task.name}": Range(task.offset - CLIP_STD * task.scale, task.offset + CLIP_STD * task.scale)
        for task in manifest.tasks
        for prefix in LABEL_PREFIXES
        if kind_of(task).numbers
    }
    for slot in manifest.slots:
        spec = manifest.modality(slot.modality).preprocess
        for column in spec.columns if isinstance(spec, TablePreprocess) else ():
            if not column.categories:
                columns |= {f"{name}.{column.name}": Range(*column.usual) for name in (slot.name, slot.modality)}
    return columns


def _time_columns(manifest: Manifest) -> set[str]:
    """The columns of interactions' times."""
    specs = ((slot, manifest.modality(slot.modality).preprocess) for slot in manifest.slots)
    slots = [slot for slot, spec in specs if isinstance(spec, SequencePreprocess)]
    return {f"{name}.time" for slot in slots for name in (slot.name, slot.modality)}


def to_sample(row: Row, where: str, columns: SheetColumns, intake: Intake) -> Sample:
    """Converts a row; InputError names the cell of an unknown task or slot."""
    manifest = columns.manifest
    reserved: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for name, cell in row.items():
        prefix, _, rest = name.partition(".")
        is_label = prefix in LABEL_PREFIXES and bool(rest)
        is_fact = name in columns.reserved
        is_person = is_fact and name in PERSONS
        try:
            is_sparse = is_label or is_person or name in columns.usual
            if isinstance(cell, str) and (is_missing(cell) if is_sparse else is_spreadsheet_error(cell)):
                intake.missing[cell.strip()] += 1
                continue
            if columns.holds_number(name, cell):
                number = parse_number(cell, columns.decimal, columns.usual.get(name, ANY), intake.advise)
                cell = int(number) if number.is_integer() and abs(number) < EXACT_LIMIT else number
            if is_label:
                labels[rest] = kind_of(find_task(rest, manifest)).parse(cell) if isinstance(cell, str) else cell
            elif is_fact:
                reserved[name] = _whole_name(cell, columns.typed) if is_person else str(cell)
            elif not rest:
                inputs[name] = str(cell)
            else:
                _put_cell(inputs, find_slot(prefix, manifest).count, prefix, rest, cell)
        except InputError as problem:
            raise InputError(problem.what, where=f"{where} {name}", remedy=problem.remedy) from None
    sample = Sample(labels=labels, **gather_consent(reserved))
    sample.inputs, sample.origin = inputs, where
    return sample


def _whole_name(cell: Any, typed: bool) -> str:
    """A person's name; InputError where a spreadsheet has left out a number's last digits, or made another type of it.

    typed: whether a day is one by its type, not by how it is written.
    """
    if SHORTENED.fullmatch(name := str(cell).strip()):
        what = f"{name!r} is a number that a spreadsheet has shortened, so that several people may have it"
        raise InputError(what, remedy="format the column as text, and write the numbers in full")
    if isinstance(cell, bool) or (typed and DAY.match(name)):
        what = f"{name!r} is a {'yes or no' if isinstance(cell, bool) else 'day'}, as a spreadsheet makes of some names"
        raise InputError(what, remedy="format the column as text, and write the names anew")
    return str(cell)


def _put_cell(inputs: dict[str, Any], count: int, slot: str, rest: str, cell: Any) -> None:
    if count == 1:
        inputs.setdefault(slot, {})[rest] = cell.strip() if isinstance(cell, str) else cell
        return
    if not rest.isdecimal() or int(rest) >= count:
        raise InputError(f"slot {slot} has places 0 to {count - 1}", remedy=f"name the column {slot}.0")
    inputs.setdefault(slot, [None] * count)[int(rest)] = cell
