"""SQLite database file with durable transactions, and its errors as StoreErrors with a remedy.

Write-ahead log with `synchronous=FULL`: a transaction costs one fsync and is durable when it returns. With a rollback
journal it would not be: SQLite does not sync the directory after it deletes the journal. The lock is exclusive: one
process at a time owns the file, and no shared memory is needed. A `shared` file can be read by others meanwhile.
A reader holds the log from its first query until it ends: it must be quick, or erased rows stay in the log.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from homeroom.errors import Code, DamagedError, DiskFullError, StoreError
from homeroom.system.files import close_to_others, make_directory, make_private, replace_durable
from homeroom.system.files import refusal as file_refusal

if TYPE_CHECKING:
    import sqlite_utils

SQLITE_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter where SQLite's message quotes a damaged schema

READERS_WAIT_MS = 1000


class Database:
    """A connection to one SQLite file, of any thread. Every method raises StoreError, DiskFullError or DamagedError.

    A transaction keeps other threads out until it ends, and so does `held`.

    path: the file; it is created where it is missing.
    durable: sync at each commit.
    shared: other processes may read and write between transactions; wait up to 10 s for theirs.
    reading: reads a file that another process may have open, as `snapshot` does; nothing is written.

    `before_commit` is called as the last part of each transaction, `after_transaction` with whether it was committed.
    """

    def __init__(self, path: Path, *, durable: bool = True, shared: bool = False, reading: bool = False) -> None:
        self.path = path
        self.held = threading.RLock()  # of one thread at a time
        self.closed = False
        self.damaged = False  # SQLite found damage
        self._depth = 0
        self.before_commit: Callable[[], None] = lambda: None
        self.after_transaction: Callable[[bool], None] = lambda committed: None
        self._locking = "NORMAL" if shared else "EXCLUSIVE"
        with self.refusals():
            self.connection = connect_to_read(path) if reading else connect(path, timeout_s=10 if shared else 0.5)
            try:
                if not reading:
                    self._prepare("FULL" if durable else "NORMAL")
            except BaseException:
                self.connection.close()
                raise

    def _prepare(self, synchronous: Literal["FULL", "NORMAL"]) -> None:
        for pragma in (f"locking_mode = {self._locking}", "journal_mode = WAL", f"synchronous = {synchronous}"):
            self.connection.execute(f"PRAGMA {pragma}")
        for pragma in ("secure_delete", "foreign_keys", "cell_size_check"):
            self.connection.execute(f"PRAGMA {pragma} = ON")
        self.connection.execute("PRAGMA journal_size_limit = 1048576")
        self.connection.execute("PRAGMA cache_size = -512")  # kilobytes of pages; the system holds the others

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Keeps other threads out, and raises SQLite's errors as StoreErrors."""
        try:
            with self.held:
                yield
        except SQLITE_ERRORS as problem:
            if self.closed:
                raise closed_error(self.path) from None
            error = refusal(problem, self.path)
            self.damaged |= isinstance(error, DamagedError)
            raise error from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """An atomic, durable transaction; inside another one, a part of that one."""
        with self.refusals():
            if self._depth:
                yield
                return
            self.connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            committed = False
            try:
                yield
                self.before_commit()
                self.connection.execute("COMMIT")
                committed = True
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1
                self.after_transaction(committed)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads one state of the file, whatever others write meanwhile; keeps the log from being emptied."""
        with self.refusals():
            self.connection.execute("BEGIN")
            try:
                yield
            finally:
                self.connection.execute("ROLLBACK")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        with self.refusals():
            return self.connection.execute(sql, parameters).fetchall()

    def each(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """Rows of a query one at a time, so that media need not fit in memory together."""
        with self.refusals():
            cursor = self.connection.execute(sql, parameters)
            row = cursor.fetchone()
        while row is not None:
            yield row
            with self.refusals():
                row = cursor.fetchone()

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first row of a query, or None."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Runs one statement in a transaction; returns the number of rows that it changed."""
        with self.transaction(), self.refusals():
            return self.connection.execute(sql, parameters).rowcount

    def write_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Runs one statement for every row of parameters, in one transaction."""
        with self.transaction(), self.refusals():
            self.connection.executemany(sql, rows)

    def compact(self) -> bool:
        """Rewrites the file without free pages and empties the write-ahead log; False as `empty_log`.

        Does nothing where the disk has no room for the copy: `secure_delete` has zeroed deleted rows already.
        """
        try:
            with self.held:
                self.connection.execute("VACUUM")
        except sqlite3.OperationalError as problem:
            if primary_code(problem) != sqlite3.SQLITE_FULL:
                raise refusal(problem, self.path) from None
        return self.empty_log()

    def empty_log(self) -> bool:
        """Moves the write-ahead log into the database and truncates it; False while somebody reads an older state.

        Waits a second for readers at most, since other threads wait meanwhile: the caller tries again later.
        """
        with self.refusals():
            (usual_ms,) = self.connection.execute("PRAGMA busy_timeout").fetchone()
            self.connection.execute(f"PRAGMA busy_timeout = {min(usual_ms, READERS_WAIT_MS)}")
            try:
                return not self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                self.connection.execute(f"PRAGMA busy_timeout = {usual_ms}")

    def check(self) -> str | None:
        """SQLite's integrity check: a description of the damage, or None."""
        try:
            with self.held:
                result = self.connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except SQLITE_ERRORS as problem:
            return str(problem)
        return None if result == "ok" else str(result)

    def shape(self) -> list[tuple[Any, ...]]:
        """The schema (tables, columns, indexes), comparable with that of another database."""
        objects = self.rows("SELECT type, name, tbl_name FROM sqlite_schema ORDER BY type, name")
        columns = [self.rows(f"PRAGMA table_info('{name}')") for kind, name, _ in objects if kind == "table"]
        return [*objects, *columns]

    @property
    def tables(self) -> sqlite_utils.Database:
        """This connection to make, change and inspect tables with; what is done inside a step is a part of it."""
        import sqlite_utils  # 40 ms: only where tables are new or change

        return sqlite_utils.Database(self.connection, recursive_triggers=False, execute_plugins=False)

    def close(self) -> None:
        """Closes the connection, once no other thread uses it; an open transaction is lost."""
        with self.held:
            self.closed = True
            self.connection.close()


