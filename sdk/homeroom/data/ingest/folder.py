"""Folders of media: files of one name make one sample, such as `cat.png`, `cat.ogg` and `cat.txt`.

A sheet beside them is used: with a column `file` (a name with or without its suffix) its rows label the files, else its
rows are the samples, as in a sheet by itself. Without one, a sub-folder's name is the label of each task that has it.
Every file that is not read is named by the intake, with the reason.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import Manifest
from homeroom.data.ingest.column_memory import MEMORY_FILE, begin_sheet
from homeroom.data.ingest.hand_over import EXPORT_FILE
from homeroom.data.ingest.intake import PROBLEMS_SHOWN, Intake
from homeroom.data.ingest.jsonl import read_jsonl
from homeroom.data.ingest.sheet import SHEET_SUFFIXES, UTF_16_MARKS, Row, read_rows
from homeroom.data.ingest.sheet_samples import SheetColumns, known_columns, read_sheet, to_sample
from homeroom.data.preprocess.heic import HEIC_SUFFIXES, how_to_read_heic, reads_heic
from homeroom.data.preprocess.recordings import AV_SUFFIXES, how_to_read_av, reads_av
from homeroom.data.samples import Sample
from homeroom.data.tasks import kind_of
from homeroom.data.tasks.base import close_names, match_name, suggestion
from homeroom.data.validation import reserved_fields
from homeroom.errors import InputError
from homeroom.system.files import read_below

MODALITY_SUFFIXES = {
    "image": [
        ".png",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".gif",
        ".bmp",
        ".webp",
        ".svg",
        ".svgz",
        ".tif",
        ".tiff",
        ".avif",
        ".jp2",
    ],
    "audio": [".wav", ".ogg", ".oga", ".opus", ".flac", ".mp3", ".aif", ".aiff", ".au", ".snd", ".caf", ".w64"],
    "text": [".txt"],
}
EXTRA_SUFFIXES = {  # ending -> modality, whether its extra is installed, what is wrong without it, what to do
    **dict.fromkeys(HEIC_SUFFIXES, ("image", reads_heic, "HEIC pictures need the extra `heic`", how_to_read_heic)),
    **dict.fromkeys(AV_SUFFIXES, ("audio", reads_av, "this format needs the extra `av`", how_to_read_av)),
}
MODALITY_OF = {suffix: modality for modality, suffixes in MODALITY_SUFFIXES.items() for suffix in suffixes}
MODALITY_NOUNS = {"image": "pictures", "audio": "sounds", "text": "texts"}
NOT_READ = {
    **dict.fromkeys([".pdf", ".doc", ".docx", ".odt", ".rtf"], "documents are not read: save the text as .txt"),
    **dict.fromkeys([".ods", ".numbers", ".xls", ".xlsb"], "such sheets are not read: save it as .xlsx or CSV UTF-8"),
    **dict.fromkeys([".zip", ".rar", ".7z"], "archives are not read: unpack it into a folder"),
}
JUNK_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}  # of systems; nobody misses them
HIDDEN_MARKS = (".", "~$")  # of hidden files, and of those by which Excel and Word mark a file that is open
SHEET_STEMS = ("labels", "samples")  # whose sheet is meant where there are several
FILE_COLUMN = "file"
SHEET_FILES = (*SHEET_SUFFIXES, ".jsonl")
TEXT_LIMIT_BYTES = 1 << 20
FILE_LIMIT = 200_000
NESTED_LIMIT = 4  # folders with nothing beside them, one in another


def lesson_folder(folder: Path) -> Path:
    """The folder itself; or the one in it, where that has a sheet and is all there is, as unpacking makes it."""
    inner = folder
    for _ in range(NESTED_LIMIT):
        inside = [path for path in inner.iterdir() if not _is_hidden(path.name)]
        if len(inside) != 1 or inside[0].is_symlink() or not inside[0].is_dir():
            return folder
        inner = inside[0]
        if any(path.suffix.lower() in SHEET_FILES or path.name == EXPORT_FILE for path in inner.iterdir()):
            return inner
    return folder


def read_folder(folder: Path, manifest: Manifest, intake: Intake) -> Iterator[Sample]:
    """Yields samples, not yet checked: in the order of the sheet, else of the files' names."""
    files = _readable_files(folder, manifest, intake)
    sheet = _sheet_of(folder, intake)
    if sheet is not None and sheet.suffix.lower() in SHEET_SUFFIXES:
        begin_sheet(sheet, manifest, intake)
    if sheet is not None and not _labels_files(sheet, manifest, intake):
        yield from _sheet_samples(sheet, manifest, files, intake)
        return
    if not files:
        details = [f"{name}: {reason}" for name, reason in islice(intake.unread.items(), PROBLEMS_SHOWN)]
        what = "holds no pictures, sounds or texts" + (" that can be read" if details else "")
        raise InputError(what, where=str(folder), remedy="check the path", details=details)
    if sheet is not None:
        intake.read.add(sheet)
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    rows = {} if sheet is None else _rows_by_group(folder, sheet, groups, manifest, intake)
    columns = SheetColumns.of(manifest, intake, sheet, FILE_COLUMN, intake.options.group)
    for name, members in groups.items():
        row, where = rows.get(name, ({}, name))
        with intake.row(where, {FILE_COLUMN: name, **row}):
            sample = to_sample(row, where, columns, intake)
            sample.inputs |= _bind_files(members, manifest, folder)
            intake.read |= {path for path in members if path.suffix.lower() in MODALITY_SUFFIXES["text"]}
            sample.origin = where
            if not sample.labels and "/" in name:
                sample.labels |= _folder_labels(name.rsplit("/", 2)[-2], manifest, intake)
            yield sample


