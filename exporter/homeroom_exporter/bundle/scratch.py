"""Scratch folders that go with their owner: the next process clears those of a killed one.

Each holds a file that its owner keeps locked through SQLite, on every system, and that is free once the owner is dead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from homeroom.errors import ExportError, HomeroomError
from homeroom.runtime.fallback import second_file
from homeroom.system.sqlite import lock_file

LOCK = "in-use"


@dataclass(frozen=True)
class Scratch:
    """A folder of this process alone; `close` removes it."""

    path: Path
    lock: sqlite3.Connection | None

    def close(self) -> None:
        """Gives the lock back and removes the folder."""
        if self.lock is not None:
            self.lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def claim(folder: Path, prefix: str) -> Scratch:
    """A new folder in `folder` whose name begins with the prefix, after clearing those of dead owners; OSError."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(prefix) and _ours(path / LOCK) and (lock := _locked(path / LOCK)):
                Scratch(path, lock).close()
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    return Scratch(path, _locked(path / LOCK))


def _ours(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and (os.name == "nt" or path.stat().st_uid == os.getuid())


def _locked(path: Path) -> sqlite3.Connection | None:
    """The lock of a file; None where somebody has it, or where files cannot be locked."""
    try:
        return lock_file(path, timeout_s=0)
    except (HomeroomError, sqlite3.Error):
        return None


def refuse_present(out: Path) -> None:
    """Raise ExportError where a bundle or the second file of one is there already."""
    for path in (out, second_file(out)):
        if path.exists():
            raise ExportError("exists already", where=str(path), remedy="choose another place, or remove it first")
