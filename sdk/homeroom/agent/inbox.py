"""The inbox: a folder whose complete entries are imported; the files that were read are then deleted.

The device's copy is encrypted. Nothing else is ever deleted: an entry that changes while it is read stays, files that
are not read move to refused/ with the reason beside them, as refused entries do, and what is no entry lies where it is.
It may be on a network share: entries still being copied are left alone.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from homeroom.agent.acceptance import WaitingEntry, waiting_entry
from homeroom.agent.status import AGENT_FOLDER
from homeroom.agent.taken_in import note_receipt
from homeroom.contract.invitation import Enrolment
from homeroom.data.ingest.column_memory import MEMORY_FILE
from homeroom.data.ingest.folder import EXTRA_SUFFIXES, HIDDEN_MARKS, JUNK_NAMES, MODALITY_OF, why_not_read
from homeroom.data.ingest.sheet import SHEET_SUFFIXES, UTF_16_MARKS
from homeroom.device.device import Device
from homeroom.device.receipt import AddReceipt
from homeroom.errors import BundleError, HomeroomError, InputError
from homeroom.runtime.fallback import second_file
from homeroom.runtime.unpack import BUNDLE_SUFFIX, SECOND_SUFFIX
from homeroom.system.attempt import ENDED, attempt, cut_short
from homeroom.system.files import make_directory, read_bounded, write_durable

SETTLED_S = 30.0  # an entry that changed more recently may still be copied
UNFINISHED_SUFFIXES = (".part", ".tmp", ".crdownload", ".filepart")
REFUSED_FOLDER, WHY_SUFFIX = "refused", ".why.txt"
WHY_LIMIT_BYTES = 4096
REFUSED_STAMP = re.compile(r"^\d{8}-\d{6}-")
MARK_FILE, ENTRY_LIMIT_S = "reading.json", 7200.0
ROW_SUFFIXES = (".jsonl", ".ndjson", *SHEET_SUFFIXES)
TEXT_ROW_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")
REFUSED_LIMIT_BYTES = 64 << 20
WORKBOOK_TEXT = re.compile(r"xl/(sharedStrings|worksheets/[^/]+)\.xml")
DAY_S = 86_400.0


@dataclass(frozen=True)
class InboxEntries:
    """The complete entries of the inbox by kind."""

    samples: tuple[Path, ...] = ()
    bundles: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.samples or self.bundles)


def scan_inbox(inbox: Path, settled_s: float = SETTLED_S) -> InboxEntries:
    """The complete entries: not hidden, not half copied, and unchanged for `settled_s` seconds; a bundle with its
    second file, where that is there."""
    settled = settled_entries(inbox, time.time(), settled_s)
    entries = [entry for entry in settled if not why_no_entry(entry)]
    rows = [entry for entry in entries if not entry.is_dir() and entry.suffix.lower() in ROW_SUFFIXES]
    samples = (*rows, *(entry for entry in entries if entry.is_dir()))  # a sheet may name files in a folder
    bundles = tuple(
        entry
        for entry in entries
        if entry.suffix == BUNDLE_SUFFIX and (second_file(entry) in settled or not second_file(entry).exists())
    )
    return InboxEntries(samples, bundles)


def settled_entries(inbox: Path, now: float, settled_s: float) -> list[Path]:
    """Entries unchanged for `settled_s` seconds at `now` (since the epoch); so are those a day in the future."""

    def quiet(entry: Path) -> bool:
        paths = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
        times = {path: path.lstat().st_mtime for path in paths}
        newest = max(times.values())
        copying = any(path.suffix.lower() in UNFINISHED_SUFFIXES and now - times[path] < DAY_S for path in paths)
        return newest > now + DAY_S or (now - newest >= settled_s and not copying)

    try:
        entries = sorted(inbox.iterdir())
    except OSError:
        return []  # an unreachable share
    settled = []
    for entry in entries:
        unfinished = entry.suffix.lower() in UNFINISHED_SUFFIXES
        if unfinished or entry.name.startswith(HIDDEN_MARKS) or entry.name == REFUSED_FOLDER:
            continue
        try:
            if quiet(entry):
                settled.append(entry)
        except OSError:
            continue  # it went meanwhile
    return settled


def why_no_entry(entry: Path) -> str:
    """Why the agent does not read something in the inbox; empty where it does."""
    if entry.is_symlink():
        return "links are not followed"
    if entry.is_dir():
        return "" if any(not is_junk(path) for path in files_below(entry)) else "the folder is empty"
    if not entry.is_file():
        return "it is a pipe or a device, not a file"
    if isinstance(waiting_entry(entry), WaitingEntry):
        return "it waits for a person's yes"
    if _is_second(entry):
        return "a bundle's second file is read with the bundle, if this machine needs it: put that beside it"
    if entry.suffix.lower() in (*ROW_SUFFIXES, BUNDLE_SUFFIX):
        return ""
    if entry.suffix.lower() in (*MODALITY_OF, *EXTRA_SUFFIXES):
        return "put media into a folder: its name, or a sheet beside them, labels them"
    return why_not_read(entry.suffix.lower()) or "it is not read: put sheets, .jsonl files or folders of media here"


def _is_second(entry: Path) -> bool:
    return entry.name.lower().endswith(SECOND_SUFFIX)


@dataclass(frozen=True)
class LeftEntries:
    """What the agent leaves in the inbox. unread: names, each with the reason. waiting: for a person's yes."""

    unread: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[WaitingEntry, ...] = ()


