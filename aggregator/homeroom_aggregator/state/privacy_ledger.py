"""The privacy ledger: every private release as a frozen event; `dp-accounting` computes the epsilon it costs.

An event is never changed or removed: two triggers see to it. Its cost is computed when it is asked for. Fields may be
added with a default that means "as before"; none may change its meaning, since that would silently change promises
already given. A device's cost is that of the releases it entered, composed as Gaussian
mechanisms that may depend on each other (adaptive composition); nothing is claimed for sampling or shuffling, which a
buffer that devices fill when they like does not give.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import floor
from typing import Literal

import msgspec

from homeroom.contract.privacy import Privacy
from homeroom.errors import InputError, StoreError, UpdateError
from homeroom.system.sqlite import Database

LEDGER_TABLES = (
    """CREATE TABLE IF NOT EXISTS ledger (
        number INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER, event BLOB NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS entered (
        device TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (device, number)) WITHOUT ROWID""",
    *(
        f"""CREATE TRIGGER IF NOT EXISTS {table}_no_{word} BEFORE {word} ON {table}
        BEGIN SELECT RAISE(ABORT, 'the privacy ledger is only ever added to'); END"""
        for table in ("ledger", "entered")
        for word in ("UPDATE", "DELETE")
    ),
)
# A member enters under its first key; earlier versions wrote the key it then had.
KEYS_OF_MEMBER = "(SELECT device FROM devices WHERE member = ?1 UNION SELECT ?1)"
MOST_RELEASES = 1 << 20  # releases that are counted on for one device


class ReleaseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One private release: discrete Gaussian noise of parameter `sigma` on a sum in which one unit (a device, or a
    subject of one) counts at most `sensitivity` (L2), both in units of the grid `2**-scale_bits`. Which devices entered
    it stands in the table beside it. bands: above 1 in a stream, where who enters a release counts in so many, with
    that sensitivity over all of them, and enters none of the others."""

    mechanism: Literal["discrete_gaussian"] = "discrete_gaussian"
    sensitivity: int
    sigma: int
    scale_bits: int
    unit: Literal["device", "subject"] = "device"
    bands: int = 1

    @property
    def noise_multiplier(self) -> float:
        """Noise over sensitivity."""
        return self.sigma / self.sensitivity


def costliest_event(privacy: Privacy, scale_bits: int) -> ReleaseEvent:
    """The event that costs no less than any release under this promise.

    The noise is rounded up on the grid; how far depends on the clip, so one that adapts is counted without that.
    """
    event = release_event(privacy, scale_bits)
    if not privacy.adapts:
        return event
    return msgspec.structs.replace(event, sigma=floor(Fraction(privacy.noise_multiplier) * event.sensitivity))


def release_event(privacy: Privacy, scale_bits: int) -> ReleaseEvent:
    """The event of a release whose clip is the promise's."""
    return ReleaseEvent(
        sensitivity=privacy.sensitivity_grid(scale_bits),
        sigma=privacy.noise_grid(scale_bits),
        scale_bits=scale_bits + privacy.extra_bits,
        unit=privacy.unit,
        bands=privacy.min_separation,
    )


def epsilon(events: Iterable[tuple[ReleaseEvent, int]], delta: float) -> float:
    """Epsilon at `delta` of entering each event so many times, by dp-accounting's Rényi accountant.

    Neighbours differ by one device's update being zero (REPLACE_SPECIAL). The discrete Gaussian has the continuous
    one's Rényi bound (Canonne, Kamath, Steinke 2020, theorem 14).
    """
    from dp_accounting import dp_event, privacy_accountant
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=privacy_accountant.NeighboringRelation.REPLACE_SPECIAL)
    for event, count in events:
        if count:
            accountant.compose(dp_event.GaussianDpEvent(event.noise_multiplier), count)
    return float(accountant.get_epsilon(delta))


def releases_within(privacy: Privacy, scale_bits: int) -> int:
    """The number of releases that one device may enter within its budget; InputError if not even one."""
    event = costliest_event(privacy, scale_bits)

    def fits(count: int) -> bool:
        return epsilon([(event, count)], privacy.delta) <= privacy.epsilon

    if not fits(1):
        says = f"one release alone would cost epsilon {epsilon([(event, 1)], privacy.delta):.3g}, "
        says += f"more than the budget of {privacy.epsilon:g}"
        raise InputError(says, remedy="raise the noise multiplier or the budget")
    low, high = 1, MOST_RELEASES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


