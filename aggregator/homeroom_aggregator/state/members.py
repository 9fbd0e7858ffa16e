"""Who belongs to the institution: invitations, devices and roles, schools and their consents; imports audit.

A member is known by its first key, which stays its name when the key is rotated. Everything here may also be done by
another process while the server runs, and counts from its next request on.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from homeroom.errors import InputError, TrustError
from homeroom.system.clock import now
from homeroom.system.sqlite import Database
from homeroom_aggregator.state import audit, invitation_codes

Role = Literal["device", "school", "district", "auditor"]
ROLES: tuple[Role, ...] = get_args(Role)
AGAIN = "ask for a new invitation"


@dataclass(frozen=True)
class Member:
    """`device`: its present key; `name`: its first. `twin`: two machines were seen to use its key."""

    device: str
    name: str
    role: Role
    school: str
    instance: str = ""
    twin: int = 0


@dataclass(frozen=True)
class Invited:
    """An invitation as it is kept: the digest of its code, for whom, and until when (UTC, ISO 8601; None: no end)."""

    code: str
    role: Role = "device"
    school: str = ""
    expires: str | None = None


class Members:
    def __init__(self, database: Database) -> None:
        self.database = database

    def find(self, key: str) -> Member | None:
        """The member that speaks with this key; None if there is none, or it was revoked."""
        sql = """SELECT device, COALESCE(member, device), role, school, instance, twin FROM devices
                 WHERE device = ? AND NOT revoked"""
        found = self.database.one(sql, (key,))
        return Member(*found) if found else None

    def school(self, name: str) -> str:
        """The school of a member by its first key, revoked or not; it never changes, so a log may be replayed by it."""
        found = self.database.one("SELECT school FROM devices WHERE device = ?", (name,))
        return str(found[0]) if found else ""

    def at_least(self, count: int, school: str) -> bool:
        """Whether a school has so many enrolled devices."""
        sql = "SELECT 1 FROM devices WHERE school = ? AND role = 'device' AND NOT revoked LIMIT ?"
        return len(self.database.rows(sql, (school, count))) == count

    def count(self) -> int:
        return int(self.database.one("SELECT count(*) FROM devices WHERE NOT revoked AND role = 'device'")[0])

    def every(self, school: str | None = None) -> list[dict[str, Any]]:
        """Facts about every member, of one school or of all, the longest enrolled first."""
        sql = """SELECT device, COALESCE(member, device), role, school, revoked, twin, joined, replaced_by FROM devices
                 WHERE ? IS NULL OR school = ? ORDER BY rowid"""
        names = ("device", "member", "role", "school", "revoked", "twin", "joined", "replaced_by")
        return [dict(zip(names, row, strict=True)) for row in self.database.rows(sql, (school, school))]

    # Joining

    def invite(self, invited: Iterable[Invited]) -> None:
        with self.database.transaction():
            for one in invited:
                self.database.write(
                    "INSERT INTO invitations (code, role, school, expires) VALUES (?, ?, ?, ?)",
                    (one.code, one.role, one.school, one.expires),
                )
                about = {"invitation": one.code[:16], "role": one.role, "school": one.school, "expires": one.expires}
                audit.record(self.database, "invited", **about)

    def join(self, key: str, invited: Invited) -> None:
        """Enrol a key for an invitation that is known to be genuine; asked again by the same key, nothing happens."""
        holder = self.database.one("SELECT device FROM devices WHERE code = ?", (invited.code,))
        if holder and holder[0] != key:
            raise TrustError("this invitation was used by another device", where="invitation", remedy=AGAIN)
        if holder or self.find(key):
            return
        if invited.expires and now() > datetime.datetime.fromisoformat(invited.expires):
            raise TrustError(f"this invitation ended at {invited.expires}", where="invitation", remedy=AGAIN)
        if self.database.one("SELECT 1 FROM devices WHERE device = ?", (key,)):
            raise TrustError("this key was revoked", where="invitation", remedy="make a new device directory")
        with self.database.transaction():
            self.database.write(
                "INSERT INTO devices (device, code, role, school, member, joined) VALUES (?, ?, ?, ?, ?, ?)",
                (key, invited.code, invited.role, invited.school, key, audit.stamp()),
            )
            audit.record(self.database, "joined", device=key, role=invited.role, school=invited.school)

    def invitation(self, code: str) -> Invited | None:
        """What was written down of an invitation by its code's digest; None if it was never, or was taken back."""
        sql = "SELECT code, role, school, expires FROM invitations WHERE code = ? AND NOT revoked"
        found = self.database.one(sql, (code,))
        return Invited(*found) if found else None

    # Keys

    def rotate(self, old: str, new: str) -> None:
        """`new` speaks for the member of `old` from now on; asked again, nothing happens."""
        found = self.database.one("SELECT replaced_by FROM devices WHERE device = ?", (old,))
        if found and found[0] == new:
            return
        member = self.find(old)
        if member is None:
            raise TrustError("this key is not enrolled", where="rotate", remedy=AGAIN)
        if self.database.one("SELECT 1 FROM devices WHERE device = ?", (new,)):
            raise TrustError("the new key was used before", where="rotate", remedy="make another one")
        with self.database.transaction():
            self.database.write("UPDATE devices SET revoked = 1, replaced_by = ? WHERE device = ?", (new, old))
            self.database.write(
                "INSERT INTO devices (device, code, role, school, member, joined) VALUES (?, ?, ?, ?, ?, ?)",
                (new, f"rotated {old}", member.role, member.school, member.name, audit.stamp()),
            )
            audit.record(self.database, "rotated", device=old, to=new)

    def revoke(self, key: str, by: str) -> None:
        """The key, given whole or by a beginning that only one has, opens nothing any more. InputError if unknown."""
        rows = self.database.rows(
            "SELECT device FROM devices WHERE substr(device, 1, ?) = ? AND NOT revoked", (len(key), key)
        )
        if len(rows) != 1 or not key:
            why = "is the beginning of several keys" if len(rows) > 1 else "is no enrolled key"
            raise InputError(why, where=key, remedy="`homeroom district members` lists them")
        with self.database.transaction():
            self.database.write("UPDATE devices SET revoked = 1 WHERE device = ?", rows[0])
            audit.record(self.database, "revoked", device=rows[0][0], by=by)

    def names(self, key: str) -> set[str]:
        """Every key that this member has ever had."""
        sql = """SELECT device FROM devices WHERE COALESCE(member, device) =
                 (SELECT COALESCE(member, device) FROM devices WHERE device = ?)"""
        return {row[0] for row in self.database.rows(sql, (key,))}

    def seen(self, member: Member, instance: str) -> None:
        """Note the machine that a request came from; one that left and is there again shares its key with another."""
        if not instance or instance == member.instance:
            return
        known = self.database.one(
            "SELECT 1 FROM instances WHERE device = ? AND instance = ?", (member.device, instance)
        )
        with self.database.transaction():
            self.database.write("UPDATE devices SET instance = ? WHERE device = ?", (instance, member.device))
            if known and not member.twin:
                self.twin(member)
            elif not known:
                self.database.write("INSERT INTO instances VALUES (?, ?)", (member.device, instance))
                if member.instance:
                    audit.record(self.database, "moved", device=member.device)

    def twin(self, member: Member) -> None:
        """Write down, once, that two machines use one key."""
        with self.database.transaction():
            if self.database.write("UPDATE devices SET twin = 1 WHERE device = ? AND NOT twin", (member.device,)):
                audit.record(self.database, "twin", device=member.device, school=member.school)

    # Consent

    def consent(self, school: str, given_by: str) -> None:
        """Record that a school agreed; its updates are accepted from now on."""
        with self.database.transaction():
            self.database.write(
                "INSERT OR REPLACE INTO consents (school, given_by, at) VALUES (?, ?, ?)",
                (school, given_by, audit.stamp()),
            )
            audit.record(self.database, "consent given", school=school, by=given_by)

    def withdraw_consent(self, school: str, by: str) -> None:
        with self.database.transaction():
            if not self.database.write("UPDATE consents SET withdrawn = ? WHERE school = ?", (audit.stamp(), school)):
                raise InputError("has given no consent", where=school)
            audit.record(self.database, "consent withdrawn", school=school, by=by)

    def consented(self, school: str) -> bool:
        """Whether a school's updates may be taken; a device of no named school is the district's own."""
        if not school:
            return True
        return self.database.one("SELECT 1 FROM consents WHERE school = ? AND withdrawn IS NULL", (school,)) is not None

    def schools(self) -> list[dict[str, Any]]:
        """Every named school, with its devices and its consent."""
        sql = """SELECT name, (SELECT count(*) FROM devices WHERE school = name AND role = 'device' AND NOT revoked),
                        given_by, at, withdrawn
                 FROM (SELECT school AS name FROM devices UNION SELECT school FROM invitations
                       UNION SELECT school FROM consents)
                 LEFT JOIN consents ON consents.school = name WHERE name != '' ORDER BY name"""
        names = ("school", "devices", "given_by", "at", "withdrawn")
        return [dict(zip(names, row, strict=True)) for row in self.database.rows(sql)]


def invited(members: Members, secret: bytes, code: str) -> Invited | None:
    """The invitation of a code, used or not; None if the code is made up or was taken back."""
    spent, made = invitation_codes.spent(code), invitation_codes.genuine(secret, code)
    return members.invitation(spent) if made == 2 else Invited(spent) if made == 1 else None


def join_with_code(members: Members, secret: bytes, key: str, code: str) -> None:
    """Enrol a key for an invitation's code; TrustError if the code is made up, taken back, ended or another's."""
    found = invited(members, secret, code)
    if found is None:
        raise TrustError("this invitation is not one of ours", where="invitation", remedy=AGAIN)
    members.join(key, found)