def left_entries(inbox: Path, joined: Enrolment | None) -> LeftEntries:
    """What the agent leaves in the inbox. joined: with which aggregator the device has joined."""
    unread, waiting = {}, []
    for entry in settled_entries(inbox, time.time(), 0.0):
        if entry.name == MEMORY_FILE:
            continue  # for the next sheet
        if why := why_no_entry(entry):
            asks = waiting_entry(entry, joined) if entry.is_file() and not entry.is_symlink() else ""
            if isinstance(asks, WaitingEntry):
                waiting.append(asks)
            else:
                unread[entry.name] = asks or why
    return LeftEntries(unread, tuple(waiting))


def files_below(entry: Path) -> dict[Path, tuple[int, int]]:
    """Size and time (ns) of each file of an entry, of links themselves."""
    paths = [entry, *entry.rglob("*")]
    return {
        path: (status.st_size, status.st_mtime_ns)
        for path in paths
        if not stat.S_ISDIR((status := path.lstat()).st_mode)
    }


def is_junk(path: Path) -> bool:
    """Whether a file is one that systems leave in folders, and nobody misses."""
    return path.name.lower() in (*JUNK_NAMES, ".ds_store") or path.name.startswith(("._", "~$"))


def remove_read(entry: Path, before: Mapping[Path, tuple[int, int]], receipt: AddReceipt) -> bool:
    """Deletes the files of an entry that were read; moves what is left to refused/, and returns whether it did.

    before: its files when reading began. Where they changed meanwhile nothing is deleted: the entry is read again.
    """
    if files_below(entry) != before:
        return False
    for path in map(Path, receipt.read):
        if path in before:
            path.unlink()
    if entry.is_dir():
        left = [path for path in before if os.path.lexists(path)]
        if not [path for path in left if not is_junk(path)]:
            shutil.rmtree(entry)
            return False
        details = [f"{name}: {why}" for name, why in receipt.unread.items()]
        refuse_entry(entry, InputError("these files were not read; all others are in the device", details=details))
        return True
    return False


def import_entries(device: Device, entries: tuple[Path, ...]) -> tuple[int, int]:
    """Adds each entry and deletes what was read of it; returns counts of new samples and refused entries.

    After a power cut between adding and deleting, the same samples are recognised by their content. Where its reader
    fails, an entry is refused as one that is wrong, and the others go on.
    """
    before, refused = device.store.count(), 0
    for entry in entries:
        try:
            if sheet := refused_sheet_of(entry):
                what, remedy = f"its files are named by {sheet}, which was refused", "correct that, and give both back"
                raise InputError(what, where=entry.name, remedy=remedy)
            files = files_below(entry)
            with attempt(mark_of(device.store.directory), entry.name, ENTRY_LIMIT_S):
                receipt = device.take_in(entry)
            note_receipt(device.store, entry, receipt)
        except (InputError, BundleError) as problem:
            refuse_entry(entry, problem)
            refused += 1
        except HomeroomError:
            raise  # the store's, not the entry's
        except Exception as problem:
            refuse_entry(entry, InputError(f"its reader failed: {type(problem).__name__} {problem}".strip()))
            refused += 1
        else:
            refused += remove_read(entry, files, receipt)
    return device.store.count() - before, refused


def mark_of(directory: Path) -> Path:
    """Where a device's agent marks the entry that it reads."""
    return directory / AGENT_FOLDER / MARK_FILE


