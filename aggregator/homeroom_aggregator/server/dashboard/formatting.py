"""Formatting of the dashboard's figures: days, shares, statuses, and entries of the audit log as sentences."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from homeroom.contract.evaluation_report import NumberFigures, NumberReport, ReportedTask
from homeroom.contract.manifest import NO_UNIT
from homeroom.data.tasks.metrics import quantity
from homeroom.system.clock import now

STATUS_TONE = {  # the style of each status
    "no consent": "bad",
    "loses": "bad",
    "slips": "warn",
    "silent": "warn",
    "behind": "warn",
    "not started": "plain",
    "steady": "plain",
    "gains": "good",
}
STATUS_MEANING = {
    "no consent": "its updates are refused until its consent is recorded",
    "loses": "the newest version is clearly worse there, and its own stays in use",
    "slips": "a task got worse there by more than a standard error",
    "silent": "none of its devices was here for two weeks",
    "behind": "trains on a version that is three or more behind",
    "not started": "has sent no update yet",
    "steady": "takes part; no change worth a word was told",
    "gains": "a task got better there by more than a standard error, and none slipped",
}

STATUS_ADVICE = {  # of those that need somebody: what can be done, a button and where it leads
    "no consent": (
        "Once it has agreed, record that; until then its devices get every version and send nothing",
        "Record the consent of {}",
        "do/consent?about={school}",
    ),
    "loses": ("It keeps what is better there; if others lose too, go back", "Look at the way back", "versions"),
    "slips": ("If others slip too, go back to an older version", "Look at the way back", "versions"),
    "silent": (
        "Ask it whether its device is on and reaches this server (`homeroom doctor` there says); revoke the key "
        "of one that is gone for good",
        "Look at the devices of {}",
        "schools#{anchor}",
    ),
    "behind": (
        "It trains on the newest version after its next sync: ask it to leave the device on and connected",
        "Look at the devices of {}",
        "schools#{anchor}",
    ),
}


def moment(at: str) -> str:
    """`24 Nov 2026, 10:12 UTC` of an ISO 8601 time; `unknown` of nothing."""
    if not at:
        return "unknown"
    time = datetime.datetime.fromisoformat(at).astimezone(datetime.UTC)
    return f"{time.day} {time:%b %Y, %H:%M} UTC"


def day(at: str) -> str:
    """A day in words: `today`, `yesterday`, `5 days ago`, or the date; `never` of nothing."""
    if not at:
        return "never"
    date = datetime.date.fromisoformat(at[:10])
    days = (now().date() - date).days
    if days <= 0:
        return "today"
    if days == 1:
        return "yesterday"
    return f"{days} days ago" if days < 60 else f"{date.day} {date:%b %Y}"


def count(number: int, one: str, many: str = "") -> str:
    """`1 device`, `2 devices`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * share:.0f} %"


def points(change: float) -> str:
    """A change of a share, in percentage points, with its sign."""
    rounded = round(100 * change)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else '±'}{abs(rounded)}"


def figures(task: ReportedTask) -> tuple[str, str]:
    """What a task's scores were and are, with their unit; the first is empty where there was nothing before."""
    if isinstance(task, NumberReport):
        return _errors(task, task.before), f"{_errors(task, task.now)}{f' {NO_UNIT}' if task.unit == NO_UNIT else ''}"
    return "" if task.before is None else percent(task.before), percent(task.now)


def _errors(task: NumberReport, scores: NumberFigures | None) -> str:
    if scores is None:
        return ""
    unit = "" if task.unit == NO_UNIT else task.unit  # said once, after the newest
    errors = f"MAE {quantity(scores.mae, unit).strip()}, RMSE {quantity(scores.rmse, unit).strip()}"
    return errors if scores.r2 is None else f"{errors}, R² {scores.r2:.2f}"


def gain(task: ReportedTask) -> str:
    """What a version changed: percentage points of an accuracy, the skill of numbers."""
    return f"skill {task.gain:+.2f}".replace("-", "−") if isinstance(task, NumberReport) else points(task.gain)


def fall(task: ReportedTask) -> str:
    """How a task got worse, as a predicate."""
    was, now = figures(task)
    return f"got worse: {was} before, {now} now" if isinstance(task, NumberReport) else f"fell from {was} to {now}"


