"""Members against others, over HTTP and against the true process: withdrawals, revoked keys, consent, codes, roles."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from conftest import Attack

from aggregator.institution import SEGMENTS, START, School, make_folder
from aggregator.server.test_kill import kill, start
from homeroom.cli.main import homeroom
from homeroom.cli.parameters import INVITATION
from homeroom.contract.invitation import Invitation, as_text, read_invitation
from homeroom.contract.layout import Layout
from homeroom.contract.signing import public_hex
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import read_version
from homeroom.errors import InputError, NetworkError, TrustError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import (
    make_invitations,
    open_folder_bundle,
    open_log,
    open_rounds,
    read_facts,
    read_secret,
)
from homeroom_aggregator.server.routes import API_ROUTES, ApiRoute
from homeroom_aggregator.state import audit, one_time_codes
from homeroom_aggregator.state.members import ROLES, Members, Role


@dataclass
class District:
    """`homeroom district serve` in its own process. `clients`: as they joined."""

    folder: Path
    address: str

    def enrol(self, school: str = "", role: Role = "device") -> Client:
        consents = {school: "letter"} if school else None
        (invitation,) = make_invitations(self.folder, self.address, [(school, role)], consents=consents)
        key = School().key
        return Client(join(invitation, key), key)

    def run(self, *words: object) -> str:
        done = CliRunner().invoke(homeroom, ["district", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def files(self) -> bytes:
        """Every byte of the log on disk, its write-ahead log included."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("log.db*")))

    def moved(self, client: Client) -> float:
        """How far the newest version is from the bundle's theta, at one shared value."""
        facts = read_facts(self.folder)
        layout = open_folder_bundle(self.folder, facts).manifest.layout
        body = client.send("GET", "/v1/versions/latest")
        _, theta = read_version(body, layout, bundle_id=facts.bundle_id, root_fingerprint=facts.root)
        return float(theta[0] - START[0])


@pytest.fixture
def district(tmp_path: Path) -> Iterator[District]:
    folder = make_folder(tmp_path, buffer_size=3, min_devices=2)
    process, address = start(folder)
    try:
        yield District(folder, address)
        process.terminate()
        process.wait(20)
        with contextlib.closing(open_rounds(folder)) as rounds:
            assert rounds.verify() == []
    finally:
        kill(process)


def made(client: Client, delta: float = 0.5, base: int = 0) -> tuple[str, bytes]:
    """An update's id and its bytes."""
    configuration = client.round()
    data = School(client.key).update(configuration, delta, base)
    return read_update(data, configuration, Layout(SEGMENTS)).header.update_id, data


def payload(data: bytes) -> bytes:
    """Some bytes of an update's signature, which are in no other place."""
    return data[-32:]


@pytest.mark.attack("member", "withdrawing another's update, before it comes and while it waits")
def test_nobody_withdraws_anothers_update(district: District, attack: Attack) -> None:
    thief, victim, third = district.enrol(), district.enrol(), district.enrol()
    update_id, data = made(victim)
    thief.unlearn(update_id)  # its answer says nothing of whether there is such an update
    attack.got += victim.update(data) != "accepted"
    thief.unlearn(update_id)
    attack.got += victim.update(data) != "already"
    for client in (thief, third):
        assert client.update(made(client)[1]) == "accepted"
    assert district.moved(victim) == pytest.approx(0.5), "of three updates, none is missing"
    with contextlib.closing(open_log(district.folder)) as log:
        attack.got += log.count("withdraw")
    attack.noticed = "the victim's update is in the version"


def test_what_its_own_maker_withdraws_before_it_comes_stays_out(district: District) -> None:
    client = district.enrol()
    update_id, data = made(client)
    client.unlearn(update_id)
    assert client.update(data) == "already"
    with contextlib.closing(open_log(district.folder)) as log:
        assert log.count("update") == 0


@pytest.mark.attack("member", "an update that was withdrawn while it waits: read it on disk, or in the next version")
def test_what_is_withdrawn_while_it_waits_is_erased_and_never_enters_a_version(
    district: District, attack: Attack
) -> None:
    client, *others = (district.enrol() for _ in range(4))
    update_id, data = made(client, 8.0)
    assert client.update(data) == "accepted"
    assert payload(data) in district.files()
    client.unlearn(update_id)
    attack.got += payload(data) in district.files()
    for other in others:
        other.update(made(other)[1])
    assert district.moved(client) == pytest.approx(0.5)
    attack.noticed = "nothing; the three others make the version"


