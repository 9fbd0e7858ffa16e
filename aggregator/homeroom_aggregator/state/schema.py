"""The tables of log.db, and the migrations of older logs.

`PRAGMA user_version` is the version of the layout. A new kind of log entry needs no migration; a new table or column
does. A log with tables and version 0 is of version 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from homeroom.errors import DamagedError, StoreError
from homeroom.system.sqlite import Database, copy_database

LAYOUT_VERSION = 3  # PRAGMA user_version of log.db

NEWEST_VERSION = "SELECT COALESCE(max(version), 0) FROM versions"
LOG_TABLES = """
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
MEMBER_TABLES = """
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
# Checked at each start; bodies are checked by their own hashes when they are read.
CHECKED_TABLES = ("facts", "devices", "log", "invitations", "consents", "audit")


def newest_version(database: Database) -> int:
    """The number of the newest version; 0 is the bundle's own theta."""
    return int(database.one(NEWEST_VERSION)[0])


def _to_2(database: Database) -> None:
    """Version 1 to 2: bodies get a table of their own, so that the log itself stays small."""
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
    """Version 2 to 3: roles, schools with their consents, key rotation, the audit log. `member`: the first key."""
    defaults = {"role": "device", "school": "", "member": None, "replaced_by": None, "instance": "", "twin": 0}
    for name, default in (defaults | {"joined": ""}).items():
        kind = int if default == 0 else str
        database.tables["devices"].add_column(name, kind, not_null_default=default)
    database.write("UPDATE devices SET member = device")
    database.tables.executescript(MEMBER_TABLES)


MIGRATIONS: dict[int, Callable[[Database], None]] = {1: _to_2, 2: _to_3}  # from each version to the next


def layout_version(database: Database) -> int:
    """The layout's version; 0 for an empty file."""
    count = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'log'"
    # One statement sees one state, whatever another process does meanwhile.
    user_version, tables = database.one(f"SELECT user_version, ({count}) FROM pragma_user_version")
    return 1 if user_version == 0 and tables else int(user_version)


def prepare(database: Database, path: Path) -> None:
    """Makes the tables of an empty file, or migrates older ones after a copy was made beside; all of it or nothing."""
    present = layout_version(database)
    if present > LAYOUT_VERSION:
        says = f"has layout {present}, this Homeroom knows {LAYOUT_VERSION}"
        raise StoreError(says, where=str(path), remedy="update homeroom")
    if present == LAYOUT_VERSION:
        return
    if present:
        copy_database(database, path.with_name(f"{path.stem}.layout-{present}.db"))
    with database.transaction():
        if layout_version(database) == LAYOUT_VERSION:
            return  # another process was faster
        if not present:
            database.tables.executescript(LOG_TABLES + MEMBER_TABLES)
        else:
            for step in range(present, LAYOUT_VERSION):
                MIGRATIONS[step](database)
        database.write(f"PRAGMA user_version = {LAYOUT_VERSION}")


def check(database: Database) -> None:
    """Raises DamagedError where SQLite finds the small tables damaged; takes no longer as bodies pile up."""
    for table in CHECKED_TABLES:
        result = database.one(f"PRAGMA quick_check({table})")[0]
        if result != "ok":
            raise DamagedError(str(result))
