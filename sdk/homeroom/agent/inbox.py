"""The inbox: a folder whose settled entries are taken in, then deleted: the device's copy is encrypted; imports device.

It may stand on a network share: what is still being copied is left alone, and what cannot be used is put aside with the
reason beside it.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from homeroom.device.device import Device
from homeroom.errors import BundleError, HomeroomError, InputError

SETTLED_S = 30.0  # what changed more recently may still be on its way in
UNFINISHED_SUFFIXES = (".part", ".tmp", ".crdownload", ".filepart")
REFUSED_FOLDER = "refused"
INVITATION_FILE = "invitation.json"


@dataclass(frozen=True)
class InboxEntries:
    """What lies in the inbox and has settled, by what is to be done with it."""

    samples: tuple[Path, ...] = ()
    bundles: tuple[Path, ...] = ()
    invitation: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.samples or self.bundles or self.invitation)


def scan_inbox(inbox: Path, settled_s: float = SETTLED_S) -> InboxEntries:
    """Entries that are complete: not hidden, not half copied, and quiet for `settled_s` seconds."""
    found = settled_entries(inbox, time.time(), settled_s)
    samples = tuple(entry for entry in found if entry.is_dir() or entry.suffix in (".jsonl", ".csv"))
    bundles = tuple(entry for entry in found if entry.suffix == ".homeroom" and entry.is_file())
    return InboxEntries(samples, bundles, next((entry for entry in found if entry.name == INVITATION_FILE), None))


def settled_entries(inbox: Path, now: float, settled_s: float) -> list[Path]:
    """now: in seconds since the epoch, as files' times are; a file of the future (a clock was set back) is settled."""

    def quiet(entry: Path) -> bool:
        paths = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
        newest = max(path.stat().st_mtime for path in paths)
        return newest > now + 86_400 or now - newest >= settled_s

    try:
        entries = sorted(inbox.iterdir())
    except OSError:
        return []  # a share that is away
    found = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name == REFUSED_FOLDER or entry.suffix in UNFINISHED_SUFFIXES:
            continue
        try:
            if quiet(entry):
                found.append(entry)
        except OSError:
            continue  # it went while it was looked at
    return found


def import_entries(device: Device, entries: tuple[Path, ...]) -> tuple[int, int]:
    """Add each entry (a folder, .jsonl or .csv) and delete it; return how many samples are new, entries refused.

    A power cut between adding and deleting adds the same samples again, which the device recognises by their content.
    """
    before, refused = device.store.count(), 0
    for entry in entries:
        try:
            device.add(entry)
        except (InputError, BundleError) as problem:
            refuse_entry(entry, problem)
            refused += 1
        else:
            remove_entry(entry)
    return device.store.count() - before, refused


def refuse_entry(entry: Path, problem: HomeroomError) -> None:
    """Move an entry to refused/, with the reason in a text file beside it."""
    aside = entry.parent / REFUSED_FOLDER
    aside.mkdir(exist_ok=True)
    moved = aside / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{entry.name}"
    shutil.move(entry, moved)
    moved.with_name(moved.name + ".why.txt").write_text(f"{problem}\n", encoding="utf-8")


def remove_entry(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()