@pytest.mark.attack("member", "a revoked key's waiting update, which another process revokes while the server runs")
def test_a_waiting_update_goes_at_once_with_its_key(district: District, attack: Attack) -> None:
    thief, *others = (district.enrol() for _ in range(4))
    data = made(thief, 8.0)[1]
    assert thief.update(data) == "accepted"
    district.run("revoke", district.folder, public_hex(thief.key)[:12])
    assert others[0].update(made(others[0])[1]) == "accepted"
    attack.got += payload(data) in district.files()
    for other in others[1:]:
        other.update(made(other)[1])
    attack.got += district.moved(others[0]) != pytest.approx(0.5)
    with pytest.raises(UpdateError, match="not enrolled"):
        thief.update(data)
    attack.noticed = "nothing; three others make the version"


@pytest.mark.attack("member", "a waiting update of a school that has taken its consent back")
def test_a_waiting_update_goes_at_once_with_its_schools_consent(district: District, attack: Attack) -> None:
    pupil_side, office = district.enrol("Hill School"), district.enrol("Hill School", "school")
    others = [district.enrol() for _ in range(3)]
    data = made(pupil_side, 8.0)[1]
    assert pupil_side.update(data) == "accepted"
    office.send("POST", "/v1/consent", b'{"school": "Hill School", "by": "head", "action": "withdraw"}')
    attack.got += payload(data) in district.files()
    for other in others:
        other.update(made(other)[1])
    attack.got += district.moved(pupil_side) != pytest.approx(0.5)
    attack.noticed = "the school still gets the version"


# Invitations


def knock(client_key: School, invitation: Invitation, code: str) -> bool:
    """Whether a key gets in with a code, as it is spelled."""
    try:
        join(msgspec.structs.replace(invitation, code=code), client_key.key)
    except TrustError:
        return False
    return True


def unstored(folder: Path) -> str:
    """A code as they were made before invitations were stored."""
    random = bytes(range(18))
    mac = one_time_codes._mac(read_secret(folder), one_time_codes.UNSTORED_INVITATION, random)
    return base64.urlsafe_b64encode(random + mac).decode()


def spellings(code: str) -> list[str]:
    """The same bytes for a reader that is not strict."""
    return [f"{code}=", f"{code}====", f"{code}\n", f" {code}", f"{code[:20]} {code[20:]}", f"{code[:20]}!{code[20:]}"]


@pytest.mark.attack("stranger", "a code that was used: again by another key, or in another spelling")
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


@pytest.mark.attack("stranger", "a revoked key comes back by its old code, or by a code that was meant for another")
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


@pytest.mark.attack("stranger", "an invitation that was taken back, or has ended")
def test_an_invitation_can_be_taken_back_and_ends_by_itself(district: District, tmp_path: Path, attack: Attack) -> None:
    address = ("--address", district.address)
    district.run("invite", district.folder, "--out", tmp_path / "i", "--count", 4, "--qr", *address)
    lost, line, listed, used = (read_invitation(path) for path in sorted((tmp_path / "i").glob("*.json")))
    district.run("invite", district.folder, "--out", tmp_path / "e", "--days", "0.000001", *address)
    district.run("invite", district.folder, "--revoke", tmp_path / "i" / "invitation-1.json")
    district.run("invite", district.folder, "--revoke", as_text(line))
    rows = [json.loads(row) for row in district.run("invite", district.folder, "--list").splitlines()]
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


# Rights

OWN_SCHOOL_ONLY = {"/members", "/consent", "/revoke"}  # of the routes, where a `school` sees or changes its own alone


def some_path(path: str) -> str:
    values = {"bundle_id": "0" * 64, "round": "0" * 64, "phase": "keys"}
    return "/v1" + re.sub(r"\{(\w+)(:number)?\}", lambda match: values.get(match[1], "0"), path)


def refused(client: Client, route: ApiRoute) -> str:
    """The code with which a route refuses a client; empty where it answers."""
    try:
        client.send(route.method, some_path(route.path), b"{}" if route.method == "POST" else b"")
    except (NetworkError, UpdateError, TrustError, InputError) as problem:
        return str(problem)
    return ""


