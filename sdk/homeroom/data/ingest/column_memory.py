"""What a person said of a sheet's columns, remembered in one small file beside the sheet, for the next export alike.

An entry is found again by the names of the columns. A sheet of the same name with other columns than last time is
refused: one of them could mean something else now.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from homeroom.contract.manifest import Manifest
from homeroom.data.cells import Decimal
from homeroom.data.ingest.group_column import check_group
from homeroom.data.ingest.intake import Intake, ReadOptions
from homeroom.data.ingest.sheet import TITLE_ROWS, ColumnNames, column_name, read_lines, workbook_of
from homeroom.errors import InputError, StoreError
from homeroom.system.files import read_small, write_durable

MEMORY_FILE = "homeroom-columns.json"
MEMORY_FORMAT, ENTRIES_LIMIT, MEMORY_LIMIT_BYTES = 1, 200, 1 << 20


class RememberedSheet(msgspec.Struct, frozen=True, kw_only=True):
    """A sheet's name, the names of its columns, and what a person said of them (see `ReadOptions`)."""

    sheet: str
    header: tuple[str, ...]
    columns: dict[str, str] = {}
    ignore: tuple[str, ...] = ()
    decimal: Decimal = ""
    group: str = ""

    @property
    def summary(self) -> str:
        """What is remembered, in one line."""
        pairs = [f"{column} = {name}" for column, name in self.columns.items()]
        grouped = [f"held out whole by {self.group}"] if self.group else []
        return ", ".join([*pairs, *(f"{name} passed over" for name in self.ignore), *grouped])


class ColumnMemory(msgspec.Struct, frozen=True):
    """The content of the file, the newest entry last."""

    format: int = MEMORY_FORMAT
    sheets: tuple[RememberedSheet, ...] = ()


def begin_sheet(sheet: Path, manifest: Manifest, intake: Intake) -> None:
    """Reads a sheet as `recall` says from now on; InputError where its samples cannot be grouped so."""
    options = recall(sheet, intake)
    check_group(options.group, manifest)
    intake.begin_sheet(sheet, options)


def recall(sheet: Path, intake: Intake) -> ReadOptions:
    """How a sheet is read: as a person says now, else as is remembered beside it, which the intake notes.

    Raises InputError where a sheet of this name has other columns than last time, or the file cannot be read.
    """
    given = intake.options
    if given.columns or given.ignore or not (memory := _read(sheet)).sheets:
        return given
    lines = _first_lines(sheet, [name for entry in memory.sheets for name in entry.header])
    for entry in reversed(memory.sheets):
        if any(set(entry.header) == set(names) for names in lines):
            intake.note(f"{sheet.name}: its columns as {MEMORY_FILE} remembers them: {entry.summary}")
            decimal = given.decimal or entry.decimal
            group = given.group or entry.group
            return replace(given, columns=entry.columns, ignore=frozenset(entry.ignore), decimal=decimal, group=group)
    if before := next((entry for entry in reversed(memory.sheets) if entry.sheet == sheet.name), None):
        raise InputError(
            f"has other columns than last time: {_difference(before.header, _header(lines, before.header))}",
            where=sheet.name,
            remedy=intake.advise(f"delete {MEMORY_FILE}", "--map COLUMN=NAME --ignore COLUMN"),
        )
    return given


def remember(sheet: Path, options: ReadOptions) -> str:
    """Remembers what a person said of a sheet's columns, durably; returns a sentence on it for the receipt.

    Empty, and nothing is remembered, where the sheet has none of these columns.
    """
    said = [*options.columns, *options.ignore, *filter(None, [options.group])]
    header = _header(_first_lines(sheet, said), said)
    columns = {column: name for column, name in options.columns.items() if column in header}
    ignore = tuple(name for name in header if name in options.ignore)
    group = options.group if any(map(ColumnNames([options.group]).find, [*header, *columns.values()])) else ""
    if not columns and not ignore and not group:
        return ""
    entry = RememberedSheet(
        sheet=sheet.name, header=tuple(header), columns=columns, ignore=ignore, decimal=options.decimal, group=group
    )
    path = sheet.with_name(MEMORY_FILE)
    try:
        others = [one for one in _read(sheet).sheets if set(one.header) != set(header) and one.sheet != sheet.name]
        memory = ColumnMemory(sheets=(*others[-ENTRIES_LIMIT + 1 :], entry))
        write_durable(path, msgspec.json.format(msgspec.json.encode(memory), indent=1))
    except (StoreError, InputError) as problem:
        return f"{sheet.name}: what its columns are could not be remembered in {path}: {problem.what}"
    return f"{path} remembers for the next sheet with these columns: {entry.summary}"


def _read(sheet: Path) -> ColumnMemory:
    path = sheet.with_name(MEMORY_FILE)
    try:
        memory = msgspec.json.decode(read_small(path, MEMORY_LIMIT_BYTES), type=ColumnMemory)
    except FileNotFoundError:
        return ColumnMemory()
    except (OSError, msgspec.DecodeError) as problem:
        raise InputError(f"cannot be read: {problem}", where=str(path), remedy="delete it") from None
    if memory.format != MEMORY_FORMAT:
        raise InputError(f"is of format {memory.format}", where=str(path), remedy="update homeroom, or delete it")
    return memory


def _first_lines(sheet: Path, names: Sequence[str]) -> list[list[str]]:
    """The filled cells of the lines in which a sheet's columns may be named; names: that tell its separator."""
    lines = itertools.islice(read_lines(sheet, ColumnNames(names), workbook_of(sheet)), TITLE_ROWS)
    return [[name for cell in cells if (name := column_name(cell))] for _, cells in lines]


def _header(lines: Sequence[Sequence[str]], names: Collection[str]) -> Sequence[str]:
    """The line with the most of the names."""
    return max(lines, key=lambda line: len(set(line) & set(names)), default=())


def _difference(before: Sequence[str], now: Sequence[str]) -> str:
    new, gone = [name for name in now if name not in before], [name for name in before if name not in now]
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in (("new", new), ("gone", gone)) if names)
