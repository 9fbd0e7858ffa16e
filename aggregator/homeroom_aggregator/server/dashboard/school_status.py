"""Status of each school, the worst first: its consent, whether its devices come, whether versions help it.

Only a school's devices know how a version does there, and report it if the school wants that (`evaluation_report`);
without reports the server sees who comes, and on which version.
"""

from __future__ import annotations

import datetime
import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import msgspec

from homeroom.contract.evaluation_report import EvaluationReport, ReportedTask
from homeroom.contract.update import UpdateHeader
from homeroom.system.clock import now
from homeroom.system.sqlite import Database
from homeroom_aggregator.server.dashboard import formatting
from homeroom_aggregator.state import secure_sum
from homeroom_aggregator.state.last_seen import LastSeen, reports
from homeroom_aggregator.state.members import Members

SILENT_DAYS = 14  # without a visit
BEHIND_VERSIONS = 3  # versions
CLEAR_STANDARD_ERRORS = 1.0  # by which a task's skill must change to count as changed
SECURE_SUMS_READ = 50  # the newest ones, searched for the devices in them
UPDATE_HEADER_BYTES = 1 << 16  # read of an update

Status = Literal["no consent", "loses", "slips", "silent", "behind", "not started", "steady", "gains"]
WORST_FIRST: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class DeviceStatus:
    """One device. `version`: the newest it is known to have had, None where unknown; `day`: of its last visit."""

    name: str
    key: str
    joined: str
    twin: bool = False
    updates: int = 0
    version: int | None = None
    day: str = ""
    report: EvaluationReport | None = None
    waits: bool = False

    def behind(self, versions: Sequence[int]) -> int:
        """How many of these versions, in ascending order, are newer than its own."""
        return len(versions) - bisect_right(versions, self.version or 0)

    @property
    def worst(self) -> tuple[str, ReportedTask] | None:
        """The task that the version helped least here."""
        tasks = self.report.every_task.items() if self.report else ()
        return min(tasks, key=lambda task: (task[1].gain, task[1].skill), default=None)


@dataclass(frozen=True)
class SchoolStatus:
    """`name` is empty for the devices that are the district's own. `invited`: invitations that nobody used yet.

    versions: the numbers of those that are kept, in order; there may be gaps.
    """

    name: str
    versions: Sequence[int]
    devices: tuple[DeviceStatus, ...] = ()
    invited: int = 0
    consent: Mapping[str, Any] = field(default_factory=dict)

    @property
    def consented(self) -> bool:
        """Whether its updates are taken."""
        return not self.name or (bool(self.consent.get("given_by")) and not self.consent.get("withdrawn"))

    @property
    def updates(self) -> int:
        """How many updates its devices have sent."""
        return sum(device.updates for device in self.devices)

    @property
    def waiting(self) -> int:
        """How many of its devices wait in the next version."""
        return sum(device.waits for device in self.devices)

    @property
    def day(self) -> str:
        """Day of the last visit of any of its devices."""
        return max((device.day for device in self.devices), default="")

    @property
    def behind(self) -> int:
        """Versions that the device furthest behind lacks, among those that ever sent anything."""
        return max((m.behind(self.versions) for m in self.devices if m.version is not None), default=0)

    @property
    def worst(self) -> tuple[DeviceStatus, str, ReportedTask] | None:
        """The device and the task that the newest version they told of helped least."""
        rows = [(device, *device.worst) for device in self.devices if device.worst]
        return min(rows, key=lambda row: (row[2].gain, row[2].skill), default=None)

    @property
    def silent_days(self) -> int | None:
        """Days since the last visit, or since the last device joined."""
        since = self.day or max((device.joined[:10] for device in self.devices), default="")
        return (now().date() - datetime.date.fromisoformat(since)).days if since else None

    @property
    def kept(self) -> DeviceStatus | None:
        """A device on which the newest version was clearly worse, so that its own stays in use."""
        return next((m for m in self.devices if m.report and m.report.in_use == "local"), None)

    @property
    def status(self) -> Status:
        """The worst status that holds."""
        worst, days = self.worst, self.silent_days
        if not self.consented and (self.devices or self.invited):
            return "no consent"
        if self.kept:
            return "loses"
        if worst and clear(worst[2]) and worst[2].gain < 0:
            return "slips"
        if self.devices and days is not None and days >= SILENT_DAYS:
            return "silent"
        if self.behind >= BEHIND_VERSIONS:
            return "behind"
        if not self.updates:
            return "not started"
        tasks = [task for m in self.devices if m.report for task in m.report.every_task.values()]
        return "gains" if any(clear(task) and task.gain > 0 for task in tasks) else "steady"

    @property
    def sentence(self) -> str:
        """Its status as a sentence with its figures."""
        status, worst = self.status, self.worst
        if status == "slips" and worst:
            device, name, task = worst
            version = device.report.version if device.report else 0
            return f"{formatting.title(name).lower()} {formatting.fall(task)} with version {version}"
        if status == "loses" and self.kept and self.kept.report:
            return f"keeps its own version, since version {self.kept.report.version} is clearly worse there"
        if status == "silent":
            return f"none of its devices was here for {self.silent_days} days"
        if status == "behind":
            return f"trains on a version that is {self.behind} behind"
        return formatting.STATUS_MEANING[status]

    @property
    def order(self) -> tuple[Any, ...]:
        """The sort key: the worst status first, then the task that lost most."""
        worst = self.worst
        return WORST_FIRST.index(self.status), worst[2].gain if worst else 0.0, -self.behind, self.name