@pytest.mark.attack("member", "a right that one's role lacks, on every route")
def test_each_right_is_refused_to_each_role_that_lacks_it(district: District, attack: Attack) -> None:
    clients = {role: district.enrol("Hill School", role) for role in ROLES}
    stranger = Client(clients["device"].enrolment, School().key)
    tried = 0
    for route in (route for route in API_ROUTES if route.signed and route.roles):
        for role in ROLES:
            said = refused(clients[role], route)
            lacks = f"not for a member with the role {role}"
            if role not in route.roles:
                tried += 1
                attack.got += lacks not in said
            else:
                assert lacks not in said, (route.path, role)
        attack.got += "not enrolled" not in refused(stranger, route)
    assert tried >= 25
    assert {
        route.path for route in API_ROUTES if "school" in route.roles and len(route.roles) < len(ROLES)
    } == OWN_SCHOOL_ONLY
    attack.noticed = "nothing"


def act(client: Client, path: str, **body: str) -> Any:
    return msgspec.json.decode(client.send("POST", f"/v1/{path}", msgspec.json.encode(body)))


def did(client: Client, path: str, **body: str) -> bool:
    """Whether an officer's request is done."""
    try:
        act(client, path, **body)
    except (NetworkError, UpdateError, InputError):
        return False
    return True


@pytest.mark.attack("member", "an officer against officers of its own rank or higher")
def test_nobody_revokes_their_own_rank_or_higher(district: District, attack: Attack) -> None:
    people = {role: [district.enrol("Hill School", role) for _ in range(2)] for role in ROLES}
    elsewhere, head = district.enrol("Lake School"), people["school"][0]
    may = {"district": {"device", "school", "auditor"}, "school": {"device"}}
    for role, (officer, _) in people.items():
        for other in set(ROLES) - may.get(role, set()):
            attack.got += did(officer, "revoke", device=public_hex(people[other][1].key))
    for action in ("give", "withdraw"):
        attack.got += did(head, "consent", school="Lake School", by="me", action=action)
    attack.got += did(head, "revoke", device=public_hex(elsewhere.key))
    for _, victim in people.values():
        assert victim.round()
    for other in ("device", "school", "auditor"):
        act(people["district"][0], "revoke", device=public_hex(people[other][1].key))
        with pytest.raises(UpdateError, match="not enrolled"):
            people[other][1].round()
    attack.noticed = "nothing"


@pytest.mark.attack("member", "the role of a school without a school: invited, stored, or at login")
def test_the_role_of_a_school_without_a_school_is_none(district: District, attack: Attack) -> None:
    with pytest.raises(InputError, match="needs a school"):
        make_invitations(district.folder, district.address, [("", "school")])
    done = CliRunner().invoke(homeroom, ["district", "invite", str(district.folder), "--role", "school"])
    assert done.exit_code != 0
    office, (invitation,) = (
        district.enrol("Hill School", "school"),
        make_invitations(district.folder, district.address, [("Hill School", "school")]),
    )
    with contextlib.closing(open_log(district.folder)) as log:  # as an older version could have stored it
        log.database.write("UPDATE devices SET school = '' WHERE role = 'school'")
        log.database.write("UPDATE invitations SET school = '' WHERE role = 'school'")
    attack.got += knock(School(), invitation, invitation.code)
    for route in (route for route in API_ROUTES if route.signed and "school" in route.roles):
        attack.got += "not enrolled" not in refused(office, route)
    attack.noticed = "nothing"


# Consent


def test_consent_is_recorded_only_for_a_school_that_somebody_was_invited_for(district: District) -> None:
    officer = district.enrol("", "district")
    make_invitations(district.folder, district.address, [("Hill School", "device")])
    with pytest.raises(InputError, match="did you mean Hill School"):
        district.run("consent", district.folder, "Hil School", "--by", "Ms Lee")
    with pytest.raises((NetworkError, InputError, UpdateError), match="no school here"):
        act(officer, "consent", school="Hill Schol", by="Ms Lee", action="give")
    with contextlib.closing(open_log(district.folder)) as log:
        assert [row["given_by"] for row in Members(log.database).schools()] == [None]
    assert act(officer, "consent", school="Hill School", by="Ms Lee", action="give")["consented"]


def test_a_school_without_consent_still_gets_versions_and_only_its_updates_wait(district: District) -> None:
    (invitation,) = make_invitations(district.folder, district.address, [("Hill School", "device")])
    key = School().key
    client = Client(join(invitation, key), key)
    others = [district.enrol() for _ in range(3)]
    data = made(client, 8.0)[1]
    with pytest.raises(UpdateError) as caught:
        client.update(data)
    assert caught.value.code == "no_consent"
    for other in others:
        other.update(made(other)[1])
    assert district.moved(client) == pytest.approx(0.5)
    district.run("consent", district.folder, "Hill School", "--by", "Ms Lee")
    assert client.update(data) == "accepted", "it waited on the device"