def _readable_files(folder: Path, manifest: Manifest, intake: Intake) -> list[Path]:
    """Media and texts that the bundle has an input for; the intake names the others."""
    modalities = {slot.modality for slot in manifest.slots if slot.count == 1}
    files = []
    paths = list(islice(folder.rglob("*"), FILE_LIMIT + 1))
    if len(paths) > FILE_LIMIT:
        raise InputError(f"holds more than {FILE_LIMIT:,} files", where=str(folder), remedy="add it in parts")
    for path in sorted(paths):
        inside, suffix = path.relative_to(folder), path.suffix.lower()
        if any(map(_is_hidden, inside.parts)):
            continue
        modality = modality_of(suffix)
        if path.is_symlink():
            intake.unread[inside.as_posix()] = "links are not followed"
        elif path.is_dir() or (len(inside.parts) == 1 and suffix in SHEET_FILES):
            continue
        elif suffix in SHEET_FILES:
            intake.unread[inside.as_posix()] = "a sheet is used in the folder that is given: give this one's by itself"
        elif inside.as_posix() == MEMORY_FILE:
            intake.read.add(path)
        elif not path.is_file():
            intake.unread[inside.as_posix()] = "it is a pipe or a device, not a file"
        elif modality is None:
            intake.unread[inside.as_posix()] = why_not_read(suffix) or "it is no picture, sound or text by its ending"
        elif modality not in modalities:
            intake.unread[inside.as_posix()] = f"the bundle has no input for {MODALITY_NOUNS[modality]}"
        else:
            files.append(path)
    return files


def _is_hidden(name: str) -> bool:
    return name.startswith(HIDDEN_MARKS) or name.lower() in JUNK_NAMES


def modality_of(suffix: str) -> str | None:
    """The modality of files with this ending; None where they are not read, at least not without an extra."""
    if suffix in EXTRA_SUFFIXES and EXTRA_SUFFIXES[suffix][1]():
        return EXTRA_SUFFIXES[suffix][0]
    return MODALITY_OF.get(suffix)


def why_not_read(suffix: str) -> str | None:
    """Why files with this ending are not read, and what to do; None where nothing is known of them."""
    if suffix in EXTRA_SUFFIXES:
        _, _, lacks, how = EXTRA_SUFFIXES[suffix]
        return f"{lacks}: {how()}"
    return NOT_READ.get(suffix)


def _sheet_of(folder: Path, intake: Intake) -> Path | None:
    """The one sheet of a folder; InputError where it is not clear which of several is meant."""
    sheets = [
        path for path in sorted(folder.iterdir()) if path.suffix.lower() in SHEET_FILES and not _is_hidden(path.name)
    ]
    named = [path for path in sheets if path.stem.lower() in SHEET_STEMS] or sheets
    if len(named) > 1:
        names = ", ".join(path.name for path in named)
        raise InputError(f"has several sheets: {names}", where=str(folder), remedy="keep the one that is meant")
    for path in sheets:
        if path not in named:
            intake.unread[path.name] = f"the folder's sheet is {named[0].name}"
    return named[0] if named else None


