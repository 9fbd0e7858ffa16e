"""What a district refuses of keys, members and files that do not belong together; nothing of it changes anything."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aggregator.institution import ROOT, School, make_folder
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, new_key, write_key
from homeroom.errors import HomeroomError, InputError, StoreError, TrustError, UpdateError
from homeroom_aggregator.admin import folder as district
from homeroom_aggregator.admin.folder import create_folder, make_invitations, open_rounds
from homeroom_aggregator.admin.invitations import InvitationRequest, plan_files
from homeroom_aggregator.admin.offline import load_sealing_key
from homeroom_aggregator.admin.reach import invited
from homeroom_aggregator.merge import bounded, segment_sums
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.merge.segment_sums import WaitingUpdate
from homeroom_aggregator.state.members import Members, StoredInvitation, join_with_code

HILL, LAKE = School(), School()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A district of two devices, with an update of the one that waits."""
    where = make_folder(tmp_path)
    with closing(open_rounds(where)) as rounds:
        for school, name in ((HILL, "Hill"), (LAKE, "Lake")):
            (invitation,) = make_invitations(where, "http://d.example", [(name, "device")], consents={name: "letter"})
            join_with_code(rounds.members, district.read_secret(where), school.name, invitation.code)
        rounds.update(HILL.update(rounds.configuration), HILL.name)
    return where


@pytest.fixture
def rounds(folder: Path) -> Iterator[Rounds]:
    with closing(open_rounds(folder)) as opened:
        yield opened


REFUSED: dict[str, tuple[Callable[[Members], object], type[HomeroomError], str]] = {
    "a new key of nobody": (lambda m: m.rotate(School().name, School().name), TrustError, "is not enrolled"),
    "another's key as the new one": (lambda m: m.rotate(HILL.name, LAKE.name), TrustError, "was used before"),
    "nobody's key": (lambda m: m.revoke(School().name, "Ms Lee"), InputError, "is no enrolled key"),
    "no key": (lambda m: m.revoke("", "Ms Lee"), InputError, "beginning of several keys"),
    "the consent of a school that gave none": (
        lambda m: m.withdraw_consent("Moor", "Ms Lee"),
        InputError,
        "has given no consent",
    ),
    "a role that is none": (
        lambda m: m.invite([StoredInvitation("c" * 64, "owner", "Hill")]),  # type: ignore[arg-type]
        InputError,
        "role",
    ),
    "a beginning that is too short": (lambda m: m.take_back("", "Ms Lee"), InputError, "is no invitation"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_asked_of_members_is_refused_and_changes_nothing(case: str, rounds: Rounds) -> None:
    ask, error, why = REFUSED[case]
    tables = ("devices", "invitations", "consents", "audit")
    before = [rounds.log.database.rows(f"SELECT * FROM {table}") for table in tables]
    with pytest.raises(error, match=why):
        ask(rounds.members)
    assert [rounds.log.database.rows(f"SELECT * FROM {table}") for table in tables] == before


def test_a_key_and_a_certificate_that_do_not_belong_together_serve_nothing(folder: Path, tmp_path: Path) -> None:
    key = new_key()
    with pytest.raises(TrustError, match="for another key"):
        create_folder(
            tmp_path / "new",
            tmp_path / "bundle",
            institution="D",
            key=new_key(),
            certificate=certify(ROOT, "aggregator", key, "D"),
            configuration=RoundConfiguration(bundle_id="0" * 64),
        )
    assert not (tmp_path / "new").exists()
    (folder / district.KEY_FILE).unlink()
    write_key(folder / district.KEY_FILE, key)
    with pytest.raises(TrustError, match="do not belong together"):
        open_rounds(folder)


def test_a_sealing_key_of_another_kind_is_refused(folder: Path) -> None:
    write_key(folder / district.SEALING_KEY_FILE, new_key())
    with pytest.raises(StoreError, match="not an X25519 key"):
        load_sealing_key(folder)


def test_invitations_go_to_addresses_and_are_bounded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an address"):
        invited(folder, "d.example")
    with pytest.raises(InputError, match="10,001 invitations at once"):
        plan_files([InvitationRequest("Hill", 10_001, "device", "")], tmp_path)


def changed(folder: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(folder / district.LOG_FILE)) as log, log:
        log.execute(sql, values)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("INSERT INTO versions VALUES (7, 9, x'00')", "versions and log do not agree"),
        ("DELETE FROM bodies", "lost its body"),
    ],
)
def test_a_log_whose_tables_contradict_each_other_is_not_served(sql: str, why: str, folder: Path) -> None:
    changed(folder, "DELETE FROM checkpoints")
    changed(folder, sql)
    with pytest.raises(StoreError, match=why):
        open_rounds(folder).close()


def test_no_sum_holds_more_weight_than_its_integers_bear(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    before, pending = dict(rounds.state.sums.weights), rounds.state.pending
    monkeypatch.setattr(segment_sums, "WEIGHT_LIMIT", max(before.values()) + 1)
    with pytest.raises(UpdateError, match="units of weight") as refused:
        rounds.update(LAKE.update(rounds.configuration), LAKE.name)
    assert refused.value.code == "full"
    monkeypatch.setattr(bounded, "MOST_WAITING", 0)
    with pytest.raises(UpdateError, match="wait already"):
        bounded.wait(rounds.state.sums, 1, WaitingUpdate(update_id="a", member="m", units=1, norms={}))
    assert (rounds.state.sums.weights, rounds.state.pending) == (before, pending)
    with pytest.raises(UpdateError, match="units of weight"):
        rounds.state.sums.add_sum({}, {name: 2 for name in before}, {})