def refuse_cut_short(directory: Path, inbox: Path) -> None:
    """Refuses the entry whose reader ended with its process, where there is one."""
    mark = mark_of(directory)
    found = cut_short(mark)
    entry = inbox / Path(found.name).name if found else None
    if entry is not None and entry.exists():
        refuse_entry(entry, InputError(ENDED))
    mark.unlink(missing_ok=True)


@dataclass(frozen=True)
class RefusedEntry:
    """An entry in refused/ and why."""

    name: str
    why: str


def refused_entries(inbox: Path) -> list[RefusedEntry]:
    """The refused entries that still lie there, the oldest first."""
    folder = inbox / REFUSED_FOLDER
    notes = sorted(folder.glob(f"*{WHY_SUFFIX}")) if folder.is_dir() else []
    entries = [(note.name.removesuffix(WHY_SUFFIX), note) for note in notes]
    return [RefusedEntry(name, _why(note)) for name, note in entries if (folder / name).exists()]


def _why(note: Path) -> str:
    try:
        return read_bounded(note, WHY_LIMIT_BYTES).decode(errors="replace").strip()
    except OSError as problem:
        return f"its note cannot be read: {problem.strerror}"


def refused_sheet_of(folder: Path) -> str:
    """The refused sheet or .jsonl file whose rows name files in a folder of the inbox; "" where there is none.

    Read by itself the folder would go without its labels, and the sheet would not find its files once it is corrected.
    """
    if not folder.is_dir():
        return ""
    name = unicodedata.normalize("NFC", folder.name)
    spelled = {name, escape(name, quote=False)}  # of a sheet, and of a workbook's XML
    spelled |= {json.dumps(unicodedata.normalize(form, name))[1:-1] for form in ("NFC", "NFD")}
    names = "|".join(re.escape(_folded(one)) for one in spelled)
    named = re.compile(rf"(?:^|[\"',;|\[>\t]) *(?:\./)?(?:{names})[/\\]", re.MULTILINE)
    refused = [folder.parent / REFUSED_FOLDER / entry.name for entry in refused_entries(folder.parent)]
    for sheet in refused:
        is_sheet = sheet.suffix.lower() in ROW_SUFFIXES and sheet.is_file() and not sheet.is_symlink()
        if is_sheet and any(named.search(_folded(text)) for text in _texts_of(sheet)):
            return sheet.name
    return ""


def _folded(text: str) -> str:
    """A text in one case and one normal form, as files are found by their names."""
    return unicodedata.normalize("NFC", text).casefold()


def _texts_of(sheet: Path) -> Iterator[str]:
    """What a sheet holds, as far as it can be read without its reader; of a workbook its parts with cells."""
    if sheet.suffix.lower() in TEXT_ROW_SUFFIXES:
        data = read_bounded(sheet, REFUSED_LIMIT_BYTES)
        yield data.decode("utf-16" if data.startswith(UTF_16_MARKS) else "utf-8", errors="replace")
        return
    left = REFUSED_LIMIT_BYTES  # of all parts together, unpacked
    try:
        with zipfile.ZipFile(io.BytesIO(read_bounded(sheet, REFUSED_LIMIT_BYTES))) as book:
            for name in filter(WORKBOOK_TEXT.fullmatch, book.namelist()):
                with book.open(name) as part:
                    text = part.read(left)
                left -= len(text)
                yield text.decode(errors="replace")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return  # its reader refused it for that


def give_back(inbox: Path, name: str) -> Path:
    """Moves a refused entry back into the inbox, where the agent tries it again; InputError if there is none."""
    folder = inbox / REFUSED_FOLDER
    if name not in {entry.name for entry in refused_entries(inbox)}:
        raise InputError("no such entry is refused", where=name, remedy=f"see the names in {folder}")
    target = inbox / REFUSED_STAMP.sub("", name)
    if target.exists():
        raise InputError("the inbox has an entry of that name", where=str(target), remedy="wait until it is taken in")
    (folder / name).rename(target)
    folder.joinpath(name + WHY_SUFFIX).unlink()
    return target


def refuse_entry(entry: Path, problem: HomeroomError) -> None:
    """Moves an entry to refused/, with the reason in a text file beside it."""
    folder = entry.parent / REFUSED_FOLDER
    make_directory(folder)
    moved = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{entry.name}"
    entry.rename(moved)
    write_durable(moved.with_name(moved.name + WHY_SUFFIX), f"{problem}\n".encode())


def remove_entry(entry: Path) -> None:
    """Deletes an entry, a file or a folder, and the second file of a bundle."""
    if entry.suffix == BUNDLE_SUFFIX:
        second_file(entry).unlink(missing_ok=True)
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()
