"""What an officer may do to members: consent, revocation and invitations, with the right that each role has.

Requests, dashboard and commands come here. `Rounds.withdraw_gone` then takes out what waits of whoever has gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from homeroom.errors import Code, InputError, StoreError
from homeroom_aggregator.admin.folder import open_log, open_rounds
from homeroom_aggregator.state.members import RANKS, Members, Role


@dataclass(frozen=True)
class Officer:
    """Who acts. `name`: in the audit log; `role`: None for the operator, who has the folder; `school`: its own."""

    name: str
    role: Role | None = None
    school: str = ""


OPERATOR = Officer("operator")


def change_consent(members: Members, officer: Officer, school: str, by: str, *, give: bool) -> None:
    """Records a school's consent, or that it was withdrawn; InputError where the officer may not, or no such school."""
    if officer.role not in (None, "district") and (officer.role, officer.school) != ("school", school):
        raise _not_allowed("a school speaks for itself only")
    (members.consent if give else members.withdraw_consent)(school, by)


def revoke(members: Members, officer: Officer, key: str) -> str:
    """Shuts a key out, and returns it; InputError unless its member is of a lower rank and, for a school, its own."""
    if officer.role is not None:
        member = members.find(key)
        if member is None or (officer.role == "school" and member.school != officer.school):
            says = "no such device is enrolled here for you to revoke"
            raise InputError(says, code=Code.UNKNOWN_DEVICE, where=key[:64])
        if RANKS[officer.role] <= RANKS[member.role]:
            raise _not_allowed(f"a member with the role {officer.role} does not revoke one with the role {member.role}")
    return members.revoke(key, officer.name)


def take_back(members: Members, officer: Officer, invitation: str) -> None:
    """Takes an invitation back, by the beginning of its digest; InputError where the officer may not."""
    if officer.role not in (None, "district"):
        raise _not_allowed("the district takes invitations back")
    row = next((row for row in members.invitations() if row["invitation"].startswith(invitation[:16])), None)
    if officer.role and row and RANKS[officer.role] <= RANKS[row["role"]]:
        raise _not_allowed(f"the operator takes invitations for the role {row['role']} back")
    members.take_back(invitation, officer.name)


def _not_allowed(why: str) -> InputError:
    return InputError(why, code=Code.NOT_ALLOWED, remedy="ask whoever runs the aggregator")


@contextlib.contextmanager
def acting(folder: Path) -> Iterator[Members]:
    """The members of a folder, served or not; what waits of whoever has gone afterwards is erased at once."""
    with contextlib.closing(open_log(folder)) as log:
        yield Members(log.database)
    try:
        open_rounds(folder).close()
    except StoreError as problem:
        if problem.code != Code.IN_USE:  # else the server does it
            raise
