"""What in the inbox waits for a person's yes: invitations and policies, by their content, whatever they are called.

A file never makes a device join, or change its aggregator or policy: a person accepts it on the page, or by
`homeroom device join` and `homeroom device policy`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homeroom.contract.invitation import (
    INVITATION_LIMIT_BYTES,
    Enrolment,
    Invitation,
    is_invitation_text,
    read_invitation,
)
from homeroom.contract.policy import POLICY_LIMIT_BYTES, read_policy
from homeroom.device.device import Device
from homeroom.errors import HomeroomError, InputError
from homeroom.system.files import read_bounded

DOCUMENT_SUFFIXES = (".json", ".txt")  # an invitation is also one line of text
LIMIT_BYTES = max(INVITATION_LIMIT_BYTES, POLICY_LIMIT_BYTES)


@dataclass(frozen=True)
class WaitingEntry:
    """A file that waits. what: accepting it does so. digest: of its content, so that what was shown is accepted."""

    name: str
    kind: Literal["invitation", "policy"]
    what: str
    digest: str


def waiting_entry(entry: Path, joined: Enrolment | None = None) -> WaitingEntry | str:
    """The entry as one that waits for a yes, or why it does not; empty where it is neither invitation nor policy.

    joined: with which aggregator the device has joined.
    """
    is_document = entry.suffix.lower() in DOCUMENT_SUFFIXES
    try:
        data = read_bounded(entry, LIMIT_BYTES)
    except OSError as problem:
        return f"cannot be read: {problem.strerror}" if is_document else ""
    found = _by_content(entry.name, data, joined)
    return found if is_document or isinstance(found, WaitingEntry) else ""  # of sheets and media others say why


def _by_content(name: str, data: bytes, joined: Enrolment | None) -> WaitingEntry | str:
    if len(data) > LIMIT_BYTES or not is_invitation_text(data[:1000].decode("utf-8-sig", errors="replace")):
        return _no_invitation(name)
    digest = hashlib.sha256(data).hexdigest()
    try:
        policy = read_policy(data, root_fingerprint=None)
    except HomeroomError:
        return _waiting_invitation(name, data.decode("utf-8-sig", errors="replace"), digest, joined)
    what = f"keeps the policy of {policy.institution}, version {policy.version}"
    return WaitingEntry(name, "policy", what, digest)


def _waiting_invitation(name: str, text: str, digest: str, joined: Enrolment | None) -> WaitingEntry | str:
    try:
        invited = read_invitation(text)
    except HomeroomError as problem:
        return _no_invitation(name, f" that can be read ({problem.what})")
    if joined and (joined.root, joined.institution, _host(joined)) == (
        invited.root,
        invited.institution,
        _host(invited),
    ):
        return f"this device has joined {invited.institution} already: the file can be deleted"
    school = f" as {invited.school}" if invited.school else ""
    instead = f", in place of {joined.institution} at {joined.address}" if joined else ""
    what = f"joins {invited.institution} at {invited.address}{school}{instead} (root {invited.root})"
    return WaitingEntry(name, "invitation", what, digest)


def _no_invitation(name: str, why: str = "") -> str:
    named = name.casefold().startswith("invitation")
    return f"it is no invitation{why}: get it again from who sent it" if named else ""


def _host(invited: Enrolment | Invitation) -> str:
    return invited.address.partition("://")[2]


def accept(device: Device, entry: Path, digest: str) -> str:
    """Does what a waiting entry asks for, then deletes it; returns what was done.

    Raises InputError where the file is not the one of that digest any more, and the error of joining or of the policy,
    with the file still there.
    """
    waiting = waiting_entry(entry)
    if isinstance(waiting, str) or waiting.digest != digest:
        raise InputError("has changed or gone", where=entry.name, remedy="open the page again")
    if waiting.kind == "invitation":
        device.join(entry)
    else:
        device.policy(entry)
    entry.unlink()
    return f"Done: this device {waiting.what}."
