"""Correlated noise: private releases whose noise cancels out from one to the next (DP-FTRL).

**Mechanism**: with x_t the exact sum of release t and a_0..a_{b-1} the integers of `contract.banded_matrix`, w_t = sum
of a_k x_{t-k} plus discrete Gaussian noise of `noise_grid`, drawn anew, all in integers of a grid 2^SHIFT finer. The
release, y_t = (w_t - sum over k > 0 of a_k y_{t-k}) / a_0, rounded to the grid, is computed of w_1..w_t alone.
**Sensitivity**: one part of x_t at most `clip_grid` long is in w_t..w_{t+b-1}, together at most `sensitivity_grid` =
clip_grid * |a| long. That later updates depend on earlier releases changes nothing: given those, w_s of two neighbours
differ by a_{s-t} times that part, and zero-concentrated costs of the steps add up to those of one Gaussian of
`noise_grid / sensitivity_grid` (Bun, Steinke 2016, lemma 2.3): that is the ledger's event for each release entered.
**Participation**: a device enters at most one of any `bands` releases in a row (the ledger refuses it before), so two
of its updates are never in one w. **When it does not hold**: as in `private_release`; and against who reads the
database: the exact sums of the last `bands - 1` releases lie in it, since the next ones need them, and are overwritten
afterwards.
"""

from __future__ import annotations

import numpy as np

from homeroom.contract.banded_matrix import coefficients
from homeroom.contract.privacy import Privacy
from homeroom.privacy.discrete_gaussian import discrete_gaussian
from homeroom.system.sqlite import Database

STREAM_TABLE = """CREATE TABLE IF NOT EXISTS stream (
    version INTEGER PRIMARY KEY, exact BLOB NOT NULL, released BLOB NOT NULL)"""


def prepare(database: Database, before: Database) -> None:
    """Makes the table; takes the sums that an older Homeroom kept in the log's database (`before`) out of it."""
    database.write(STREAM_TABLE)
    if database is not before and before.one("SELECT 1 FROM sqlite_schema WHERE name = 'stream'"):
        rows = before.rows("SELECT version, exact, released FROM stream")
        database.write_many("INSERT OR IGNORE INTO stream VALUES (?, ?, ?)", rows)
        before.write("DELETE FROM stream")


def forget(database: Database, newest: int, bands: int) -> None:
    """Deletes the sums that no release after `newest`, which is durable, needs any more."""
    database.write("DELETE FROM stream WHERE version <= ?", (newest + 1 - bands,))


def add_noise(database: Database, version: int, exact: np.ndarray, privacy: Privacy, scale_bits: int) -> np.ndarray:
    """The noised sums of a version, int64 [n].

    database: keeps the exact and the released sums (float64, before rounding) for the next releases; where the release
        does not become durable after all, it is made again with fresh noise.
    version: of the release. exact: its exact sums, int64 [n].
    privacy: the promise; `scale_bits` is the fixed-point grid's.
    """
    assert isinstance(privacy.bands, int)  # only streams come here
    first, *others = coefficients(privacy.bands)
    database.write(STREAM_TABLE)
    noised = first * exact + discrete_gaussian(privacy.noise_grid(scale_bits), len(exact))
    before = {
        number: (np.frombuffer(sums, np.int64), np.frombuffer(noised_sums))
        for number, sums, noised_sums in database.rows("SELECT version, exact, released FROM stream")
    }
    earlier = [(factor, *before[version - k]) for k, factor in enumerate(others, 1) if version - k in before]
    for factor, sums, _ in earlier:
        noised += factor * sums
    released = noised.astype(np.float64)
    for factor, _, noised_sums in earlier:
        released -= factor * noised_sums
    released /= first
    database.write("INSERT OR REPLACE INTO stream VALUES (?, ?, ?)", (version, exact.tobytes(), released.tobytes()))
    rounded: np.ndarray = np.rint(released).astype(np.int64)
    return rounded
