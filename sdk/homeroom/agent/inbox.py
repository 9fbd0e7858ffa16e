"""The inbox: a folder whose complete entries are imported and then deleted, as the device's copy is encrypted.

It may be on a network share: entries still being copied are left alone, and refused ones are moved to a folder with the
reason beside them.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from homeroom.agent.status import AGENT_FOLDER
from homeroom.device.device import Device
from homeroom.errors import BundleError, HomeroomError, InputError
from homeroom.system.attempt import ENDED, attempt, cut_short
from homeroom.system.files import make_directory, write_durable

SETTLED_S = 30.0  # an entry that changed more recently may still be copied
UNFINISHED_SUFFIXES = (".part", ".tmp", ".crdownload", ".filepart")
REFUSED_FOLDER, WHY_SUFFIX = "refused", ".why.txt"
REFUSED_STAMP = re.compile(r"^\d{8}-\d{6}-")
MARK_FILE = "reading.json"
INVITATION_FILE = "invitation.json"


@dataclass(frozen=True)
class InboxEntries:
    """The complete entries of the inbox by kind."""

    samples: tuple[Path, ...] = ()
    bundles: tuple[Path, ...] = ()
    invitation: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.samples or self.bundles or self.invitation)


def scan_inbox(inbox: Path, settled_s: float = SETTLED_S) -> InboxEntries:
    """The complete entries: not hidden, not half copied, and unchanged for `settled_s` seconds."""
    entries = settled_entries(inbox, time.time(), settled_s)
    samples = tuple(entry for entry in entries if entry.is_dir() or entry.suffix in (".jsonl", ".csv"))
    bundles = tuple(entry for entry in entries if entry.suffix == ".homeroom" and entry.is_file())
    return InboxEntries(samples, bundles, next((entry for entry in entries if entry.name == INVITATION_FILE), None))


def settled_entries(inbox: Path, now: float, settled_s: float) -> list[Path]:
    """Entries unchanged for `settled_s` seconds at `now` (since the epoch); so are those a day in the future."""

    def quiet(entry: Path) -> bool:
        paths = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
        newest = max(path.stat().st_mtime for path in paths)
        return newest > now + 86_400 or now - newest >= settled_s

    try:
        entries = sorted(inbox.iterdir())
    except OSError:
        return []  # an unreachable share
    settled = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name == REFUSED_FOLDER or entry.suffix in UNFINISHED_SUFFIXES:
            continue
        try:
            if quiet(entry):
                settled.append(entry)
        except OSError:
            continue  # it went meanwhile
    return settled


def import_entries(device: Device, entries: tuple[Path, ...]) -> tuple[int, int]:
    """Adds each entry (a folder, .jsonl or .csv) and deletes it; returns counts of new samples and refused entries.

    After a power cut between adding and deleting, the same samples are recognised by their content. Where its reader
    fails, an entry is refused as one that is wrong, and the others go on.
    """
    before, refused = device.store.count(), 0
    for entry in entries:
        try:
            with attempt(mark_of(device.store.directory), entry.name):
                device.add(entry)
        except (InputError, BundleError) as problem:
            refuse_entry(entry, problem)
            refused += 1
        except HomeroomError:
            raise  # the store's, not the entry's
        except Exception as problem:
            refuse_entry(entry, InputError(f"its reader failed: {type(problem).__name__} {problem}".strip()))
            refused += 1
        else:
            remove_entry(entry)
    return device.store.count() - before, refused


def mark_of(directory: Path) -> Path:
    """Where a device's agent marks the entry that it reads."""
    return directory / AGENT_FOLDER / MARK_FILE


def refuse_cut_short(directory: Path, inbox: Path) -> bool:
    """Refuses the entry whose reader ended with its process; returns whether there was one."""
    mark = mark_of(directory)
    found = cut_short(mark)
    entry = inbox / Path(found.name).name if found else None
    refused = entry is not None and entry.exists()
    if refused and entry is not None:
        refuse_entry(entry, InputError(ENDED))
    mark.unlink(missing_ok=True)
    return refused


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
    return [
        RefusedEntry(name, note.read_text("utf-8", errors="replace").strip())
        for name, note in entries
        if (folder / name).exists()
    ]


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
    """Deletes an entry, a file or a folder."""
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()
