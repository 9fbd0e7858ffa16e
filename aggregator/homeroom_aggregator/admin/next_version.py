"""What the next version waits for, and the buffer of a district that sets none: half of the devices that come.

A clock says who came lately, when the buffer is set; the value in force is an entry of the log, so that a replay reads
no clock.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from homeroom.contract.round import MOST_KRUM_UPDATES, RoundConfiguration
from homeroom.system.clock import now
from homeroom.system.printable import counted
from homeroom_aggregator.merge.segment_sums import SchoolOf, count_fed, no_school
from homeroom_aggregator.state.members import Members

ACTIVE_DAYS = 30


def active_devices(members: Members, days: Mapping[str, str]) -> frozenset[str]:
    """The members whose updates may come: enrolled devices of consenting schools that were here within ACTIVE_DAYS.

    days: by key, the day of the last visit (`LastSeen.days`). A device that has just joined was here.
    """
    since = (now() - datetime.timedelta(days=ACTIVE_DAYS)).date().isoformat()
    rows = [row for row in members.every() if row["role"] == "device" and not row["revoked"]]
    consented = {school: members.consented(school) for school in {row["school"] for row in rows}}
    return frozenset(
        row["member"]
        for row in rows
        if consented[row["school"]] and max(days.get(row["device"], ""), (row["joined"] or "")[:10]) >= since
    )


def automatic_buffer(active: int, least: int, rule: str) -> int:
    """Half of the active devices, at least the `least` devices of a release, at most what the merge rule compares."""
    size = max(least, active // 2)
    return min(size, MOST_KRUM_UPDATES) if rule == "multi-krum" else size


@dataclass(frozen=True)
class NextVersion:
    """The wait for the next version.

    updates: here of the `needed` ones. devices: that fed it already. active: of `active_devices`.
    least: of a release, of what `k_of` names. k_of, school_of: as of `count_fed`. rule: of the merge.
    """

    updates: int
    needed: int
    devices: Collection[str]
    active: Collection[str]
    least: int
    k_of: str = "devices"
    school_of: SchoolOf = no_school
    rule: str = "mean"

    @property
    def reach(self) -> int:
        """The most updates that can come together: those here, and one of each active device that has sent none."""
        return self.updates + len(set(self.active) - set(self.devices))

    @property
    def fits(self) -> int:
        """The buffer that these devices would fill."""
        return automatic_buffer(len(set(self.active) | set(self.devices)), self.least, self.rule)

    @property
    def hindrance(self) -> str:
        """Why it would never come with the devices there are, as a predicate of it; empty where it would."""
        devices, k_of = set(self.active) | set(self.devices), self.k_of
        there, last = (
            count_fed(devices, k_of, self.school_of),
            f"in the last {ACTIVE_DAYS} days, of schools that consent",
        )
        if there < self.least:
            devices_of = "devices of " if k_of == "schools" else ""
            return f"needs {self.least} different {k_of}, and {devices_of}only {there} came {last}"
        came = f"only {len(devices)} came {last}"
        return f"needs {counted(self.needed, 'update')}, and {came}" if self.reach < self.needed else ""


def next_version(
    configuration: RoundConfiguration, pending: int, fed: Collection[str], members: Members, days: Mapping[str, str]
) -> NextVersion:
    """The wait for the next version of plain or centrally private rounds.

    pending: updates that are here. fed: the members who sent them. members, days: as for `active_devices`.
    """
    needed = configuration.cohort.quorum if configuration.cohort else configuration.buffer_size
    least, k_of = configuration.min_devices, configuration.k_of
    active = active_devices(members, days)
    return NextVersion(pending, needed, fed, active, least, k_of, members.school, configuration.rule)
