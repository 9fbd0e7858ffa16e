"""Members against others, over HTTP and against the true process: withdrawals, revoked keys, consent, roles."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from conftest import Attack

from aggregator.institution import School
from aggregator.state.served import District, knock, made, payload
from homeroom.cli.main import homeroom
from homeroom.contract.signing import public_hex
from homeroom.errors import InputError, NetworkError, TrustError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import (
    make_invitations,
    open_log,
)
from homeroom_aggregator.server.routes import API_ROUTES, ApiRoute
from homeroom_aggregator.state.members import ROLES, Members


@pytest.mark.attack("members", "withdrawing another's update, before it comes and while it waits")
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


@pytest.mark.attack("members", "an update that was withdrawn while it waits: read it on disk, or in the next version")
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


@pytest.mark.attack("members", "a revoked key's waiting update, which another process revokes while the server runs")
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


def test_a_revoked_keys_update_goes_from_a_server_that_nobody_asks_anything_and_from_one_that_is_stopped(
    district: District, tmp_path: Path
) -> None:
    thief, second = district.enrol(), district.enrol()
    data, other = made(thief, 8.0)[1], made(second, 4.0)[1]
    assert (thief.update(data), second.update(other)) == ("accepted", "accepted")
    district.run("revoke", district.folder, public_hex(thief.key))
    until = time.monotonic() + 60
    while payload(data) in district.files() and time.monotonic() < until:
        time.sleep(0.2)
    assert payload(data) not in district.files()
    stopped = tmp_path / "stopped"
    shutil.copytree(district.folder, stopped)
    done = CliRunner().invoke(homeroom, ["district", "revoke", str(stopped), public_hex(second.key)])
    assert done.exit_code == 0, done.output
    assert payload(other) not in b"".join(path.read_bytes() for path in stopped.glob("log.db*"))


@pytest.mark.attack("members", "a waiting update of a school that has taken its consent back")
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


# Rights

# Routes where a `school` sees or changes its own alone.
OWN_SCHOOL_ONLY = {"/members", "/consent", "/revoke", "/withdraw"}


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


@pytest.mark.attack("members", "a right that one's role lacks, on every route")
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


@pytest.mark.attack("members", "an officer against officers of its own rank or higher")
def test_nobody_revokes_their_own_rank_or_higher(district: District, attack: Attack) -> None:
    people = {role: [district.enrol("Hill School", role) for _ in range(2)] for role in ROLES}
    elsewhere, head = district.enrol("Lake School"), people["school"][0]
    may = {"district": {"device", "school", "auditor"}, "school": {"device"}}
    for role, (officer, _) in people.items():
        for other in set(ROLES) - may.get(role, set()):
            attack.got += did(officer, "revoke", device=public_hex(people[other][1].key))
    for action in ("give", "withdraw"):
        attack.got += did(head, "consent", school="Lake School", by="me", action=action)
    attack.got += did(head, "withdraw", school="Lake School", why="theirs")
    attack.got += did(head, "withdraw", device=public_hex(elsewhere.key), why="theirs")
    attack.got += did(head, "revoke", device=public_hex(elsewhere.key))
    for _, victim in people.values():
        assert victim.round()
    for other in ("device", "school", "auditor"):
        act(people["district"][0], "revoke", device=public_hex(people[other][1].key))
        with pytest.raises(UpdateError, match="not enrolled"):
            people[other][1].round()
    attack.noticed = "nothing"


@pytest.mark.attack("members", "the role of a school without a school: invited, stored, or at login")
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
