"""What ended or failed its reader once is set apart: named in the audit log, and not read again.

Before something from outside is decoded, its name is written to the file `reading` beside the log, and taken out after.
A name that is found there at a start is that of what ended the process. A process that is killed just then names what
was in order: that is refused once, and its device trains anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from homeroom.contract.update import REFUSALS
from homeroom.errors import HomeroomError, UpdateError
from homeroom.system.files import make_private
from homeroom.system.sqlite import Database
from homeroom_aggregator.state import audit

READING_FILE = "reading"
NAME_BYTES = 128
ENDED = "it ended the process that read it"


class SetApart:
    """Names set apart in one log; `left`: what the process before this one was reading when it ended, or "".

    database: of the log. folder: where `reading` lies; None for a log in memory.
    """

    def __init__(self, database: Database, folder: Path | None) -> None:
        self._database, self.left = database, ""
        self._file: BinaryIO | None = None
        self.names = {name for name, _ in reasons(database)}
        if folder is not None:
            path = folder / READING_FILE
            make_private(path)
            self._file = file = path.open("r+b", buffering=0)
            self.left = file.read(NAME_BYTES).rstrip(b"\0").decode(errors="replace")
            if self.left:
                self.add(self.left, ENDED)
            self._note("")

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Decode something inside; UpdateError if it was set apart, or is now, as it fails with no error of ours."""
        if name in self.names:
            raise UpdateError(REFUSALS["set_apart"], code="set_apart", remedy="train again")
        self._note(name)
        try:
            yield
        except HomeroomError:
            raise
        except Exception as problem:
            self.add(name, f"{type(problem).__name__}: {str(problem)[:200]}")
            raise UpdateError(REFUSALS["set_apart"], code="set_apart", remedy="train again") from None
        finally:
            self._note("")

    def add(self, name: str, why: str) -> None:
        """Set something apart."""
        self.names.add(name)
        audit.record(self._database, "set apart", what=name, why=why)

    def entries(self) -> list[int]:
        """Numbers of the log's entries that were set apart."""
        return sorted(int(name[6:]) for name in self.names if name[:6] == "entry " and name[6:].isdecimal())

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _note(self, name: str) -> None:
        if self._file:
            self._file.seek(0)
            self._file.write(name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0"))


def reasons(database: Database) -> list[tuple[str, str]]:
    """What was set apart, and why, the oldest first."""
    sql = "SELECT json_extract(about, '$.what'), json_extract(about, '$.why') FROM audit WHERE event = 'set apart'"
    return [(str(what), str(why)) for what, why in database.rows(f"{sql} ORDER BY number")]
