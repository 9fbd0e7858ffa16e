"""The tables of device.db and cache.db; `docs/device.md` says what each column holds and which key seals it."""

from __future__ import annotations

SCHEMA_VERSION = 8  # PRAGMA user_version of device.db
APPLICATION_ID = 0x484D524D  # "HMRM"

LINEAGE = """CREATE TABLE lineage (
    subject_id INTEGER NOT NULL REFERENCES subjects,
    kind TEXT NOT NULL CHECK (kind IN ('version', 'update', 'state', 'profile')),
    item TEXT NOT NULL, PRIMARY KEY (subject_id, kind, item)) WITHOUT ROWID;
CREATE INDEX lineage_by_item ON lineage (kind, item);
CREATE TABLE profiles (subject_id INTEGER PRIMARY KEY REFERENCES subjects, facts BLOB NOT NULL);
CREATE TABLE segments (
    owner INTEGER NOT NULL REFERENCES subjects, segment_id TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (owner, segment_id));
"""
# An input's row never changes: what is sealed anew stands under another `content`, a random number.
SAMPLES = """CREATE TABLE samples (
    number INTEGER PRIMARY KEY AUTOINCREMENT, sample_id TEXT NOT NULL UNIQUE,
    subject_id INTEGER NOT NULL REFERENCES subjects, content INTEGER NOT NULL UNIQUE, facts BLOB NOT NULL,
    aside INTEGER NOT NULL DEFAULT 0, near BLOB);
CREATE INDEX samples_by_subject ON samples (subject_id);
CREATE INDEX samples_by_near ON samples (near);
CREATE TABLE inputs (
    content INTEGER NOT NULL, place INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (content, place));
"""
CONTENTS = """ALTER TABLE samples ADD COLUMN content_index BLOB;
CREATE INDEX samples_by_content ON samples (content_index);
"""
STATISTICS = """CREATE TABLE statistics (
    subject_id INTEGER PRIMARY KEY REFERENCES subjects ON DELETE CASCADE, sums_id TEXT NOT NULL, body BLOB NOT NULL);
"""
LOCAL_STATISTICS = STATISTICS.replace("TABLE statistics", "TABLE local_statistics")
REFITS = """CREATE TABLE refits (
    version_id TEXT PRIMARY KEY REFERENCES versions (version_id) ON DELETE CASCADE, theta BLOB NOT NULL);
"""
DEVICE = f"""
CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1), store_id TEXT NOT NULL, generation INTEGER NOT NULL,
    device_key BLOB NOT NULL, index_key BLOB NOT NULL);
CREATE TABLE subjects (
    subject_id INTEGER PRIMARY KEY AUTOINCREMENT, name_index BLOB NOT NULL UNIQUE,
    data_key BLOB NOT NULL, name BLOB NOT NULL);
{SAMPLES}{CONTENTS}CREATE TABLE versions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, version_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('local', 'global')), base INTEGER NOT NULL,
    facts BLOB NOT NULL, theta BLOB NOT NULL);
CREATE TABLE updates (
    update_id TEXT PRIMARY KEY, bundle_id TEXT NOT NULL, base INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sending', 'sent', 'refused')), data BLOB);
CREATE TABLE unlearning (update_id TEXT PRIMARY KEY, state TEXT NOT NULL CHECK (state IN ('pending', 'sent')));
{LINEAGE}{STATISTICS}{LOCAL_STATISTICS}{REFITS}CREATE TABLE secrets (name TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE audit (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, event TEXT NOT NULL, count INTEGER);
CREATE TABLE damage (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, what TEXT NOT NULL);
"""


CACHE = """
CREATE TABLE IF NOT EXISTS features (
    number INTEGER PRIMARY KEY, subject_id INTEGER NOT NULL, name BLOB NOT NULL, body BLOB NOT NULL,
    UNIQUE (subject_id, name));
"""