def _labels_files(sheet: Path, manifest: Manifest, intake: Intake) -> bool:
    """Whether the sheet's rows label files, by a column `file`."""
    if sheet.suffix.lower() == ".jsonl":
        return False
    known = known_columns(manifest, FILE_COLUMN, intake.options.group)
    rows = read_rows(sheet, known, Intake(intake.options, adding=intake.adding))
    return FILE_COLUMN in next((row for row, _ in rows), {})


def _sheet_samples(sheet: Path, manifest: Manifest, files: Sequence[Path], intake: Intake) -> Iterator[Sample]:
    """The samples of a sheet; files that none of them names are unread."""
    intake.read.add(sheet)
    named: set[str] = set()
    jsonl = sheet.suffix.lower() == ".jsonl"
    lines = read_jsonl(sheet, intake, reserved_fields(manifest)) if jsonl else read_sheet(sheet, manifest, intake)
    for sample in lines:
        for value in sample.inputs.values():
            named |= {Path(one).as_posix() for one in (value if isinstance(value, list) else [value])
                      if isinstance(one, str) and len(one) < 4_096}  # fmt: skip
        yield sample
    for path in files:
        if path.relative_to(sheet.parent).as_posix() not in named:
            intake.unread[path.relative_to(sheet.parent).as_posix()] = f"{sheet.name} does not name it"


def _rows_by_group(
    folder: Path, sheet: Path, groups: dict[str, list[Path]], manifest: Manifest, intake: Intake
) -> dict[str, tuple[Row, str]]:
    """Rows of the sheet and where each is, by the group of files that they label."""
    rows: dict[str, tuple[Row, str]] = {}
    names = {name: name for name in groups}  # as the sheet may write them: with a file's ending or without
    names |= {file.relative_to(folder).as_posix(): name for name, files in groups.items() for file in files}
    by_spelling: dict[str, set[str]] = {}
    for written, group in names.items():
        by_spelling.setdefault(_spelling(written), set()).add(group)
    for row, where in read_rows(sheet, known_columns(manifest, FILE_COLUMN, intake.options.group), intake):
        file = str(row.get(FILE_COLUMN, "")).strip()
        alike = by_spelling.get(_spelling(file), set())
        name = names.get(file, next(iter(alike)) if len(alike) == 1 else None)
        if name is None or name in rows:
            with intake.row(where, row):
                if name is not None:
                    what = f"names {file!r} twice, first in {rows[name][1]}"
                    raise InputError(what, where=where, remedy="keep the row that is meant")
                what = f"speaks of {file!r}, which is not in the folder" if file else "names no file"
                same = [written for written in names if _spelling(written) == _spelling(file)]
                meant = f"did you mean {' or '.join(same)}?" if same else suggestion(file, list(names))
                remedy = meant if file else "name one in the column file"
                raise InputError(what, where=where, remedy=remedy)
            continue
        rows[name] = ({column: cell for column, cell in row.items() if column != FILE_COLUMN}, where)
    return rows


def _spelling(path: str) -> str:
    """Equal for paths that differ in composed letters, case, `./` before them and `\\` for `/`."""
    return unicodedata.normalize("NFC", path).casefold().replace("\\", "/").removeprefix("./")


def _folder_labels(name: str, manifest: Manifest, intake: Intake) -> dict[str, Any]:
    """The label that a folder's name is, of each task that has it."""
    classes = [task for task in manifest.tasks if kind_of(task).classes is not None and task.labels]
    labels: dict[str, Any] = {task.name: match_name(name, task.labels) for task in classes}
    labels = {task: label for task, label in labels.items() if label is not None}
    if not labels:
        close = close_names(name, [label for task in classes for label in task.labels])
        hint = f", did you mean {' or '.join(close)}?" if close else ""
        intake.note(f"folder {name}: no such label{hint}")
    return labels


def _bind_files(files: list[Path], manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Binds each file to the one slot of its modality; InputError where there are several, or a second file for it."""
    inputs: dict[str, Any] = {}
    for path in files:
        modality = modality_of(path.suffix.lower())
        slots = [slot.name for slot in manifest.slots if slot.modality == modality and slot.count == 1]
        where = path.relative_to(folder).as_posix()
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
            raise InputError("is larger than 1 MB", where=name, remedy="split it, or give a part of it")
        encoding = "utf-16" if data.startswith(UTF_16_MARKS) else "utf-8-sig"
        return io.StringIO(data.decode(encoding), newline=None).read().strip()
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text", where=name, remedy="save it as UTF-8") from None
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=name) from None
