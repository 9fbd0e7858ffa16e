"""What was taken away after a backup, read from the lost folder's log and done again: it must outlive a restore.

That is unlearning, void versions, revoked and changed keys, spent and taken-back invitations, withdrawn consents, and
what private releases charged. What was given since the backup (consents, open invitations, versions) is not taken over:
people give it again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeroom.errors import InputError, StoreError
from homeroom.system.sqlite import lock_file
from homeroom_aggregator.admin.folder import LOG_FILE
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import audit, rewinds

BY = "a restore, from the lost log"  # who did it, in the audit log


@dataclass(frozen=True)
class LostActs:
    """Rows by kind (a key of `act_kinds`); `unknown`: the kinds that could not be read."""

    rows: Mapping[str, list[Sequence[Any]]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def read_lost_acts(lost: Path, saved_log: Path, *, private: bool) -> LostActs:
    """What a lost folder's log says, as far as it can be read.

    lost: the folder; its server must be stopped. saved_log: the log in the backup, which the lost one must go on from.
    private: whether its rounds are private.
    Raises InputError where it does not, StoreError where it cannot be told.
    """
    path = lost / LOG_FILE
    if not path.is_file():
        raise InputError("has no log.db", where=str(lost), remedy="name the folder that the backup was made of")
    rows, unknown = dict[str, list[Sequence[Any]]](), list[str]()
    with contextlib.closing(lock_file(path.with_suffix(".lock"))), contextlib.closing(_opened(path)) as log:
        _check_descent(log, path, saved_log)
        for kind, (sql, _) in act_kinds(private).items():
            try:
                rows[kind] = log.execute(sql).fetchall()
            except sqlite3.DatabaseError:
                unknown.append(kind)
    return LostActs(rows, tuple(unknown))


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _check_descent(log: sqlite3.Connection, path: Path, saved_log: Path) -> None:
    """Its audit log must hold the newest entry of the backup's: the chain of digests then proves the entries before."""
    with contextlib.closing(_opened(saved_log)) as saved:
        last = saved.execute("SELECT number, digest FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    try:
        found = last and log.execute("SELECT number, digest FROM audit WHERE number = ?", last[:1]).fetchone()
    except sqlite3.DatabaseError as problem:
        remedy = "restore without --from-lost, and repeat what was taken away since the backup"
        raise StoreError(f"cannot be read: {problem}", where=str(path), remedy=remedy) from None
    if found != last:
        remedy = "name the folder that the backup was made of"
        raise InputError("does not go on from this backup", where=str(path), remedy=remedy)


def do_again(rounds: Rounds, acts: LostActs) -> dict[str, int]:
    """Do in restored rounds what the lost log says was done; how many acts of each kind were new here."""
    kinds = act_kinds(rounds.ledger is not None).items()
    done = {kind: sum(act(rounds, *row) for row in acts.rows.get(kind, ())) for kind, (_, act) in kinds}
    if done[REWIND_KIND]:  # the lost folder had unlearned it already: the model does not hold it for days once more
        rounds.rewind(by=BY, why="it was done there")
    rounds.withdraw_gone()
    return done


def _enrolment(rounds: Rounds, device: str, code: str, revoked: int, *about: Any) -> int:
    """A key that was enrolled since, with the invitation it spent; a key that was revoked or changed since."""
    database, (role, school, _, replaced_by, _) = rounds.log.database, about
    sql = """INSERT OR IGNORE INTO devices (device, code, revoked, role, school, member, replaced_by, joined)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
    if database.write(sql, (device, code, revoked, *about)):
        audit.record(database, "joined", device=device, role=role, school=school, by=BY)
    elif revoked and database.write(
        "UPDATE devices SET revoked = 1, replaced_by = ? WHERE device = ? AND NOT revoked", (replaced_by, device)
    ):
        changed = {"to": replaced_by} if replaced_by else {}
        audit.record(database, "rotated" if replaced_by else "revoked", device=device, by=BY, **changed)
    else:
        return 0
    return 1


def _taken_back(rounds: Rounds, code: str) -> int:
    database = rounds.log.database
    if not database.write("UPDATE invitations SET revoked = 1 WHERE code = ? AND NOT revoked", (code,)):
        return 0
    audit.record(database, "invitation taken back", invitation=code[:16], by=BY)
    return 1


def _consent(rounds: Rounds, school: str, withdrawn: str) -> int:
    database = rounds.log.database
    sql = "UPDATE consents SET withdrawn = ? WHERE school = ? AND withdrawn IS NULL"
    if not database.write(sql, (withdrawn, school)):
        return 0
    audit.record(database, "consent withdrawn", school=school, by=BY)
    return 1


def _unlearning(rounds: Rounds, update_id: str, member: str) -> int:
    if rounds.log.withdrawn_by(update_id, member):
        return 0
    rounds.withdraw(update_id, member)
    return int(rounds.log.withdrawn_by(update_id, member))


def withdraw_again(rounds: Rounds, withdrawn: Iterable[tuple[str, str]]) -> int:
    """Withdraw updates, each with the member that did so, in one step; how many were not withdrawn here yet."""
    fresh = dict[str, list[str]]()
    for update_id, member in withdrawn:
        if not rounds.log.withdrawn_by(update_id, member):
            fresh.setdefault(member, []).append(update_id)
    rounds.withdraw_all(fresh)
    return sum(rounds.log.withdrawn_by(one, member) for member, ids in fresh.items() for one in ids)


def _rewind(rounds: Rounds, to: int, version: int) -> int:
    return int(rewinds.take_over(rounds.log.database, to, min(version, rounds.state.version), by=BY))


def _charge(rounds: Rounds, number: int, event: bytes, devices: str | None) -> int:
    assert rounds.ledger is not None
    return int(rounds.ledger.take_over(number, event, devices.split(",") if devices else ()))


def act_kinds(private: bool) -> Mapping[str, tuple[str, Callable[..., int]]]:
    """The kinds of acts of a district, whose rounds are private or not."""
    return {**ACT_KINDS, **CHARGES} if private else ACT_KINDS


# By kind: what the lost log is asked for, and what does a row of that again; 1 where it was not so yet, else 0.
REWIND_KIND = "rewinds, with the versions that they made void"
ACT_KINDS: dict[str, tuple[str, Callable[..., int]]] = {
    "revoked keys and used invitations": (
        "SELECT device, code, revoked, role, school, member, replaced_by, joined FROM devices ORDER BY rowid",
        _enrolment,
    ),
    "invitations taken back": ("SELECT code FROM invitations WHERE revoked ORDER BY rowid", _taken_back),
    "withdrawn consents": ("SELECT school, withdrawn FROM consents WHERE withdrawn IS NOT NULL", _consent),
    "unlearning": (
        "SELECT update_id, device FROM log WHERE kind IN ('withdraw', 'unlearn') AND update_id IS NOT NULL "
        "ORDER BY number",
        _unlearning,
    ),
    REWIND_KIND: (
        "SELECT json_extract(one.value, '$[2]'), json_extract(one.value, '$[3]') "
        "FROM facts, json_each(CAST(facts.value AS TEXT)) AS one WHERE facts.name = 'rewinds'",
        _rewind,
    ),
    "unlearning of updates on their way": ("SELECT update_id, member FROM early_withdrawals", _unlearning),
}
CHARGE_KIND = "private releases that are charged"
CHARGES: dict[str, tuple[str, Callable[..., int]]] = {
    CHARGE_KIND: (
        """SELECT number, event, (SELECT group_concat(device) FROM entered WHERE entered.number = ledger.number)
           FROM ledger ORDER BY number""",
        _charge,
    )
}