def clear(task: ReportedTask) -> bool:
    """Whether a gain or loss exceeds the standard error of so few samples."""
    return abs(task.gain) > CLEAR_STANDARD_ERRORS * task.error


def schools(
    database: Database, last_seen: LastSeen, waiting: frozenset[str], numbers: frozenset[str] = frozenset()
) -> list[SchoolStatus]:
    """Every school, the worst first.

    waiting: the members whose updates the next version has.
    numbers: the tasks whose answers are numbers: older devices report an accuracy of these, which means nothing.
    """
    members = Members(database)
    versions = [number for (number,) in database.rows("SELECT version FROM versions ORDER BY version")]
    devices: dict[str, list[DeviceStatus]] = defaultdict(list)
    for school, device in _devices(database, members, last_seen, waiting, numbers):
        devices[school].append(device)
    invited = dict(database.rows(_UNUSED, (now().isoformat(timespec="seconds"),)))
    consents = {row["school"]: row for row in members.schools()}
    statuses = []
    for name in devices.keys() | invited.keys():
        own = sorted(devices.get(name, ()), key=lambda m: (-m.behind(versions), m.day))
        statuses.append(SchoolStatus(name, versions, tuple(own), invited.get(name, 0), consents.get(name, {})))
    return sorted(statuses, key=lambda school: school.order)


_UNUSED = """SELECT school, count(*) FROM invitations WHERE role = 'device' AND NOT revoked
             AND (expires IS NULL OR expires > ?) AND code NOT IN (SELECT code FROM devices) GROUP BY school"""


def _devices(
    database: Database, members: Members, last_seen: LastSeen, waiting: frozenset[str], numbers: frozenset[str]
) -> Iterator[tuple[str, DeviceStatus]]:
    rows = [row for row in members.every() if row["role"] == "device"]
    member_of = {row["device"]: row["member"] for row in rows}
    sent, known = _sent(database, member_of)
    by_day = sorted(reports(database).items(), key=lambda row: row[1][0])
    newest_reports = {member_of.get(key, key): dated for key, dated in by_day}
    days: dict[str, str] = {}
    for key, day in last_seen.days(database).items():
        days[member_of.get(key, key)] = max(day, days.get(member_of.get(key, key), ""))
    first = {row["member"]: row["joined"] for row in reversed(rows)}
    for row in rows:
        if row["revoked"]:
            continue
        name = row["member"]
        _, report = newest_reports.get(name, ("", None))
        if report is not None:
            shares = {task: share for task, share in report.tasks.items() if task not in numbers}
            report = msgspec.structs.replace(report, tasks=shares)
        versions = [v for v in (known.get(name), report.version if report else None) if v is not None]
        status = DeviceStatus(name, row["device"], first[name] or row["joined"], bool(row["twin"]), sent.get(name, 0))
        seen, version = days.get(name, ""), max(versions, default=None)
        yield row["school"], replace(status, version=version, day=seen, report=report, waits=name in waiting)


def _sent(database: Database, member_of: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """By member: updates, and the version that the newest of them was trained on, or at least had."""
    sent, known = dict[str, int](), dict[str, int]()
    sql = "SELECT device, count(*), max(number) FROM log WHERE kind = 'update' GROUP BY device"
    for member, count, number in database.rows(sql):
        sent[member], base = count, _base(database, number)
        if base is not None:
            known[member] = base
    sql = "SELECT number, version FROM log WHERE kind = 'secure' ORDER BY number DESC LIMIT ?"
    for number, version in reversed(database.rows(sql, (SECURE_SUMS_READ,))):
        for header in secure_sum.headers(database, number - 1, number + 1):
            for key in header.updates.values():
                member = member_of.get(key, key)
                sent[member], known[member] = sent.get(member, 0) + 1, version
    return sent, known


def _base(database: Database, number: int) -> int | None:
    """The base version in an update's header; for one whose bytes are gone, the newest when it came."""
    sql = "SELECT substr(body, 1, ?), version FROM log LEFT JOIN bodies USING (number) WHERE number = ?"
    head, version = database.one(sql, (UPDATE_HEADER_BYTES, number))
    if not head:
        return int(version)
    (length,) = struct.unpack("<I", head[8:12])
    try:
        return msgspec.json.decode(head[12 : 12 + length], type=UpdateHeader).base_version
    except msgspec.DecodeError:  # a header longer than what is read here
        return None
