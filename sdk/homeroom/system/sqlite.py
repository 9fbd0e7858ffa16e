"""One SQLite file with durable, all-or-nothing steps and errors that a user can act on; imports errors and durable.

Write-ahead logging with `synchronous=FULL`: a step costs one fsync and is durable when it returns (with a rollback
journal it would not be: SQLite then does not sync the directory after deleting the journal). The lock is exclusive, so
that one process at a time owns the file and no shared memory is needed; a `shared` file
can be read by others meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from homeroom.errors import DiskFullError, StoreError
from homeroom.system.files import make_directory, replace_durable
from homeroom.system.files import refusal as file_refusal

if TYPE_CHECKING:
    import sqlite_utils

ERROR, BUSY, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB = 1, 5, 8, 10, 11, 13, 14, 26
SQLITE_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter where SQLite's message quotes a damaged schema


class DamagedError(StoreError):
    """The file is not a valid SQLite database any more; the next opening repairs it."""

    def __init__(self, what: str) -> None:
        super().__init__(what, where="device.db", remedy="open the directory again: it is then repaired from its copy")


class Database:
    def __init__(self, path: Path, *, durable: bool = True, any_thread: bool = False, shared: bool = False) -> None:
        """any_thread: its owner sees to it that only one thread at a time is inside. shared: wait for others' steps."""
        self.path = path
        self._depth = 0
        self._locking = "NORMAL" if shared else "EXCLUSIVE"
        with self.refusals():
            self.connection = sqlite3.connect(
                path, isolation_level=None, timeout=10 if shared else 0.5, check_same_thread=not any_thread
            )
            try:
                self._prepare("FULL" if durable else "NORMAL")
            except BaseException:
                self.connection.close()
                raise

    def _prepare(self, synchronous: Literal["FULL", "NORMAL"]) -> None:
        self.connection.execute(f"PRAGMA locking_mode = {self._locking}")
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute(f"PRAGMA synchronous = {synchronous}")
        self.connection.execute("PRAGMA secure_delete = ON")
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute("PRAGMA cell_size_check = ON")
        self.connection.execute("PRAGMA journal_size_limit = 1048576")
        self.connection.execute("PRAGMA cache_size = -512")  # kilobytes of pages; the system holds the others

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except SQLITE_ERRORS as problem:
            raise refusal(problem, self.path) from None

    @contextmanager
    def step(self) -> Iterator[None]:
        """A transaction; inside another one, a part of it. Afterwards all of it is durable, or nothing happened."""
        if self._depth:
            yield
            return
        with self.refusals():
            self.connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self.refusals():
            return self.connection.execute(sql, parameters).fetchall()

    def each(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """Rows one at a time, so that media need not fit in memory together."""
        with self.refusals():
            yield from self.connection.execute(sql, parameters)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement inside a step; return the number of rows it changed."""
        with self.step(), self.refusals():
            return self.connection.execute(sql, parameters).rowcount

    def write_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with self.step(), self.refusals():
            self.connection.executemany(sql, rows)

    def compact(self) -> None:
        """Rewrite the file without free pages and empty the log; what was deleted is then in neither.

        `secure_delete` has already zeroed it: no space for the copy, or no time, loses nothing.
        """
        try:
            self.connection.execute("VACUUM")
        except sqlite3.OperationalError as problem:
            if primary_code(problem) != FULL:
                raise refusal(problem, self.path) from None
        self.empty_log()

    def empty_log(self) -> None:
        with self.refusals():
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def check(self) -> str | None:
        """What SQLite's own check finds wrong with the file's structure, or None."""
        try:
            found = self.connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except SQLITE_ERRORS as problem:
            return str(problem)
        return None if found == "ok" else str(found)

    def shape(self) -> list[tuple[Any, ...]]:
        """Tables, columns and indexes, comparable with those of another database."""
        objects = self.rows("SELECT type, name, tbl_name FROM sqlite_schema ORDER BY type, name")
        columns = [self.rows(f"PRAGMA table_info('{name}')") for kind, name, _ in objects if kind == "table"]
        return [*objects, *columns]

    @property
    def tables(self) -> sqlite_utils.Database:
        """This connection to make, change and inspect tables with; what is done inside a step is a part of it."""
        import sqlite_utils  # 40 ms: only where tables are new or change

        return sqlite_utils.Database(self.connection, recursive_triggers=False, execute_plugins=False)

    def close(self) -> None:
        self.connection.close()


def primary_code(problem: Exception) -> int:
    return (getattr(problem, "sqlite_errorcode", None) or 0) & 0xFF


def refusal(problem: Exception, path: Path) -> Exception:
    """The error to raise for one of SQLite's."""
    if isinstance(problem, UnicodeDecodeError):
        return DamagedError("malformed database schema")
    code, where = primary_code(problem), str(path)
    if code == FULL:
        return DiskFullError("no space left; nothing was changed", where=where, remedy="free some space, try again")
    if code == BUSY:
        return StoreError("is in use by another process", where=where, remedy="wait until it ends, or stop it")
    if code in (READONLY, CANTOPEN) or (code == IOERR and not os.access(path.parent, os.W_OK)):
        return StoreError(
            "cannot be opened for writing", where=where, remedy="make the directory writable, then try again"
        )
    if code in (CORRUPT, NOTADB, ERROR, 0):  # a table or column that is not there, text that is no text
        return DamagedError(str(problem))
    if code == IOERR:
        return StoreError(f"the disk refused: {problem}", where=where, remedy="check free space and the disk's health")
    return problem


def copy_whole(database: Database, path: Path, *, without: str = "") -> None:
    """Copy a database as it stands into one self-contained file, durably; one that fails leaves what was there.

    without: a statement that removes from the copy what it must not hold.
    """
    make_directory(path.parent)
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    try:
        copy = sqlite3.connect(beside, isolation_level=None)
        try:
            database.connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            if without:
                copy.execute("PRAGMA secure_delete = ON")
                copy.execute(without)
        finally:
            copy.close()
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        replace_durable(beside, path)
    except sqlite3.DatabaseError as problem:
        beside.unlink(missing_ok=True)
        raise refusal(problem, beside) from None
    except OSError as problem:
        beside.unlink(missing_ok=True)
        raise file_refusal(problem, beside) from None