def short(text: str) -> str:
    """The beginning of a key or digest."""
    return text[:8]


def school(name: str) -> str:
    """A school's name; the district's own devices have none."""
    return name or "The district's own devices"


def title(task: str) -> str:
    """A task's name as a title."""
    return task.replace("_", " ").capitalize()


COUNTED = ("devices", "updates", "rows", "days")  # in audit entries


def event(name: str, about: Mapping[str, Any]) -> str:
    """An audit entry as a sentence; an unknown one by its name."""
    values = {key: _short(value) for key, value in about.items()}
    of = f" ({values['school']})" if values.get("school") else ""
    if name == "withdrawn":
        values["why"] = f": {values['why']}" if "why" in values else ""
    values["bounded"] = shortened(about.get("shortened", 0), about.get("longest", {}))
    values |= {f"{key} counted": count(n, key[:-1]) for key, n in about.items() if key in COUNTED and type(n) is int}
    values["of roster"] = (
        f" ({count(about['devices'], 'device')} of roster {about['roster']})" if "roster" in about else ""
    )
    values["of what"] = "" if about.get("devices", True) else " without a new update"
    sentences = {
        "invited": "Invited a {role}{of}",
        "joined": "A {role} joined{of}: key {device}",
        "rotated": "Key {device} was changed to {to}",
        "revoked": "Key {device} was revoked by {by}",
        "moved": "Device {device} speaks from another machine",
        "twin": "Key {device} is used by two machines{of}",
        "consent given": "Consent of {school} was recorded: {by}",
        "consent withdrawn": "Consent of {school} was withdrawn: {by}",
        "released": "Version {version} was released{of what}{bounded}",
        "rolled back": "Version {version} was made from version {to} by {by}: {why}",
        "rewound": "Version {version} goes on from version {to}, without what was to be unlearned ({unlearned}); "
        "later updates are void ({void})",
        "evaluation refused": "A sum of counts of version {version} was refused{of roster}: {why}",
        "rewind taken over": "Versions {first} to {last} are void: {by}",
        "evaluated": "Version {version} was evaluated: {task}, by {devices counted}",
        "statistics": "Device {device} sent statistics, number {sequence}",
        "statistics taken out": "The statistics of device {device} were erased",
        "statistics released": "Release {release} of statistics: {rows counted} by name",
        "statistics summed": "Sum {sum} of statistics, of {devices counted}, went into total {total}",
        "statistics begun anew": "Total {total} of statistics was begun by {by}: {why}",
        "statistics not served": "Release {release} of statistics is not served any more: something was taken away",
        "set apart": "Set apart: {what}: {why}",
        "withdrawn": "An update of device {device} was taken out{why}",
        "updates taken back": "{by} took back {updates counted} of {devices counted}: {why}",
        "round asked anew": "The deadline passed with {updates counted}; the round after version {version} asks anew",
        "private rounds": "Private rounds began",
        "configured": "After version {version} the configuration changed: {changes}",
        "restored": "A backup was put back: version {version} is version {after} again",
        "invitation taken back": "Invitation {invitation} was taken back by {by}",
        "addresses are learned": "For {days counted} the server learns by which addresses devices come",
        "member came by": "A device came by {address}",
        "addresses learned": "From now on the server answers to these addresses and its own alone: {addresses}",
        "certificate renewed": "The server shows a newer TLS certificate, which holds until {until}",
        "recovered": "The aggregator got a new key",
        "link made": "A link to this dashboard was made for {by} ({rank})",
        "ordered": "{by} chose “{action}” on the dashboard: {why}",
        "dashboard opened": "The dashboard was opened by {by} ({rank})",
    }
    try:
        return sentences[name].format(of=of, **values)
    except KeyError:
        return name.capitalize()


def shortened(updates: int, longest: Mapping[str, float]) -> str:
    """How many updates of a release were shortened to its bound, and whose was longest, as the end of a sentence."""
    if not updates:
        return ""
    key, times = next(iter(longest.items()))
    were = "was longer than the bound, and was" if updates == 1 else "were longer than the bound, and were"
    return f"; {count(updates, 'update')} {were} shortened, the longest, of device {short(key)}, {times:.3g} times it"


def _short(value: Any) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
