"""Members of the institution: invitations, devices with their roles, schools with their consents.

A member is named by its first key, also after the key is rotated. Another process may do all this while the server
runs; it counts from the next request on.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from homeroom.contract.names import check_name
from homeroom.errors import Code, InputError, TrustError
from homeroom.system.clock import now
from homeroom.system.sqlite import Database
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.one_time_codes import INVITATION, UNSTORED_INVITATION, code_digest, is_genuine

Role = Literal["device", "school", "district", "auditor"]
ROLES: tuple[Role, ...] = get_args(Role)
RANKS: dict[Role, int] = {"device": 0, "auditor": 1, "school": 1, "district": 2}  # who may shut whom out
MEMBERS_INDEX = "CREATE INDEX IF NOT EXISTS devices_by_member ON devices (member)"
REINVITE = "ask for a new invitation"
LEAST_BEGINNING = 8  # digits of an invitation's digest that name it


@dataclass(frozen=True)
class Member:
    """A device or person. `device`: its present key; `name`: its first; `twin`: two machines were seen to use it."""

    device: str
    name: str
    role: Role
    school: str
    instance: str = ""
    twin: int = 0


@dataclass(frozen=True)
class StoredInvitation:
    """An invitation as it is stored: the digest of its code, for whom, and until when (UTC, ISO 8601; None: no end)."""

    code: str
    role: Role = "device"
    school: str = ""
    expires: str | None = None


class Members:
    """The members, schools and invitations in a log's database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def find(self, key: str) -> Member | None:
        """The member with this key; None if there is none, its role is none, or the key was revoked."""
        sql = """SELECT device, COALESCE(member, device), role, school, instance, twin FROM devices
                 WHERE device = ? AND NOT revoked"""
        row = self.database.one(sql, (key,))
        return Member(*row) if row and is_role(row[2], row[3]) else None

    def name_of(self, key: str) -> str:
        """The member that has or had a key, by its first key; the key itself where nobody enrolled it."""
        row = self.database.one("SELECT COALESCE(member, device) FROM devices WHERE device = ?", (key,))
        return str(row[0]) if row else key

    def gone(self) -> frozenset[str]:
        """Members whose key was revoked, or whose school's consent was withdrawn: nothing of them may wait."""
        sql = """SELECT device FROM devices AS first WHERE COALESCE(member, device) = device AND (
                     NOT EXISTS (SELECT 1 FROM devices
                                 WHERE (device = first.device OR member = first.device) AND NOT revoked)
                     OR school IN (SELECT school FROM consents WHERE withdrawn IS NOT NULL))"""
        return frozenset(name for (name,) in self.database.rows(sql))

    def school(self, name: str) -> str:
        """The school of a member by its first key, revoked or not; it never changes, so a log may be replayed by it."""
        row = self.database.one("SELECT school FROM devices WHERE device = ?", (name,))
        return str(row[0]) if row else ""

    def at_least(self, count: int, school: str) -> bool:
        """Whether a school has so many enrolled devices."""
        sql = "SELECT 1 FROM devices WHERE school = ? AND role = 'device' AND NOT revoked LIMIT ?"
        return len(self.database.rows(sql, (school, count))) == count

    def count(self) -> int:
        """The number of enrolled devices."""
        return int(self.database.one("SELECT count(*) FROM devices WHERE NOT revoked AND role = 'device'")[0])

    def every(self, school: str | None = None) -> list[dict[str, Any]]:
        """Facts about every member, of one school or of all, the longest enrolled first."""
        sql = """SELECT device, COALESCE(member, device), role, school, revoked, twin, joined, replaced_by FROM devices
                 WHERE ? IS NULL OR school = ? ORDER BY rowid"""
        names = ("device", "member", "role", "school", "revoked", "twin", "joined", "replaced_by")
        return [dict(zip(names, row, strict=True)) for row in self.database.rows(sql, (school, school))]

    # Joining

    def invite(self, invitations: Iterable[StoredInvitation]) -> None:
        """Stores invitations."""
        sql = "INSERT INTO invitations (code, role, school, expires) VALUES (?, ?, ?, ?)"
        with self.database.transaction():
            for invitation in invitations:
                check_role(invitation.role, invitation.school)
                about = {"role": invitation.role, "school": invitation.school, "expires": invitation.expires}
                self.database.write(sql, (invitation.code, *about.values()))
                audit.record(self.database, "invited", invitation=invitation.code[:16], **about)

    def join(self, key: str, invitation: StoredInvitation) -> None:
        """Enrols a key for a genuine invitation, or does nothing if the key has used it. TrustError if it may not."""
        self.check_usable(key, invitation)
        if self.find(key):
            return
        with self.database.transaction():
            self._enrol(key, invitation.code, Member(key, key, invitation.role, invitation.school))
            audit.record(self.database, "joined", device=key, role=invitation.role, school=invitation.school)

    def check_usable(self, key: str, invitation: StoredInvitation) -> None:
        """TrustError unless a key may use, or has used, a genuine invitation: once, by one key, before its end."""
        where = "invitation"
        if not is_role(invitation.role, invitation.school):
            raise TrustError(f"its role {invitation.role} needs a school", where=where, remedy=REINVITE)
        holder = self.database.one("SELECT device FROM devices WHERE code = ?", (invitation.code,))
        if holder and holder[0] != key:
            raise TrustError("this invitation was used by another device", where=where, remedy=REINVITE)
        known = self.database.one("SELECT revoked FROM devices WHERE device = ?", (key,))
        if known and known[0]:
            raise TrustError("this key was revoked", where=where, remedy="make a new device directory")
        if not known and invitation.expires and now() > _moment(invitation.expires):
            raise TrustError(f"this invitation ended at {invitation.expires}", where=where, remedy=REINVITE)

    def _enrol(self, key: str, code: str, member: Member) -> None:
        sql = "INSERT INTO devices (device, code, role, school, member, joined) VALUES (?, ?, ?, ?, ?, ?)"
        self.database.write(sql, (key, code, member.role, member.school, member.name, audit.timestamp()))

    def invitation(self, code: str) -> StoredInvitation | None:
        """An invitation by its code's digest; None if it was never stored, or was taken back."""
        sql = "SELECT code, role, school, expires FROM invitations WHERE code = ? AND NOT revoked"
        row = self.database.one(sql, (code,))
        return StoredInvitation(*row) if row else None

    def invitations(self) -> list[dict[str, Any]]:
        """Every stored invitation, the oldest first; `invitation` is the beginning of its code's digest."""
        sql = """SELECT substr(code, 1, 16), invitations.role, invitations.school, expires, invitations.revoked, device
                 FROM invitations LEFT JOIN devices USING (code) ORDER BY invitations.rowid"""
        rows = []
        for invitation, role, school, expires, revoked, device in self.database.rows(sql):
            ended = expires is not None and now() > _moment(expires)
            status = "used" if device else "taken back" if revoked else "ended" if ended else "open"
            row = {"invitation": invitation, "role": role, "school": school, "expires": expires}
            rows.append(row | {"status": status, "device": device})
        return rows

    def take_back(self, invitation: str, by: str) -> None:
        """Takes an invitation back, by the beginning of its code's digest; InputError if it is unknown or was used."""
        sql = """SELECT code, device FROM invitations LEFT JOIN devices USING (code)
                 WHERE substr(code, 1, ?) = ?"""
        rows = self.database.rows(sql, (len(invitation), invitation))
        if len(rows) != 1 or len(invitation) < LEAST_BEGINNING:
            remedy = "`homeroom district invite --list` lists them"
            raise InputError("is no invitation", where=invitation[:64], remedy=remedy)
        if rows[0][1]:
            raise InputError(f"was used by {rows[0][1][:12]}", where=invitation, remedy="revoke that key")
        with self.database.transaction():
            if self.database.write("UPDATE invitations SET revoked = 1 WHERE code = ? AND NOT revoked", rows[0][:1]):
                audit.record(self.database, "invitation taken back", invitation=rows[0][0][:16], by=by)

    # Keys

    def rotate(self, old: str, new: str) -> None:
        """Replaces a member's key; does nothing if that was done before. TrustError if it may not."""
        row = self.database.one("SELECT replaced_by FROM devices WHERE device = ?", (old,))
        if row and row[0] == new:
            return
        member = self.find(old)
        if member is None:
            raise TrustError("this key is not enrolled", where="rotate", remedy=REINVITE)
        if self.database.one("SELECT 1 FROM devices WHERE device = ?", (new,)):
            raise TrustError("the new key was used before", where="rotate", remedy="make another one")
        with self.database.transaction():
            self.database.write("UPDATE devices SET revoked = 1, replaced_by = ? WHERE device = ?", (new, old))
            self._enrol(new, f"rotated {old}", member)
            audit.record(self.database, "rotated", device=old, to=new)

    def revoke(self, key: str, by: str) -> str:
        """Revokes a key, given in full or by a beginning that only one key has; returns it. InputError for no key."""
        sql = "SELECT device FROM devices WHERE substr(device, 1, ?) = ? AND NOT revoked"
        rows = self.database.rows(sql, (len(key), key))
        if len(rows) != 1 or not key:
            why = "is the beginning of several keys" if len(rows) > 1 else "is no enrolled key"
            raise InputError(why, where=key, remedy="`homeroom district members` lists them")
        with self.database.transaction():
            self.database.write("UPDATE devices SET revoked = 1 WHERE device = ?", rows[0])
            audit.record(self.database, "revoked", device=rows[0][0], by=by)
        return str(rows[0][0])

    def names(self, key: str) -> set[str]:
        """Every key that this member has ever had."""
        sql = """SELECT device FROM devices WHERE COALESCE(member, device) =
                 (SELECT COALESCE(member, device) FROM devices WHERE device = ?)"""
        return {row[0] for row in self.database.rows(sql, (key,))}

    def seen(self, member: Member, instance: str) -> None:
        """Notes the machine that a request came from; one that left and is there again shares its key with another."""
        if not instance or instance == member.instance:
            return
        sql = "SELECT 1 FROM instances WHERE device = ? AND instance = ?"
        known = self.database.one(sql, (member.device, instance))
        with self.database.transaction():
            self.database.write("UPDATE devices SET instance = ? WHERE device = ?", (instance, member.device))
            if known and not member.twin:
                self.mark_clone(member)
            elif not known:
                self.database.write("INSERT INTO instances VALUES (?, ?)", (member.device, instance))
                if member.instance:
                    audit.record(self.database, "moved", device=member.device)

    def mark_clone(self, member: Member) -> None:
        """Notes, once, that two machines use one key."""
        with self.database.transaction():
            if self.database.write("UPDATE devices SET twin = 1 WHERE device = ? AND NOT twin", (member.device,)):
                audit.record(self.database, "twin", device=member.device, school=member.school)

    # Consent

    def consent(self, school: str, given_by: str) -> None:
        """Records a school's consent; its updates are accepted from now on. InputError for a school that is none."""
        given_by = check_name(given_by, "who gave the consent")
        self.check_school(school)
        with self.database.transaction():
            sql = "INSERT OR REPLACE INTO consents (school, given_by, at) VALUES (?, ?, ?)"
            self.database.write(sql, (school, given_by, audit.timestamp()))
            audit.record(self.database, "consent given", school=school, by=given_by)

    def withdraw_consent(self, school: str, by: str) -> None:
        """Withdraws a school's consent; InputError if there is none."""
        by = check_name(by, "who withdrew the consent")
        sql = "UPDATE consents SET withdrawn = ? WHERE school = ?"
        with self.database.transaction():
            if not self.database.write(sql, (audit.timestamp(), school)):
                raise InputError("has given no consent", where=school)
            audit.record(self.database, "consent withdrawn", school=school, by=by)

    def school_names(self) -> list[str]:
        """Every school that somebody was invited for."""
        sql = "SELECT school FROM devices WHERE school != '' UNION SELECT school FROM invitations WHERE school != ''"
        return [name for (name,) in self.database.rows(sql)]

    def check_school(self, school: str) -> None:
        """InputError, with names that are near, unless somebody was invited for a school: a typo is no school."""
        names = self.school_names()
        if school not in names:
            near = difflib.get_close_matches(school, names, 3) or names[:3]
            remedy = f"did you mean {' or '.join(near)}? " if near else ""
            remedy += "a school exists once somebody was invited for it"
            raise InputError("is no school here", code=Code.UNKNOWN_SCHOOL, where=school[:200], remedy=remedy)

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


