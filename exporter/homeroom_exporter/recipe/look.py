"""Looks at samples for which there is no bundle yet: their inputs, labels and languages, as they stand in the files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from homeroom.data.ingest.folder import FILE_COLUMN, MODALITY_OF, SHEET_FILES, SHEET_STEMS, lesson_folder
from homeroom.data.ingest.intake import Intake
from homeroom.data.ingest.jsonl import read_jsonl
from homeroom.data.ingest.sheet import SHEET_SUFFIXES, ColumnNames, column_name, read_lines, workbook_of
from homeroom.data.samples import RESERVED_FIELDS
from homeroom.errors import InputError
from homeroom.system.files import read_below

ROW_LIMIT, FILE_LIMIT, TEXT_LIMIT_BYTES = 20_000, 20_000, 1 << 20
SLOT_OF = {"image": "picture", "audio": "sound", "text": "text"}  # names for files without a sheet
FOLDER_TASK = "kind"  # the name of a task whose labels are folders' names
LABEL_MARK = "label."  # before a task's name, in a sheet's column


@dataclass
class Seen:
    """What samples hold. inputs, labels: values by name, None where a sample has none; base: of their files."""

    source: Path
    base: Path
    inputs: dict[str, list[Any]] = field(default_factory=dict)
    labels: dict[str, list[Any]] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    from_sheet: bool = False

    def add(self, inputs: dict[str, Any], labels: dict[str, Any], language: str) -> None:
        """Adds a sample."""
        for table, row in ((self.inputs, inputs), (self.labels, labels)):
            for name, value in row.items():
                table.setdefault(name, []).append(value)
        self.languages[language] += 1
        self.samples += 1


def look(path: Path) -> Seen:
    """Reads samples of a folder, a sheet or a .jsonl file, at most ROW_LIMIT; InputError where there is none."""
    if not path.exists():
        raise InputError("there is no such file or folder", where=str(path), remedy="check the path")
    folder = lesson_folder(path) if path.is_dir() else path.parent
    sheet = _sheet_of(folder) if path.is_dir() else path
    seen = Seen(path, folder)
    if sheet is None:
        _look_at_files(folder, {}, seen)
    elif sheet.suffix.lower() == ".jsonl":
        intake = Intake()
        for sample in islice(read_jsonl(sheet.resolve(), intake, RESERVED_FIELDS), ROW_LIMIT):
            seen.add(sample.inputs, sample.labels, sample.language or "")
        intake.finish()
    elif sheet.suffix.lower() in SHEET_SUFFIXES:
        rows = list(islice(_rows(sheet), ROW_LIMIT))
        if any(FILE_COLUMN in row for row in rows):
            _look_at_files(folder, {str(row.get(FILE_COLUMN, "")): row for row in rows}, seen)
        else:
            for row in rows:
                seen.add(_inputs_of(row), _labels_of(row), str(row.get("language", "")))
        seen.from_sheet = True
    else:
        raise InputError("is no sheet, .jsonl file or folder", where=str(path), remedy="give a folder of samples")
    if not seen.samples or not seen.inputs:
        raise InputError("holds no sample", where=str(path), remedy="check that it is the right folder")
    return seen


def _sheet_of(folder: Path) -> Path | None:
    sheets = [
        path for path in sorted(folder.iterdir()) if path.suffix.lower() in SHEET_FILES and path.name[0] not in ".~"
    ]
    named = [path for path in sheets if path.stem.lower() in SHEET_STEMS] or sheets
    if len(named) > 1:
        names = ", ".join(path.name for path in named)
        raise InputError(f"has several sheets: {names}", where=str(folder), remedy="name the file that is meant")
    return named[0] if named else None


def _rows(sheet: Path) -> Iterator[dict[str, Any]]:
    """The rows of a sheet by column; the first line that is not empty names the columns."""
    names: list[str] = []
    for _, cells in read_lines(sheet.resolve(), ColumnNames(RESERVED_FIELDS), workbook_of(sheet)):
        filled = [None if cell is None or str(cell).strip() == "" else cell for cell in cells]
        if not any(cell is not None for cell in filled):
            continue
        if not names:
            names = [column_name(cell) for cell in cells]
            continue
        yield {name: cell for name, cell in zip(names, filled, strict=False) if name and cell is not None}


def _labels_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(LABEL_MARK): cell for name, cell in row.items() if name.startswith(LABEL_MARK)}


def _inputs_of(row: dict[str, Any]) -> dict[str, Any]:
    """Inputs of a sheet's row: `slot.0` and `slot.1` are a list, `slot.column` an object."""
    inputs: dict[str, Any] = {}
    for name, cell in row.items():
        slot, _, rest = name.partition(".")
        if name in RESERVED_FIELDS or slot == "label":
            continue
        if not rest:
            inputs[name] = cell
        elif rest.isdigit():
            inputs.setdefault(slot, []).append(cell)
        else:
            inputs.setdefault(slot, {})[rest] = cell
    return inputs


def _look_at_files(folder: Path, rows: dict[str, dict[str, Any]], seen: Seen) -> None:
    """Files of one name are one sample; its labels are those of its row, else the name of the folder that it is in."""
    groups: dict[Path, list[Path]] = {}
    for path in sorted(islice(folder.rglob("*"), FILE_LIMIT)):
        if path.suffix.lower() in MODALITY_OF and path.is_file() and not path.is_symlink() and path.name[0] != ".":
            groups.setdefault(path.relative_to(folder).with_suffix(""), []).append(path)
    for group, members in groups.items():
        inputs = {SLOT_OF[MODALITY_OF[path.suffix.lower()]]: path.relative_to(folder).as_posix() for path in members}
        if "text" in inputs:
            inputs["text"] = read_below(folder, inputs["text"], TEXT_LIMIT_BYTES).decode("utf-8", "replace").strip()
        names = (path.relative_to(folder).as_posix() for path in members)
        row = next((rows[name] for name in (*names, group.as_posix()) if name in rows), None)
        labels = _labels_of(row) if row else {}
        if not rows and len(group.parts) > 1:
            labels = {FOLDER_TASK: group.parts[-2]}
        seen.add(inputs, labels, str(row.get("language", "")) if row else "")


def number_of(value: Any) -> float | None:
    """A number that a cell or a label is, true and false left out; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def quoted(value: object) -> str:
    """A string as TOML writes it."""
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
