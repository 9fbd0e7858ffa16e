"""CSV files: one sample a row, or one interaction a row.

Columns: a slot's name; `slot.0`, `slot.1` for a slot with a count; `slot.column` for a table; `label.task`; and
subject, consent, source, retain_until, language. An empty cell is a missing value. `|` separates several labels; a span
is `4-9:label`. An interaction stands in the columns `slot.skill`, `slot.correct` and perhaps `slot.time`; a person's
rows, the oldest first, become one sample.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import Manifest
from homeroom.data.ingest.sequences import gather_interactions
from homeroom.data.samples import RESERVED_FIELDS, Sample
from homeroom.data.tasks import kind_of
from homeroom.data.validation import find_slot, find_task
from homeroom.errors import InputError
from homeroom.system.files import open_below

CELL_LIMIT_CHARACTERS = 1 << 20
ROW_LIMIT_CHARACTERS = 16 << 20


def read_csv(path: Path, manifest: Manifest) -> Iterator[Sample]:
    """Yields the samples of a file, not yet checked."""
    yield from gather_interactions((to_sample(row, manifest, where) for row, where in read_rows(path)), manifest)


def read_rows(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Yields rows as column -> cell without the empty cells, and where each one is; InputError if it is not CSV."""
    csv.field_size_limit(CELL_LIMIT_CHARACTERS)
    try:
        with io.TextIOWrapper(open_below(path.parent, path.name), encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(_bounded_lines(file, path.name), strict=True)
            names = [name.strip() for name in rows.fieldnames or ()]
            if not names or "" in names or len(set(names)) != len(names):
                raise InputError("needs a first line that names each column, once", where=path.name)
            rows.fieldnames = names
            for row in rows:
                where = f"{path.name} line {rows.line_num}"
                if None in row:
                    raise InputError(f"has more cells than the {len(names)} columns", where=where)
                yield {name: cell for name, cell in row.items() if cell}, where
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=path.name, remedy="save it as CSV UTF-8") from None
    except csv.Error as problem:
        raise InputError(f"is not valid CSV: {problem}", where=path.name) from None
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None


def _bounded_lines(file: io.TextIOWrapper, name: str) -> Iterator[str]:
    while line := file.readline(ROW_LIMIT_CHARACTERS + 1):
        if len(line) > ROW_LIMIT_CHARACTERS:
            raise InputError(f"has a line of more than {ROW_LIMIT_CHARACTERS:,} characters", where=name)
        yield line


def to_sample(row: Mapping[str, str], manifest: Manifest, where: str) -> Sample:
    """Converts a row; InputError names the cell of an unknown task or slot."""
    reserved: dict[str, str] = {}
    labels: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for name, cell in row.items():
        prefix, _, rest = name.partition(".")
        try:
            if prefix in ("label", "labels") and rest:
                labels[rest] = kind_of(find_task(rest, manifest)).parse(cell)
            elif name in RESERVED_FIELDS:
                reserved[name] = cell
            elif not rest:
                inputs[name] = cell
            else:
                _put_cell(inputs, find_slot(prefix, manifest).count, prefix, rest, cell)
        except InputError as problem:
            raise InputError(problem.what, where=f"{where} {name}", remedy=problem.remedy) from None
    sample = Sample(labels=labels, **reserved, **inputs)
    sample.origin = where
    return sample


def _put_cell(inputs: dict[str, Any], count: int, slot: str, rest: str, cell: str) -> None:
    if count == 1:
        inputs.setdefault(slot, {})[rest] = cell
        return
    if not rest.isdecimal() or int(rest) >= count:
        raise InputError(f"slot {slot} has places 0 to {count - 1}", remedy=f"name the column {slot}.0")
    inputs.setdefault(slot, [None] * count)[int(rest)] = cell