def is_role(role: str, school: str) -> bool:
    """Whether a role is one: that of a school needs a school to speak for."""
    return role in ROLES and (role != "school" or bool(school))


def check_role(role: str, school: str) -> None:
    """InputError unless the role is one, and the school's name, where there is one, can be a name."""
    if role not in ROLES:
        raise InputError(f"{role!r} is no role", remedy=", ".join(ROLES))
    if not is_role(role, school):
        raise InputError(f"the role {role} needs a school", remedy="say which school it speaks for")
    if school:
        check_name(school, "school")


def _moment(text: str) -> datetime.datetime:
    """A moment in ISO 8601, UTC where it says nothing else."""
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def find_invitation(members: Members, secret: bytes, code: str) -> StoredInvitation | None:
    """The invitation of a code, used or not; None if the code is made up or was taken back."""
    if is_genuine(secret, INVITATION, code):
        return members.invitation(code_digest(code))
    return StoredInvitation(code_digest(code)) if is_genuine(secret, UNSTORED_INVITATION, code) else None


def join_with_code(members: Members, secret: bytes, key: str, code: str) -> None:
    """Enrols a key for an invitation's code; TrustError if the code is made up, taken back, ended or another's."""
    invitation = find_invitation(members, secret, code)
    if invitation is None:
        raise TrustError("this invitation is not one of ours", where="invitation", remedy=REINVITE)
    members.join(key, invitation)


def may_fetch(members: Members, secret: bytes, key: str, code: str) -> bool:
    """Whether a key may fetch the bundle: a member's, or one that could join with this code."""
    if members.find(key):
        return True
    if (invitation := find_invitation(members, secret, code)) is None:
        return False
    try:
        members.check_usable(key, invitation)
    except TrustError:
        return False
    return True