class PrivacyLedger:
    """The events of one log, in its database, and the budget that they are held to."""

    def __init__(self, database: Database, privacy: Privacy, scale_bits: int) -> None:
        self.database, self.privacy = database, privacy
        self.scale_bits, self.event = scale_bits, costliest_event(privacy, scale_bits)
        self.allowed = releases_within(privacy, scale_bits)
        for statement in LEDGER_TABLES:
            database.write(statement)

    def through(self, database: Database) -> PrivacyLedger:
        """The same ledger, read over another connection."""
        other = copy.copy(self)
        other.database = database
        return other

    def check(self, device: str, version: int) -> None:
        """Raise UpdateError if entering the release of `version` would pass this device's budget, or be too soon."""
        if self.entered(device) >= self.allowed:
            says = (
                f"it entered {self.allowed} private releases, and one more would pass epsilon {self.privacy.epsilon:g}"
            )
            remedy = "this device can go on using new versions, and training for itself"
            raise UpdateError(says, code="budget_spent", remedy=remedy)
        last, apart = self._last(device), self.privacy.min_separation
        if last is not None and version - last < apart:
            says = f"it is in version {last}, and this stream takes a device once in {apart} versions"
            raise UpdateError(says, code="not_selected", remedy=f"the update waits for version {last + apart}")

    def _last(self, device: str) -> int | None:
        """The newest version of this folder that the device entered."""
        sql = f"SELECT max(version) FROM entered JOIN ledger USING (number) WHERE device IN {KEYS_OF_MEMBER}"
        version = self.database.one(sql, (device,))[0] if self.privacy.min_separation > 1 else None
        return None if version is None else int(version)

    def charge(self, version: int, devices: Sequence[str], privacy: Privacy | None = None) -> None:
        """Notes a release, inside the caller's step; raises rather than exceed a device's budget.

        privacy: with the clip in force, where it adapts.
        """
        for device in devices:
            self.check(device, version)
        event = release_event(privacy or self.privacy, self.scale_bits)
        self._write(version, msgspec.json.encode(event), devices)

    def carry_over(self, old: Database) -> None:
        """What a folder before this one released, inside the caller's step: a new folder is no new budget."""
        for number, event in old.rows("SELECT number, event FROM ledger ORDER BY number"):
            devices = [device for (device,) in old.rows("SELECT device FROM entered WHERE number = ?", (number,))]
            self._write(None, event, devices)

    def take_over(self, number: int, event: bytes, devices: Sequence[str]) -> bool:
        """What the ledger that this one is a copy of noted after that, in the order of its numbers.

        False where it is known already. Raises StoreError where it is no event.
        """
        if number <= int(self.database.one("SELECT COALESCE(max(number), 0) FROM ledger")[0]):
            return False
        try:
            msgspec.json.decode(event, type=ReleaseEvent)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise StoreError(f"release {number} of the privacy ledger cannot be read") from None
        self._write(None, event, devices)
        return True

    def _write(self, version: int | None, event: bytes, devices: Sequence[str]) -> None:
        with self.database.transaction():
            self.database.write("INSERT INTO ledger (version, event) VALUES (?, ?)", (version, event))
            number = int(self.database.one("SELECT last_insert_rowid()")[0])
            self.database.write_many("INSERT INTO entered VALUES (?, ?)", [(device, number) for device in devices])

    def events(self) -> dict[int, ReleaseEvent]:
        """Every release by its number in the ledger, those of folders before this one first."""
        rows = self.database.rows("SELECT number, event FROM ledger ORDER BY number")
        return {number: msgspec.json.decode(event, type=ReleaseEvent) for number, event in rows}

    def missing(self) -> int:
        """The number of private releases and secure sums in the log that the ledger does not know."""
        sql = """SELECT (SELECT count(*) FROM log WHERE kind IN ('private_release', 'secure'))
                 - (SELECT count(*) FROM ledger WHERE version IS NOT NULL)"""
        return max(0, int(self.database.one(sql)[0]))

    def entered(self, device: str) -> int:
        """The number of releases that a device entered."""
        sql = f"SELECT count(DISTINCT number) FROM entered WHERE device IN {KEYS_OF_MEMBER}"
        return int(self.database.one(sql, (device,))[0])

    def shares(self) -> dict[str, int]:
        """By device, the number of releases it entered."""
        sql = """SELECT COALESCE(member, entered.device) AS name, count(DISTINCT number) FROM entered
                 LEFT JOIN devices ON devices.device = entered.device GROUP BY name ORDER BY name"""
        return dict(self.database.rows(sql))

    def cost(self, device: str) -> float:
        """Epsilon of one device over all releases."""
        events = self.events()
        sql = f"SELECT DISTINCT number FROM entered WHERE device IN {KEYS_OF_MEMBER}"
        rows = self.database.rows(sql, (device,))
        return epsilon([(events[number], 1) for (number,) in rows], self.privacy.delta)

    def spent(self) -> float:
        """Epsilon of the device that entered most releases: every release here costs at most `event`."""
        return epsilon([(self.event, max(self.shares().values(), default=0))], self.privacy.delta)
