"""JSON Lines files: one sample a line, slots and reserved fields side by side.

They are decoded in this process: a line is at most LINE_LIMIT_BYTES long, and Python bounds its depth and its numbers.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from homeroom.data.consent import gather_consent
from homeroom.data.ingest.intake import Intake
from homeroom.data.samples import Sample
from homeroom.errors import InputError
from homeroom.system.files import open_below

LINE_LIMIT_BYTES = 1 << 20
LINE_COLUMN = "line"  # of a sheet of lines that were not taken
SURROGATE = re.compile("[\ud800-\udfff]")


def read_jsonl(path: Path, intake: Intake, reserved: Collection[str]) -> Iterator[Sample]:
    """Yields a sample a line, not yet checked, and skips empty lines; lines that are none become problems.

    reserved: names of fields that are no inputs.
    """
    try:
        with open_below(path.parent, path.name) as file:
            number = 0
            while line := file.readline(LINE_LIMIT_BYTES + 1):
                number += 1
                where = f"{path.name} line {number}"
                if len(line) > LINE_LIMIT_BYTES:
                    raise InputError(f"is longer than {LINE_LIMIT_BYTES:,} bytes", where=where)
                if line.strip():
                    with intake.row(where, {LINE_COLUMN: line.decode("utf-8", "replace").rstrip()}):
                        sample = line_to_sample(line, where, reserved)
                        sample.origin = where
                        yield sample
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None


def line_to_sample(line: bytes, where: str, reserved: Collection[str]) -> Sample:
    """Decodes a line and converts it; InputError where it is none."""
    return to_sample(_decode(line, where), where, reserved)


def to_sample(row: dict[str, Any], where: str, reserved: Collection[str]) -> Sample:
    """Converts a decoded line; every field that is not reserved is an input."""
    fields = gather_consent({name: row[name] for name in reserved if row.get(name) is not None})
    if not isinstance(fields.get("labels", {}), dict):
        raise InputError("labels must be an object of task and label", where=where)
    sample = Sample(**fields)
    sample.inputs = {name: value for name, value in row.items() if name not in reserved and value is not None}
    return sample


def _decode(line: bytes, where: str) -> dict[str, Any]:
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode()
        row = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_number)
        if "\\u" in text and SURROGATE.search(json.dumps(row, ensure_ascii=False)):
            raise ValueError("half of a surrogate pair is no character")
    except (ValueError, RecursionError) as problem:
        raise InputError(
            f"is not valid JSON: {problem}", where=where, remedy="one object a line, saved as UTF-8"
        ) from None
    if not isinstance(row, dict):
        raise InputError("is not an object", where=where, remedy='write {"text": "…", "labels": {…}}')
    return row


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return row


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
