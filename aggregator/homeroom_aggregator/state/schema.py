"""The tables of log.db, and how an older log becomes a newer one; imports the store's database only.

`PRAGMA user_version` says which layout a file has. A new kind of log entry needs no migration; a new table or column
does. A log of before versions (0 with tables) counts as version 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from homeroom.errors import StoreError
from homeroom.system.sqlite import DamagedError, Database, copy_database

VERSION = 3

TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE devices (
    device TEXT PRIMARY KEY, code TEXT NOT NULL UNIQUE, revoked INTEGER NOT NULL DEFAULT 0,
    role TEXT NOT NULL DEFAULT 'device', school TEXT NOT NULL DEFAULT '', member TEXT, replaced_by TEXT,
    instance TEXT NOT NULL DEFAULT '', twin INTEGER NOT NULL DEFAULT 0, joined TEXT NOT NULL DEFAULT ''
);
CREATE TABLE log (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, update_id TEXT, device TEXT, version INTEGER NOT NULL
);
CREATE UNIQUE INDEX log_updates ON log (kind, update_id) WHERE update_id IS NOT NULL;
CREATE TABLE bodies (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE versions (version INTEGER PRIMARY KEY, number INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE checkpoints (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""
PEOPLE = """
CREATE TABLE invitations (
    code TEXT PRIMARY KEY, role TEXT NOT NULL, school TEXT NOT NULL, expires TEXT, revoked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE consents (school TEXT PRIMARY KEY, given_by TEXT NOT NULL, at TEXT NOT NULL, withdrawn TEXT);
CREATE TABLE instances (device TEXT NOT NULL, instance TEXT NOT NULL, PRIMARY KEY (device, instance)) WITHOUT ROWID;
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, event TEXT NOT NULL, about TEXT NOT NULL,
    digest TEXT NOT NULL
);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER audit_is_never_cut BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'append only'); END
"""
SMALL = (
    "facts",
    "devices",
    "log",
    "invitations",
    "consents",
    "audit",
)  # checked at each start; bodies are checked by their own hashes when they are read


def _to_2(database: Database) -> None:
    """Bodies get a table of their own, so that the log itself stays small; kinds are the code's to know."""
    database.tables.executescript("""
        CREATE TABLE bodies (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
        INSERT INTO bodies SELECT number, body FROM log WHERE length(body) > 0;
        ALTER TABLE log RENAME TO log_1;
        DROP INDEX log_updates;
        CREATE TABLE log (
            number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, update_id TEXT, device TEXT,
            version INTEGER NOT NULL
        );
        INSERT INTO log SELECT number, kind, update_id, device, version FROM log_1;
        DROP TABLE log_1;
        CREATE UNIQUE INDEX log_updates ON log (kind, update_id) WHERE update_id IS NOT NULL;
        CREATE TABLE checkpoints (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
    """)


def _to_3(database: Database) -> None:
    """Roles, schools with their consents, key rotation, the audit log. `member` is the first key of a device."""
    devices = database.tables["devices"]
    devices.add_column("role", str, not_null_default="device")
    devices.add_column("school", str, not_null_default="")
    devices.add_column("member", str)
    devices.add_column("replaced_by", str)
    devices.add_column("instance", str, not_null_default="")
    devices.add_column("twin", int, not_null_default=0)
    devices.add_column("joined", str, not_null_default="")
    database.write("UPDATE devices SET member = device")
    database.tables.executescript(PEOPLE)


MIGRATIONS: dict[int, Callable[[Database], None]] = {1: _to_2, 2: _to_3}  # from each version to the next


def version(database: Database) -> int:
    """The layout's version; 0 for an empty file."""
    count = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'log'"
    # One statement sees one state, whatever another process does meanwhile.
    found, tables = database.one(f"SELECT user_version, ({count}) FROM pragma_user_version")
    return 1 if found == 0 and tables else int(found)


def prepare(database: Database, path: Path) -> None:
    """Make the tables of an empty file, or bring older ones up to date, after a copy beside: all of it or nothing."""
    found = version(database)
    if found > VERSION:
        raise StoreError(
            f"has layout {found}, this Homeroom knows {VERSION}", where=str(path), remedy="update homeroom"
        )
    if found == VERSION:
        return
    if found:
        copy_database(database, path.with_name(f"{path.stem}.layout-{found}.db"))
    with database.transaction():
        if version(database) == VERSION:
            return  # another process was faster
        if not found:
            database.tables.executescript(TABLES + PEOPLE)
        else:
            for step in range(found, VERSION):
                MIGRATIONS[step](database)
        database.write(f"PRAGMA user_version = {VERSION}")


def check(database: Database) -> None:
    """Raise DamagedError where SQLite finds the small tables damaged; takes no longer as bodies pile up."""
    for table in SMALL:
        found = database.one(f"PRAGMA quick_check({table})")[0]
        if found != "ok":
            raise DamagedError(str(found))
