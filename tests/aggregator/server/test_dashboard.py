"""The dashboard over real HTTP: who gets in, what the pages say of a real small federation, and the way back."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from aggregator.institution import School, make_folder, running
from aggregator.server.officer import EVIL, PAGES, enrol, folder, link, send, signed_in, text, word
from homeroom.cli.main import homeroom
from homeroom.contract.evaluation_report import (
    LEAST_VALIDATION_SAMPLES,
    EvaluationReport,
    NumberFigures,
    NumberReport,
    TaskReport,
)
from homeroom.contract.manifest import NO_UNIT, Task
from homeroom.contract.privacy import Privacy
from homeroom_aggregator.admin.configuration import DashboardSection
from homeroom_aggregator.admin.folder import invite_devices, make_invitations
from homeroom_aggregator.server.dashboard import school_status
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import audit

# Who gets in


def test_without_a_session_nothing_is_told(service: Service, address: str) -> None:
    for path in (*PAGES, "/versions/0/back", "/nothing"):
        for cookie in ("", "a" * 43):
            answer = httpx.get(f"{address}/dashboard{path}", headers={"cookie": f"homeroom-office={cookie}"})
            assert answer.status_code == 401
            assert "District 7" not in answer.text
            assert "content-security-policy" in answer.headers
    assert httpx.post(f"{address}/dashboard/versions/0/back", data={"form": "x"}).status_code == 401
    assert httpx.post(f"{address}/dashboard/leave").status_code == 401


def test_a_link_opens_one_session_and_only_when_its_button_is_pressed(service: Service, address: str) -> None:
    code = link(service)
    for _ in range(2):  # a program that looks at the link does not use it up
        assert httpx.get(f"{address}/dashboard/enter", params={"code": code}).status_code == 200
    first = httpx.post(f"{address}/dashboard/enter", data={"code": code})
    assert (first.status_code, first.headers["location"]) == (303, "/dashboard")
    cookie = first.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/dashboard"))
    assert httpx.post(f"{address}/dashboard/enter", data={"code": code}).status_code == 403
    events = [entry.event for entry in audit.records(service.reader.database)]
    assert events[-2:] == ["link made", "dashboard opened"]


def test_a_link_is_spent_even_if_the_server_starts_anew(tmp_path: Path) -> None:
    where = make_folder(tmp_path)
    service = open_service(where)
    code = link(service)
    with running(service) as address:
        assert httpx.post(f"{address}/dashboard/enter", data={"code": code}).status_code == 303
    service.close()
    service = open_service(where)
    with running(service) as address:
        assert httpx.post(f"{address}/dashboard/enter", data={"code": code}).status_code == 403
    service.close()


def test_a_made_up_foreign_or_late_link_opens_nothing(service: Service, address: str) -> None:
    made_up = link(service)[:-4] + "AAAA"
    late = link(service, minutes=-1)  # the last one made: a later one would clear it away
    invitation = invite_devices(folder(service), address, 1)[0].code
    for code in (late, made_up, invitation, "", "ü", "x" * 5000):
        assert httpx.post(f"{address}/dashboard/enter", data={"code": code}).status_code == 403


def test_pages_are_strict_with_browsers(service: Service, address: str) -> None:
    with signed_in(service, address) as browser:
        assert browser.get("/dashboard/nonsense").status_code == 404
        for path in PAGES:
            answer = browser.get(f"/dashboard{path}")
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "script" not in policy.replace("default-src", "")
            assert "<script" not in answer.text
            assert " style=" not in answer.text
            assert answer.headers["cache-control"] == "no-store"


def test_signing_out_ends_a_session(service: Service, address: str) -> None:
    with signed_in(service, address) as browser:
        form = word(browser.get("/dashboard").text)
        old = browser.cookies["homeroom-office"]
        assert browser.post("/dashboard/leave", data={"form": form}).status_code == 200
        assert httpx.get(f"{address}/dashboard", cookies={"homeroom-office": old}).status_code == 401


@pytest.mark.parametrize("times", [DashboardSection(idle_minutes=1e-9), DashboardSection(session_hours=1e-9)])
def test_a_session_ends_after_the_times_of_the_configuration(tmp_path: Path, times: DashboardSection) -> None:
    service = open_service(make_folder(tmp_path))
    service.configuration = msgspec.structs.replace(service.configuration, dashboard=times)
    with running(service) as address, httpx.Client(follow_redirects=True) as browser:
        answer = browser.post(f"{address}/dashboard/enter", data={"code": link(service)})
        assert (answer.history[0].status_code, answer.status_code) == (303, 401)
    service.close()


def test_a_member_signs_in_with_its_key_and_is_out_when_it_is_revoked(
    service: Service, address: str, tmp_path: Path
) -> None:
    (invitation,) = make_invitations(folder(service), address, [("", "auditor")])
    path = tmp_path / "invitation.json"
    from msgspec.json import encode

    path.write_bytes(encode(invitation))
    asked = ["district", "dashboard", str(path), "--key", str(tmp_path / "officer.pem")]
    printed = [CliRunner().invoke(homeroom, asked, catch_exceptions=False).output.strip() for _ in range(2)]
    assert printed[0] != printed[1]
    code = httpx.URL(printed[1]).params["code"]
    with httpx.Client(base_url=address, follow_redirects=True) as browser:
        assert "sees, changes nothing" in browser.post("/dashboard/enter", data={"code": code}).text
        (member,) = service.members.every()
        service.rounds.members.revoke(member["device"], "test")
        assert browser.get("/dashboard").status_code == 401


def test_only_the_district_and_auditors_get_links(service: Service, address: str) -> None:
    for role in ("device", "school"):
        client = enrol(service, address, "Hill School", role)  # type: ignore[arg-type]
        with pytest.raises(Exception, match="role"):
            client.send("POST", "/v1/dashboard", b"{}")


def test_whoever_has_the_folder_gets_a_link(service: Service, address: str) -> None:
    asked = ["district", "dashboard", str(folder(service)), "--address", address, "--role", "auditor", "--qr"]
    done = CliRunner().invoke(homeroom, asked, catch_exceptions=False)
    code = httpx.URL(done.output.splitlines()[0]).params["code"]
    assert httpx.post(f"{address}/dashboard/enter", data={"code": code}).status_code == 303
    loud = CliRunner().invoke(
        homeroom, ["district", "dashboard", str(folder(service)), "--address", "http://district.example"]
    )
    assert "without TLS" in loud.output


def test_too_many_requests_are_told_to_wait(service: Service, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from homeroom_aggregator.admin.configuration import DeviceLimits
    from homeroom_aggregator.server.dashboard import routes

    monkeypatch.setattr(routes, "SESSION_LIMITS", DeviceLimits(requests_a_minute=1, burst=3))
    with running(service) as other, signed_in(service, other) as browser:
        statuses = [browser.get("/dashboard/audit").status_code for _ in range(4)]
        assert statuses[-1] == 429
        assert "retry-after" in browser.get("/dashboard").headers


# What the pages say


def test_an_empty_district_has_every_page(service: Service, address: str) -> None:
    with signed_in(service, address) as browser:
        for path in PAGES:
            answer = browser.get(f"/dashboard{path}")
            assert answer.status_code == 200
            assert "District 7" in answer.text
        assert "Nothing was released yet" in browser.get("/dashboard").text
        assert "Nothing here is differential privacy" in browser.get("/dashboard/privacy").text
        assert browser.get("/dashboard/nothing").status_code == 404


def told(before: float, now: float, samples: int = 200) -> TaskReport:
    return TaskReport(samples, now, before)


def test_the_worst_school_comes_first(service: Service, address: str) -> None:
    names = ("Gain School", "Loss School", "Quiet School", "Own School", "Few School")
    gains, loses, steady, own, few = (enrol(service, address, name) for name in names)
    enrol(service, address, "No School", consent="")
    for client in (gains, loses):
        send(client)
    own.report(EvaluationReport(version=1, in_use="local", tasks={"grade": told(0.9, 0.3)}))
    few.report(
        EvaluationReport(version=1, in_use="global", tasks={"grade": told(0.5, 0.45, samples=LEAST_VALIDATION_SAMPLES)})
    )
    few.update(School(few.key).update(few.round(), 0.1, 1))
    gains.report(EvaluationReport(version=1, in_use="global", tasks={"grade": told(0.5, 0.7)}))
    loses.report(EvaluationReport(version=1, in_use="global", tasks={"grade": told(0.7, 0.6), "size": told(0.5, 0.9)}))
    send(steady)
    send(gains)
    with signed_in(service, address) as browser:
        page = browser.get("/dashboard/schools").text
        order = re.findall(r"<h2>([^<]+)</h2>", page)
        assert order == ["No School", "Own School", "Loss School", "Few School", "Quiet School", "Gain School"]
        said = text(page)
        assert "70 % → 60 % (−10)" in said
        assert "50 % → 70 % (+20)" in said
        assert said.index("Grade 70 %") < said.index("Size 50 %")  # the weakest task first
        overview = text(browser.get("/dashboard").text)
        assert "No School : its updates are refused" in overview
        assert "Own School : keeps its own version, since version 1 is clearly worse there" in overview
        assert "Loss School : grade fell from 70 % to 60 % with version 1" in overview
        assert "Few School :" not in overview, "a change that chance would bring"
        assert "Waiting in it: Gain School (1 device)" in overview
        assert "Released" in overview
        assert "from 2 updates of 2 devices" in overview


def errors(mae: float, rmse: float, r2: float) -> NumberFigures:
    return NumberFigures(mae, rmse, skill=r2, error=0.04, r2=r2)


def test_numbers_are_shown_by_their_errors_and_never_as_a_share(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = service.rounds.bundle.manifest
    weight = Task(name="weight", kind="regression", reads=("facts",), width=1)
    manifest = msgspec.structs.replace(manifest, tasks=(*manifest.tasks, weight))
    monkeypatch.setattr(service.rounds, "bundle", replace(service.rounds.bundle, manifest=manifest))
    better, worse, older = (enrol(service, address, name) for name in ("Better School", "Worse School", "Older School"))
    for client in (better, worse, older):
        send(client)
    good, poor = errors(0.41, 0.55, 0.9), errors(1.2, 1.6, 0.5)
    for client, now, before in ((better, good, poor), (worse, poor, good)):
        numbers = {"weight": NumberReport(80, "kg", now, before), "age": NumberReport(80, NO_UNIT, now, before)}
        client.report(EvaluationReport(version=1, in_use="global", tasks={}, numbers=numbers))
    tasks = {"weight": told(0.1, 0.33), "size": told(0.5, 0.55)}  # of a release that took numbers for right or wrong
    older.report(EvaluationReport(version=1, in_use="global", tasks=tasks))
    with signed_in(service, address) as browser:
        said = text(browser.get("/dashboard/schools").text)
        assert "Weight MAE 0.410 kg, RMSE 0.550 kg, R² 0.90 → MAE 1.20 kg, RMSE 1.60 kg, R² 0.50 (skill −0.40)" in said
        assert "Age MAE 0.410, RMSE 0.550, R² 0.90 → MAE 1.20, RMSE 1.60, R² 0.50 (no unit given) (skill −0.40)" in said
        assert "Better School gains" in said
        assert "Size 50 % → 55 % (+5)" in said
        assert "33 %" not in said
        said = text(browser.get("/dashboard").text)
        sentence = (
            "weight got worse: MAE 0.410 kg, RMSE 0.550 kg, R² 0.90 before, MAE 1.20 kg, RMSE 1.60 kg, R² 0.50 now"
        )
        assert f"Worse School : {sentence} with version 1" in said


def test_who_falls_silent_or_behind_is_seen(service: Service, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [enrol(service, address, f"School {n}") for n in range(3)]
    send(clients[2])
    for _ in range(4):
        for client in clients[:2]:
            send(client)
    with signed_in(service, address) as browser:
        said = text(browser.get("/dashboard/schools").text)
        assert re.search(r"School 2 behind Trains on a version that is 4 behind", said)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=20)
    monkeypatch.setattr(school_status, "now", lambda: later)
    found = school_status.schools(service.reader.database, service.last_seen, frozenset())
    assert {school.status for school in found} == {"silent"}


def test_days_of_contact_outlast_a_restart_and_are_no_more_than_days(tmp_path: Path) -> None:
    where = make_folder(tmp_path)
    service, before = open_service(where), datetime.datetime.now(datetime.UTC).date()
    with running(service) as address:
        enrol(service, address, "Hill School").round()
    service.close()
    service = open_service(where)
    (day,) = service.last_seen.days(service.reader.database).values()
    assert before <= datetime.date.fromisoformat(day) <= datetime.datetime.now(datetime.UTC).date()
    service.close()


def test_what_people_named_is_text_and_nothing_else(service: Service, address: str) -> None:
    client, other = enrol(service, address, EVIL, consent=f"{EVIL} & co"), enrol(service, address)
    send(client)
    send(other)
    client.report(EvaluationReport(version=1, in_use="global", tasks={EVIL: told(0.1, 0.2)}))
    with signed_in(service, address) as browser:
        for path in PAGES:
            assert EVIL not in browser.get(f"/dashboard{path}").text
        assert "&lt;img" in browser.get("/dashboard/schools").text


def test_no_name_of_an_older_log_steers_a_page(service: Service, address: str) -> None:
    enrol(service, address, "Hill School")
    steering = "\x1b\x07\x9b\u202e\u2066\u2028"
    database = service.rounds.log.database
    database.write("UPDATE consents SET school = ?, given_by = ?", (f"Hill{steering}School", f"a{steering}b"))
    database.write("UPDATE devices SET school = ?", (f"Hill{steering}School",))
    audit.record(database, "consent given", school=f"Hill{steering}School", by=steering)
    with signed_in(service, address) as browser:
        for path in PAGES:
            page = browser.get(f"/dashboard{path}").text
            assert not any(character in page for character in steering), path
        assert "Hill      School" in browser.get("/dashboard/schools").text


def test_segments_say_who_fed_them_and_what_never_leaves(service: Service, address: str) -> None:
    one, two = enrol(service, address, "A"), enrol(service, address, "B")
    for client in (one, two):
        send(client)
    one.update(School(one.key).update(one.round(), 0.5, 1, head_grade=4))
    with signed_in(service, address) as browser:
        said = text(browser.get("/dashboard/segments").text)
    assert re.search(r"ladder\.table 4 numbers, table, changed in version 1 – 2", said)
    assert re.search(r"head\.grade 3 numbers, task grade, changed in version 1 1 of 2 2", said)
    assert re.search(r"own 3 numbers stays on the device", said)


def test_privacy_is_said_in_plain_words_and_by_school(tmp_path: Path) -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=12.0, delta=1e-5)
    service = open_service(make_folder(tmp_path, privacy=promise))
    with running(service) as address:
        for name in ("Hill School", "Lake School"):
            send(enrol(service, address, name), 0.1)
        with signed_in(service, address) as browser:
            said = text(browser.get("/dashboard/privacy").text)
            spent = service.rounds.ledger.spent()  # type: ignore[union-attr]
            assert f"{spent:.2f} of ε 12" in said
            assert "Promised: epsilon 12" in said
            assert re.search(r"Hill School 1 device 1 " + f"{spent:.2f}", said)
    service.close()


def test_the_audit_page_says_whether_the_log_holds(service: Service, address: str) -> None:
    enrol(service, address, "Hill School")
    with signed_in(service, address, "auditor") as browser:
        said = text(browser.get("/dashboard/audit").text)
        assert "each is as it was written" in said
        assert "A device joined (Hill School)" in said
    database = service.rounds.log.database
    database.write("DROP TRIGGER audit_is_never_changed")
    database.write("UPDATE audit SET about = '{}' WHERE number = 1")
    with running(service) as other, signed_in(service, other) as browser:
        assert "The log is damaged: entry 1 is not as it was written" in text(browser.get("/dashboard/audit").text)
        assert "The audit log : is damaged" in text(browser.get("/dashboard").text)
