"""Codes in wrong hands, and names that are none, against the true process."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from conftest import Attack

from aggregator.institution import School, make_folder
from aggregator.state.served import District, knock
from homeroom.cli.main import homeroom
from homeroom.cli.parameters import INVITATION
from homeroom.contract.invitation import as_text, read_invitation
from homeroom.errors import InputError, NetworkError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import (
    make_invitations,
    open_log,
    read_secret,
)
from homeroom_aggregator.state import audit, one_time_codes
from homeroom_aggregator.state.members import Members

# Invitations


def unstored(folder: Path) -> str:
    """A code as they were made before invitations were stored."""
    random = bytes(range(18))
    mac = one_time_codes._mac(read_secret(folder), one_time_codes.UNSTORED_INVITATION, random)
    return base64.urlsafe_b64encode(random + mac).decode()


def spellings(code: str) -> list[str]:
    """The same bytes for a reader that is not strict."""
    return [f"{code}=", f"{code}====", f"{code}\n", f" {code}", f"{code[:20]} {code[20:]}", f"{code[:20]}!{code[20:]}"]


@pytest.mark.attack("who is speaking", "a code that was used: again by another key, or in another spelling")
def test_a_code_enrols_one_key_in_one_spelling(district: District, attack: Attack) -> None:
    (invitation,) = make_invitations(district.folder, district.address, [("", "device")])
    first, thieves = School(), iter(lambda: School(), None)
    for code in (invitation.code, unstored(district.folder)):
        assert not any(knock(next(thieves), invitation, other) for other in spellings(code))
        owner = first if code == invitation.code else School()
        assert knock(owner, invitation, code)
        attack.got += sum(knock(next(thieves), invitation, other) for other in (code, *spellings(code)))
        assert knock(owner, invitation, code), "a lost answer does not lock its device out"
    attack.noticed = "nothing"


@pytest.mark.attack(
    "who is speaking", "a revoked key comes back by its old code, or by a code that was meant for another"
)
def test_a_revoked_key_does_not_come_back(district: District, attack: Attack) -> None:
    old, new = make_invitations(district.folder, district.address, [("", "device")] * 2)
    thief, rotated = School(), School()
    client = Client(join(old, thief.key), thief.key)
    district.run("revoke", district.folder, thief.name)
    attack.got += knock(thief, old, old.code) + knock(thief, old, new.code)
    attack.got += knock(School(), old, old.code)
    honest = Client(join(new, rotated.key), rotated.key)
    honest.rotate(School().key)
    attack.got += knock(rotated, new, new.code)
    with pytest.raises(UpdateError, match="not enrolled"):
        client.round()
    attack.noticed = "a code that was not used yet still enrols whom it was meant for"


@pytest.mark.attack("who is speaking", "an invitation that was taken back, or has ended")
def test_an_invitation_can_be_taken_back_and_ends_by_itself(district: District, tmp_path: Path, attack: Attack) -> None:
    address = ("--address", district.address)
    district.run("invite", district.folder, "--out", tmp_path / "i", "--count", 4, "--qr", *address)
    lost, line, listed, used = (read_invitation(path) for path in sorted((tmp_path / "i").glob("*.json")))
    district.run("invite", district.folder, "--out", tmp_path / "e", "--days", "0.000001", *address)
    district.run("invite", district.folder, "--revoke", tmp_path / "i" / "invitation-1.json")
    district.run("invite", district.folder, "--revoke", as_text(line))
    rows = [json.loads(row) for row in district.run("invite", district.folder, "--list", "--json").splitlines()]
    assert [row["status"] for row in rows] == ["taken back", "taken back", "open", "open", "ended"]
    district.run("invite", district.folder, "--revoke", rows[2]["invitation"][:8])
    for invitation in (lost, line, listed, read_invitation(tmp_path / "e" / "invitation.json")):
        attack.got += knock(School(), invitation, invitation.code)
    assert knock(School(), used, used.code)
    for wrong, why in ((used.code[:3], "is no invitation"), (as_text(used), "was used by"), ("0" * 16, "is no inv")):
        with pytest.raises(InputError, match=why):
            district.run("invite", district.folder, "--revoke", wrong)
    attack.noticed = "nothing"


def test_the_printed_line_is_taken_as_an_argument_and_from_standard_input(tmp_path: Path) -> None:
    invitations = make_invitations(make_folder(tmp_path), "https://d.example", [("", "device")] * 3)
    wrong = as_text(invitations[0])
    for given, said in (
        (f"{wrong}=", "cut short"),
        (wrong[:90], "cut short"),
        (f"{wrong[:30]} {wrong[30:]}", "cut short"),
    ):
        with pytest.raises(InputError, match=said):
            read_invitation(given)
    for given, source in (("-", as_text(invitations[0]) + "\n"), ("-", msgspec.json.encode(invitations[1]).decode())):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.encode())))
            assert read_invitation(INVITATION.convert(given, None, None)) in invitations
    assert read_invitation(INVITATION.convert(as_text(invitations[2]), None, None)) == invitations[2]
    with pytest.raises(InputError, match="update homeroom"):
        read_invitation(as_text(msgspec.structs.replace(invitations[0], format=2)))


# Names

WRONG_NAMES = ("", "   ", "x" * 5000, "Hill\x1b[31m School", "Hill\nSchool", "a\u202eb", " Hill", "\x7f", "a\u2028b")


def recorded(folder: Path) -> list[Any]:
    """Members, schools, invitations and the last entry of the audit log."""
    with contextlib.closing(open_log(folder)) as log:
        members = Members(log.database)
        return [members.every(), members.schools(), members.invitations(), list(audit.records(log.database))[-1]]


@pytest.mark.parametrize("name", WRONG_NAMES, ids=lambda name: ascii(name)[:20])
def test_a_name_is_one_line_of_printable_text_wherever_it_comes_in(
    name: str, tmp_path: Path, district: District
) -> None:
    folder, ask = district.folder, CliRunner().invoke
    office = district.enrol("Hill School", "school")
    before = recorded(folder)
    for words in (
        ("invite", folder, "--school", name, "--out", tmp_path / "i"),
        ("invite", folder, "--school", "Lake", "--consent", name, "--out", tmp_path / "i"),
        ("consent", folder, "Hill School", "--by", name),
        ("consent", folder, name, "--by", "head"),
        ("go-back", folder, 0, "--by", name, "--why", "worse"),
        ("serve", tmp_path / "n", "--institution", name, "--bundle", tmp_path / "bundle", "--root-key", "k"),
    ):
        assert ask(homeroom, ["district", *map(str, words)]).exit_code != 0, words
    sheet = tmp_path / "schools.csv"
    sheet.write_text(f'school,devices\n"{name}",1\n')
    if name == name.strip():  # a cell's own spaces are left out
        assert (
            ask(homeroom, ["district", "invite", str(folder), "--csv", str(sheet), "--out", str(tmp_path)]).exit_code
            != 0
        )
    with pytest.raises(InputError):
        make_invitations(folder, district.address, [(name or " ", "device")])
    with pytest.raises(InputError):
        make_folder(tmp_path / "another", name=name)
    for body in (
        {"school": "Hill School", "by": name, "action": "give"},
        {"school": name, "by": "x", "action": "give"},
    ):
        with pytest.raises((NetworkError, InputError, UpdateError)):
            office.send("POST", "/v1/consent", msgspec.json.encode(body))
    assert not list(tmp_path.glob("*.json"))
    assert recorded(folder) == before, "nothing was changed"


@pytest.mark.parametrize(
    "words",
    [
        ("district", "invite", "FOLDER", "--school"),
        ("district", "consent", "FOLDER", "Hill School", "--by"),
        ("district", "revoke", "FOLDER"),
        ("district", "invite", "FOLDER", "--address"),
        ("trust", "roster", "r.json", "--key", "k.pem", "--serial", "1", "--institution"),
        ("device", "join", "d"),
        ("device", "add", "d"),
    ],
    ids=" ".join,
)
def test_an_argument_that_is_not_utf_8_is_one_clear_error(words: tuple[str, ...], tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    typed = [str(folder) if word == "FOLDER" else word for word in words]
    command = [sys.executable, "-m", "homeroom", *typed, b"caf\xff"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, errors="replace")
    assert done.returncode in (2, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