def closed_error(path: Path) -> StoreError:
    """The error of a database that is used after it was closed."""
    return StoreError("is closed", code=Code.CLOSED, where=str(path.parent), remedy="open it again")


def connect(path: Path, *, timeout_s: float = 5.0) -> sqlite3.Connection:
    """A connection to a file, made with mode 0600, which SQLite gives its log and journal too."""
    if str(path) != ":memory:":
        make_private(path)
    return sqlite3.connect(path, isolation_level=None, timeout=timeout_s, check_same_thread=False)


def connect_to_read(path: Path, *, timeout_s: float = 2.0) -> sqlite3.Connection:
    """A connection that cannot write to a file; sqlite3.OperationalError where there is none."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=timeout_s, check_same_thread=False)


def lock_file(path: Path, *, timeout_s: float = 0.5, where: Path | None = None) -> sqlite3.Connection:
    """Locks a file, made with mode 0600, until the connection or the process ends; StoreError if another has it.

    SQLite's lock is the same on every system, and the system frees it when the process dies. `filelock` would not keep
    out a process of homeroom 0.1.0: it takes flock, which does not see the fcntl locks of SQLite.

    timeout_s: how long to wait for another process.
    where: that an error names, in place of the path.
    """
    with contextlib.ExitStack() as undo:
        try:
            lock = connect(path, timeout_s=timeout_s)
            undo.callback(lock.close)
            lock.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as problem:
            raise refusal(problem, where or path) from None
        undo.pop_all()
    with contextlib.suppress(OSError, StoreError):  # where the file is somebody else's
        close_to_others(path)
    return lock


def primary_code(problem: Exception) -> int:
    """SQLite's primary result code (https://sqlite.org/rescode.html), 0 where there is none."""
    return (getattr(problem, "sqlite_errorcode", None) or 0) & 0xFF


def refusal(problem: Exception, path: Path) -> Exception:
    """The StoreError, DiskFullError or DamagedError for an error of SQLite; others as they are."""
    if isinstance(problem, UnicodeDecodeError):
        return DamagedError("malformed database schema")
    code, where = primary_code(problem), str(path)
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError("no space left; nothing was changed", where=where, remedy="free some space, try again")
    if code == sqlite3.SQLITE_BUSY:
        remedy = "wait until it ends, or stop it"
        return StoreError("is in use by another process", code=Code.IN_USE, where=where, remedy=remedy)
    unwritable = code == sqlite3.SQLITE_IOERR and not os.access(path.parent, os.W_OK)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or unwritable:
        return StoreError(
            "cannot be opened for writing", where=where, remedy="make the directory writable, then try again"
        )
    # SQLITE_ERROR: a table or column is missing; 0: text that is not UTF-8
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, 0):
        return DamagedError(str(problem))
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(f"the disk refused: {problem}", where=where, remedy="check free space and the disk's health")
    return problem


def copy_database(database: Database, path: Path, *, without: str = "") -> None:
    """Copies a database into one self-contained file, durably; a copy that fails leaves the old file.

    without: an SQL statement that removes from the copy the rows that it must not hold.
    """
    make_directory(path.parent)
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        copy = connect(temporary)
        try:
            database.connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            if without:
                copy.execute("PRAGMA secure_delete = ON")
                copy.execute(without)
        finally:
            copy.close()
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        replace_durable(temporary, path)
    except sqlite3.DatabaseError as problem:
        temporary.unlink(missing_ok=True)
        raise refusal(problem, temporary) from None
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise file_refusal(problem, temporary) from None
