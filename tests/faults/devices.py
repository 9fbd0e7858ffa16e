"""Small stores for tests: a directory, its keys beside it, and samples that are easy to tell apart."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.statistics.accumulate import BlockVectors, sum_samples, to_grid
from homeroom.contract.statistics.sums import Statistics
from homeroom.data.samples import StoredSample
from homeroom.store import Store
from homeroom.store.master_keys import FolderKeys

SECRET_WORD = "wolframite"  # nobody but a pupil writes this


def make_sample(number: int, subject: str = "p-17", **facts: Any) -> StoredSample:
    """A text and a picture of about 3 KB, unlike any other number's."""
    picture = np.random.default_rng(number).bytes(3000) + SECRET_WORD.encode()
    return StoredSample(
        inputs={"text": [f"{SECRET_WORD} {number}"], "picture": [picture, None]},
        labels={"category": "animals"},
        subject=subject,
        **facts,
    )


def open_store(home: Path, **options: bool) -> Store:
    """The store home/device with its keys in home/keys."""
    return Store.open(home / "device", FolderKeys(home / "keys"), **options)


# What each version had not yet; the newest first.
UNDONE = {
    3: """DROP TABLE refits; DROP TABLE local_statistics; DROP TABLE statistics; DROP TABLE inputs; DROP TABLE samples;
        CREATE TABLE samples (
        number INTEGER PRIMARY KEY AUTOINCREMENT, sample_id TEXT NOT NULL UNIQUE,
        subject_id INTEGER NOT NULL REFERENCES subjects, facts BLOB NOT NULL, inputs BLOB NOT NULL,
        aside INTEGER NOT NULL DEFAULT 0, near BLOB);
        CREATE INDEX samples_by_subject ON samples (subject_id); CREATE INDEX samples_by_near ON samples (near)""",
    2: """DROP INDEX samples_by_near; ALTER TABLE samples DROP COLUMN near; ALTER TABLE samples DROP COLUMN aside""",
    1: "DROP TABLE segments; DROP TABLE profiles",
}
FACTS_OF_3 = ("labels", "consent", "source", "retain_until", "language", "aside", "left_out", "weighed")


def make_older(home: Path, version: int) -> None:
    """Rewrites a closed store, and its copy, as an older version would have left it."""
    rows = []
    with open_store(home) as store:
        for sample in store.samples():
            subject = store._context.keys.find(sample.subject)
            assert subject is not None
            facts = {name: getattr(sample, name) for name in FACTS_OF_3[:5]}
            facts |= {"consent": sample.consent.text if sample.consent else None}
            facts |= {name: value for name in FACTS_OF_3[5:] if (value := getattr(sample, name))}
            bodies = (msgspec.msgpack.encode(part, order="sorted") for part in (facts, sample.inputs))
            columns = ("samples.facts", "samples.inputs")
            sealed = [
                subject.cipher.seal(b, column, sample.sample_id) for b, column in zip(bodies, columns, strict=True)
            ]
            sql = "SELECT number, aside, near FROM samples WHERE sample_id = ?"
            number, aside, near = store._context.database.one(sql, (sample.sample_id,))
            rows.append((number, sample.sample_id, subject.subject_id, *sealed, aside, near))
    with contextlib.closing(sqlite3.connect(home / "device" / "device.db", isolation_level=None)) as raw:
        raw.executescript(UNDONE[3])
        raw.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        for step in range(2, version - 1, -1):
            raw.executescript(UNDONE[step])
        raw.execute(f"PRAGMA user_version = {version}")
        (home / "device" / "backup" / "device.db").unlink()
        raw.execute("VACUUM INTO ?", (str(home / "device" / "backup" / "device.db"),))
    forget_digests(home)


def forget_digests(home: Path) -> None:
    """Rewrites the key rings as a release that knows no digests leaves them."""
    for path in (home / "keys").glob("*.json"):
        ring = msgspec.json.decode(path.read_bytes())
        for field in ("digest_key", "digest_state", "session", "writing", "edited", "kept"):
            ring.pop(field, None)
        path.write_bytes(msgspec.json.encode(ring))


def texts(store: Store) -> list[str]:
    return [sample.inputs["text"][0] for sample in store.samples()]


def numbers(store: Store) -> list[int]:
    """The numbers of the samples held, in order; fails on a sample that is not exactly as it was made."""
    found = []
    for sample in store.samples():
        number = int(sample.inputs["text"][0].split()[1])
        assert sample.inputs == make_sample(number).inputs
        found.append(number)
    return found


def sums(number: int, task: str = "category") -> Statistics:
    """Sums of three samples of two classes, unlike any other number's."""
    rng = np.random.default_rng(number)
    block = BlockVectors("1" * 64, to_grid(rng.normal(0, 0.4, (3, 4))), np.ones(3, bool))
    is_cat = np.array([True, False, bool(number % 2)])
    return sum_samples(task, [block], {"cat": is_cat, "dog": ~is_cat}, moments=np.ones(3, bool))


def features(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(-128, 127, (2, 5, 4)).astype(np.int8)


def theta(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=300).astype(np.float32)
