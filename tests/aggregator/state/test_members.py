"""Who belongs: invitations with an end, schools and consent, roles, new keys, twins, limits, and the audit log."""

from __future__ import annotations

import datetime
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from aggregator.institution import ROOT, School, enrol, make_folder, running
from homeroom.cli.main import homeroom
from homeroom.contract.invitation import Enrolment, Invitation, as_text, read_invitation
from homeroom.contract.signing import certify, new_key, public_hex, write_key
from homeroom.errors import InputError, NetworkError, StoreError, TrustError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.configuration import DeviceLimits
from homeroom_aggregator.admin.folder import invite_devices, recover_key
from homeroom_aggregator.server import auth
from homeroom_aggregator.server.rate_limits import DAY_S, RateMeter
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import audit, members, one_time_codes


def update(client: Client) -> str:
    return client.update(School(client.key).update(client.round(), 0.5))


def ask(client: Client, method: str, path: str, **body: str) -> Any:
    return msgspec.json.decode(client.send(method, f"/v1/{path}", msgspec.json.encode(body) if body else b""))


def events(service: Service) -> list[str]:
    return [entry.event for entry in audit.records(service.rounds.log.database)]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(homeroom, [str(a) for a in arguments])


def test_an_invitation_ends_by_the_servers_clock(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = (members.now() + datetime.timedelta(days=1)).isoformat()
    enrol(service, address, expires=soon)
    later = members.now() + datetime.timedelta(days=2)
    monkeypatch.setattr(members, "now", lambda: later)
    with pytest.raises(TrustError, match="ended at"):
        enrol(service, address, expires=soon)


def test_an_invitation_of_before_there_were_schools_still_enrols(service: Service, address: str) -> None:
    folder = service.rounds.log.database.path.parent
    (invitation,) = invite_devices(folder, address, 1)
    random = bytes(18)
    code = auth.base64.urlsafe_b64encode(
        random + one_time_codes._mac(service.secret, one_time_codes.UNSTORED_INVITATION, random)
    ).decode()
    school = School()
    client = Client(join(msgspec.structs.replace(invitation, code=code), school.key), school.key)
    assert update(client) == "accepted"


def test_no_update_of_a_school_counts_before_its_consent(service: Service, address: str, tmp_path: Path) -> None:
    client = enrol(service, address, "Hill School")
    with pytest.raises(UpdateError) as caught:
        update(client)
    assert caught.value.code == "no_consent"
    assert service.rounds.log.count("update") == 0
    folder = tmp_path / "district"
    assert run("district", "consent", folder, "Hill School", "--by", "Ms Lee").exit_code == 0
    assert update(client) == "accepted"
    assert run("district", "consent", folder, "Hill School", "--by", "Ms Lee", "--withdraw").exit_code == 0
    with pytest.raises(UpdateError, match="has not consented"):
        update(client)
    assert [e for e in events(service) if e.startswith("consent")] == ["consent given", "consent withdrawn"]


def test_each_role_may_do_its_own_things_only(service: Service, address: str) -> None:
    pupil_side = enrol(service, address, "Hill School", consents={"Hill School": "letter"})
    other = enrol(service, address, "Lake School")
    office = enrol(service, address, "Hill School", "school")
    district, auditor = enrol(service, address, "", "district"), enrol(service, address, "", "auditor")
    assert {m["school"] for m in ask(office, "GET", "members")["members"]} == {"Hill School"}
    assert len(ask(auditor, "GET", "members")["members"]) == 5
    for client, method, path, body in (
        (pupil_side, "GET", "members", {}),
        (office, "GET", "audit/0", {}),
        (auditor, "POST", "revoke", {"device": public_hex(other.key)}),
        (office, "POST", "revoke", {"device": public_hex(other.key)}),
        (office, "POST", "consent", {"school": "Lake School", "by": "me", "action": "give"}),
    ):
        with pytest.raises((NetworkError, UpdateError)):
            ask(client, method, path, **body)
    with pytest.raises(NetworkError, match="role school"):
        update(office)
    assert ask(office, "POST", "consent", school="Hill School", by="head", action="withdraw")["consented"] is False
    ask(office, "POST", "revoke", device=public_hex(pupil_side.key))
    with pytest.raises(UpdateError) as caught:
        pupil_side.round()
    assert caught.value.code == "unknown_device"
    found = [audit.AuditRecord(**entry) for entry in ask(auditor, "GET", "audit/0")["records"]]
    assert found[-1].event == "revoked"
    assert found[-1].about["by"] == public_hex(office.key)
    assert ask(district, "GET", f"audit/{found[-2].number}")["records"][0]["digest"] == found[-1].digest


def test_a_new_key_takes_the_old_ones_place_and_counts_as_the_same_device(service: Service, address: str) -> None:
    client, fresh = enrol(service, address), new_key()
    waiting = School(client.key).update(client.round(), 0.5)
    old, stolen = (Client(client.enrolment, client.key) for _ in range(2))
    client.rotate(fresh)
    old.rotate(fresh)  # asked again, as after a cut
    assert client.update(waiting) == "accepted", "signed before by the old key"
    with pytest.raises(UpdateError, match="version 0 already"):  # one device, whatever key it has
        update(client)
    assert service.rounds.state.version == 0
    with pytest.raises(UpdateError) as caught:
        stolen.round()
    assert caught.value.code == "unknown_device"
    assert service.rounds.verify() == []


def test_nobody_rotates_to_a_key_they_do_not_hold(service: Service, address: str) -> None:
    client, other = enrol(service, address), enrol(service, address)
    with pytest.raises(TrustError):
        ask(client, "POST", "rotate", key=public_hex(new_key()), proof="0" * 128)
    with pytest.raises(TrustError, match="used before"):
        client.rotate(other.key)


def test_one_key_on_two_machines_at_once_is_noticed(service: Service, address: str) -> None:
    first = enrol(service, address)
    second = Client(first.enrolment, first.key)
    first.round()
    assert "twin" not in events(service), "a new client of one machine is no twin"
    second.round()
    first.round()
    assert events(service).count("twin") == 1
    second.round()
    assert events(service).count("twin") == 1


def test_one_key_on_two_machines_in_turn_is_noticed(service: Service, address: str) -> None:
    first = enrol(service, address)
    for machine in ("a", "a", "b"):
        Client(first.enrolment, first.key, instance=machine).round()
    assert "twin" not in events(service), "a device may move, once"
    assert events(service)[-1] == "moved"
    Client(first.enrolment, first.key, instance="a").round()
    assert events(service)[-1] == "twin"
    member = service.members.find(public_hex(first.key))
    assert member is not None
    assert member.twin


def test_the_instance_is_part_of_what_is_signed(service: Service, address: str) -> None:
    class Liar(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if "homeroom-instance" in request.headers:
                request.headers["homeroom-instance"] = "another"
            return httpx.HTTPTransport().handle_request(request)

    first = enrol(service, address)
    with pytest.raises(NetworkError, match="the request's signature does not hold"):
        Client(first.enrolment, first.key, transport=Liar(), instance="mine").round()


def test_the_servers_time_is_signed_for_this_request(service: Service, address: str) -> None:
    client = enrol(service, address)
    client.round()
    assert client.server_time is not None
    assert abs((members.now() - client.server_time).total_seconds()) < 60


def test_too_many_requests_wait_and_a_days_updates_are_bounded(service: Service, address: str) -> None:
    client = enrol(service, address)
    service.meter = RateMeter(DeviceLimits(requests_a_minute=1, burst=4, updates_a_day=1, mb_a_day=0))
    data = School(client.key).update(client.round(), 0.5)
    assert client.update(data) == "accepted"
    with pytest.raises(NetworkError, match="day's updates"):
        update(client)
    with pytest.raises(NetworkError, match="too many requests"):
        client.round()
    assert service.rounds.log.count("update") == 1


def test_a_new_key_is_no_new_day(service: Service, address: str) -> None:
    client = enrol(service, address)
    service.meter = RateMeter(DeviceLimits(requests_a_minute=0, updates_a_day=1))
    assert update(client) == "accepted"
    client.rotate(new_key())
    with pytest.raises(NetworkError, match="day's updates"):
        update(client)


def test_a_bucket_fills_again_and_a_day_ends() -> None:
    clock = [0.0]
    meter = RateMeter(DeviceLimits(requests_a_minute=60, burst=2, updates_a_day=1, mb_a_day=1), lambda: clock[0])
    assert [meter.request("a") > 0 for _ in range(3)] == [False, False, True]
    clock[0] = 1.0
    assert meter.request("a") == 0
    assert meter.room("a", 2_000_000) > 0
    meter.accepted("a", 10)
    assert meter.room("a", 1) > 0
    clock[0] = DAY_S + 1
    assert meter.room("a", 1) == 0


def test_a_nonce_serves_once_whom_it_was_given_to_and_not_for_ever() -> None:
    clock = [0.0]
    nonces = auth.Nonces(lambda: clock[0])
    mine, open_ = nonces.new("a"), nonces.new()
    assert not nonces.use(mine, "b")
    assert nonces.use(mine, "a")
    assert not nonces.use(mine, "a")
    assert nonces.use(open_, "b")
    old = nonces.new("a")
    clock[0] = nonces.life_s + 1
    assert not nonces.use(old, "a")
    assert not any(nonces.use(made_up, "a") for made_up in ("", "A" * 48, "é", mine[:-4] + "AAA="))


def test_a_lost_key_is_replaced_by_the_roots_word(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    service = open_service(folder)
    with running(service) as address:
        enrolment: Enrolment = (client := enrol(service, address)).enrolment
    service.close()
    fresh = new_key()
    stranger = certify(new_key(), "aggregator", fresh, "thief")
    with pytest.raises(TrustError):
        recover_key(folder, fresh, stranger)
    write_key(tmp_path / "new.pem", fresh)
    word = certify(ROOT, "aggregator", fresh, "District 7")
    (tmp_path / "new.json").write_bytes(msgspec.json.encode(word))
    arguments = ("district", "recover", folder, "--key", tmp_path / "new.pem", "--certificate", tmp_path / "new.json")
    assert run(*arguments).exit_code == 0
    again = open_service(folder)
    with running(again) as address:
        moved = Client(msgspec.structs.replace(enrolment, address=address), client.key)
        assert update(moved) == "accepted"
        assert events(again)[-1] == "recovered"
    again.close()


def test_the_audit_log_cannot_be_changed_unnoticed(service: Service, address: str, tmp_path: Path) -> None:
    folder = tmp_path / "district"
    enrol(service, address)
    database = service.rounds.log.database
    count, noted, wrong = audit.verify(database)
    assert (count, wrong) == (2, None)
    with pytest.raises(Exception, match="append only"):
        database.write("UPDATE audit SET about = '{}' WHERE number = 1")
    assert run("district", "audit", "verify", folder, "--noted", noted).exit_code == 0
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER audit_is_never_cut")
        raw.execute("DELETE FROM audit WHERE number = 2")
    assert run("district", "audit", "verify", folder).exit_code == 0, "a cut end cannot be seen by the chain alone"
    with pytest.raises(StoreError, match="noted digest"):
        CliRunner().invoke(
            homeroom, ["district", "audit", "verify", str(folder), "--noted", noted], catch_exceptions=False
        )
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER audit_is_never_changed")
        raw.execute("UPDATE audit SET about = '{}' WHERE number = 1")
    with pytest.raises(StoreError, match="entry 1 is not as it was written"):
        CliRunner().invoke(homeroom, ["district", "audit", "verify", str(folder)], catch_exceptions=False)


def test_many_schools_are_invited_from_a_sheet_after_a_dry_run(tmp_path: Path) -> None:
    folder, out, sheet = make_folder(tmp_path), tmp_path / "out", tmp_path / "schools.csv"
    sheet.write_text(
        "school,devices,role,consent\nHill School,2,,\nLake/../School,1,device,letter 7\nHill School,1,school,\n"
    )
    common = (
        "district",
        "invite",
        folder,
        "--csv",
        sheet,
        "--out",
        out,
        "--days",
        "30",
        "--qr",
        "--address",
        "https://d.example",
    )
    dry = run(*common, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert dry.output.count("would write") == 4
    assert not out.exists()
    assert run(*common).exit_code == 0
    made = sorted(out.glob("*.json"))
    assert len(made) == 4
    assert all(path.parent == out for path in made)
    assert b"<svg" in made[0].with_suffix(".svg").read_bytes()
    pasted = read_invitation(made[0].with_suffix(".txt"))
    assert pasted == read_invitation(made[0])
    assert (pasted.school, bool(pasted.expires)) == ("Hill School", True)
    rows = [json.loads(line) for line in run("district", "members", folder, "--schools", "--json").output.splitlines()]
    assert [(row["school"], bool(row["given_by"])) for row in rows] == [
        ("Hill School", False),
        ("Lake/../School", True),
    ]
    assert isinstance(run(*common).exception, InputError), "nothing is overwritten"


@pytest.mark.parametrize(
    "rows",
    [
        "school\n\n,\n",
        "school,devices\nA,0\n",
        "school,role\nA,king\n",
        "school,colour\nA,red\n",
        "school\nA,B\n",
        "school,role\n,device\n",
        "school,role\n,school\n",
    ],
)
def test_a_sheet_with_one_wrong_row_invites_nobody(tmp_path: Path, rows: str) -> None:
    folder = make_folder(tmp_path)
    (tmp_path / "schools.csv").write_text(rows)
    done = run("district", "invite", folder, "--csv", tmp_path / "schools.csv", "--out", tmp_path / "out")
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "out").exists()


def test_a_school_whose_name_is_nearly_anothers_is_asked_about(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    for school, asks in (("Hill School", False), ("Lake School", False), ("Hill Scool", True), ("hill school", True)):
        done = run("district", "invite", folder, "--school", school, "--out", tmp_path / school.encode().hex())
        assert done.exit_code == 0
        assert (f"{school} is a new school: is it Hill School?" in done.output) == asks, done.output


def test_officers_of_the_district_stand_in_the_sheet_without_a_school(tmp_path: Path) -> None:
    folder, sheet = make_folder(tmp_path), tmp_path / "schools.csv"
    sheet.write_text("school,devices,role\nHill School,1,device\n,1,district\n,1,auditor\n")
    done = run("district", "invite", folder, "--csv", sheet, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"Hill-School.json", "district.json", "auditor.json"}


def test_a_line_that_was_cut_short_is_no_invitation(tmp_path: Path) -> None:
    invitation = Invitation(
        address="https://d.example", root="0" * 64, code="c" * 48, institution="D", bundle_id="1" * 64
    )
    (tmp_path / "line").write_text(as_text(invitation)[:60])
    with pytest.raises(InputError):
        read_invitation(tmp_path / "line")
