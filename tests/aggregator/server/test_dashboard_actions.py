"""What an officer does on the dashboard: each button asks first and is done once, and nobody else's works."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import httpx
import pytest

from aggregator.institution import latest, make_folder, running
from aggregator.server.officer import EVIL, PAGES, confirmed, enrol, send, signed_in, text, word
from homeroom.contract.round import CohortRules
from homeroom.errors import UpdateError
from homeroom_aggregator.server.public_address import PublicAddresses
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import audit

# The way back


def test_the_office_goes_back_and_it_is_written_down(service: Service, address: str) -> None:
    one, two = enrol(service, address), enrol(service, address)
    for delta in (0.5, 9.0):
        send(one, delta)
        send(two, delta)
    with signed_in(service, address) as browser:
        assert "/dashboard/versions/1/back" in browser.get("/dashboard/versions").text
        form = confirmed(browser, "/versions/1/back", f"worse {EVIL}")
        after = browser.post("/dashboard/versions/1/back", data=form)
        assert after.status_code == 200
        assert "version 1 again" in text(after.text)
        assert EVIL not in after.text
        assert browser.post("/dashboard/versions/1/back", data=form).status_code == 409  # pressed twice: once
    assert service.reader.newest() == 3
    assert service.rounds.verify() == []
    entry = [e for e in audit.records(service.reader.database) if e.event == "rolled back"][-1]
    assert (entry.about["to"], entry.about["by"]) == (1, "operator")
    assert latest(one, 2) is not None


def test_an_auditor_sees_the_versions_and_cannot_go_back(service: Service, address: str) -> None:
    for client in (enrol(service, address), enrol(service, address)):
        send(client)
    with signed_in(service, address, "auditor") as browser:
        page = browser.get("/dashboard/versions").text
        assert "/back" not in page
        assert browser.get("/dashboard/versions/0/back").status_code == 403
        form = {"form": word(page), "seen": "1", "why": "because"}
        assert browser.post("/dashboard/versions/0/back", data=form).status_code == 403
    assert service.reader.newest() == 1


FORMS: tuple[tuple[dict[str, str], dict[str, str], int], ...] = (
    ({"form": ""}, {}, 403),
    ({"form": "guess"}, {}, 403),
    ({"seen": "0"}, {}, 409),
    ({"why": "  "}, {}, 422),
    ({"why": "x" * 300}, {}, 400),
    ({}, {"origin": "https://evil.example"}, 403),
    ({}, {"origin": "null"}, 403),
    ({"more": "x" * 9000}, {}, 413),
)


def test_a_form_that_is_not_the_offices_own_changes_nothing(service: Service, address: str) -> None:
    for client in (enrol(service, address), enrol(service, address)):
        send(client)
    with signed_in(service, address) as browser:
        right = confirmed(browser, "/versions/0/back")
        for change, headers, status in FORMS:
            answer = browser.post("/dashboard/versions/0/back", data=right | change, headers=headers)
            assert answer.status_code == status, (change, headers, answer.text)
        assert browser.get("/dashboard/versions/7/back").status_code == 400
    assert service.reader.newest() == 1
    assert service.rounds.log.count("rollback") == 0


# What an officer does there


def do(browser: httpx.Client, path: str, why: str = "because") -> httpx.Response:
    return browser.post(f"/dashboard{path}", data=confirmed(browser, path, why))


def ordered(service: Service) -> list[tuple[str, str, str]]:
    entries = [entry.about for entry in audit.records(service.reader.database) if entry.event == "ordered"]
    return [(entry["action"], entry["by"], entry["why"]) for entry in entries]


def test_consent_is_recorded_and_withdrawn_by_its_buttons(service: Service, address: str) -> None:
    client = enrol(service, address, "Hill School & co", consent="")
    with pytest.raises(UpdateError, match="has not consented"):
        send(client)
    with signed_in(service, address) as browser:
        page = browser.get("/dashboard").text
        assert "Hill School &amp; co" in page
        assert "Record the consent of Hill School &amp; co" in page
        path = re.findall(r'href="/dashboard(/do/consent[^"]+)"', page)[0]
        form = confirmed(browser, path, "Ms Lee, letter of 3 March")
        assert browser.post(f"/dashboard{path}", data=form).status_code == 200
        assert browser.post(f"/dashboard{path}", data=form).status_code == 400, "pressed twice: once"
        send(client)
        assert "Record the consent" not in browser.get("/dashboard").text
        do(browser, "/do/withdraw-consent?about=Hill School %26 co", "the head asked for it")
        with pytest.raises(UpdateError, match="has not consented"):
            send(client)
        assert browser.get("/dashboard/do/consent?about=Hil School").status_code == 400, "a typo is no school"
    assert [row["given_by"] for row in service.members.schools()] == ["Ms Lee, letter of 3 March"]
    assert ordered(service) == [
        ("Record the consent of Hill School & co", "operator", "Ms Lee, letter of 3 March"),
        ("Withdraw the consent of Hill School & co", "operator", "the head asked for it"),
    ]


def test_a_key_is_revoked_and_its_updates_withdrawn_by_buttons(service: Service, address: str) -> None:
    one, two, three = (enrol(service, address, name) for name in ("A", "B", "C"))
    for client in (one, two):
        send(client)
    send(three)
    key = service.members.every("C")[0]["device"]
    service.rounds.members.mark_clone(service.members.find(key))  # type: ignore[arg-type]
    with signed_in(service, address) as browser:
        assert f"/dashboard/do/revoke?about={key}" in browser.get("/dashboard").text, "a twin needs a person"
        page = browser.get("/dashboard/schools").text
        for name in ("revoke", "withdraw"):
            assert f'href="/dashboard/do/{name}?about={key}"' in page
        assert service.rounds.state.pending == 1
        do(browser, f"/do/withdraw?about={key}", "its samples were swapped")
        assert service.rounds.state.pending == 0
        assert browser.get(f"/dashboard/do/withdraw?about={key}").status_code == 400, "none is left"
        do(browser, f"/do/revoke?about={key}", "stolen")
        assert service.members.find(key) is None
        assert browser.get(f"/dashboard/do/revoke?about={key}").status_code == 400
        said = text(browser.get("/dashboard/audit").text)
        assert f"operator chose “Revoke key {key[:8]}” on the dashboard: stolen" in said
    assert service.rounds.verify() == []


def test_a_buffer_that_never_fills_is_said_and_its_button_brings_the_version(tmp_path: Path) -> None:
    where = make_folder(tmp_path, buffer_size=5, min_devices=2)
    with contextlib.closing(open_service(where)) as service, running(service) as address:
        for name in ("A", "B", "C"):
            send(enrol(service, address, name))
        with signed_in(service, address) as browser:
            page = browser.get("/dashboard").text
            assert "needs 5 updates, and only 3 came in the last 30 days" in text(page)
            assert "As it is, it will never come" in text(page)
            assert 'href="/dashboard/do/buffer?about=2"' in page
            assert browser.get("/dashboard/do/buffer?about=1").status_code == 400, "below k it would say nothing"
            do(browser, "/do/buffer?about=2", "three schools only")
            assert service.reader.newest() == 1, "so many were here"
            assert "never come" not in text(browser.get("/dashboard").text)
            do(browser, "/do/buffer?about=automatic", "more schools will come")
            assert service.configuration.automatic_buffer
            assert browser.get("/dashboard/do/buffer?about=automatic").status_code == 400, "it follows already"
    with contextlib.closing(open_service(where)) as service:
        assert (service.configuration.automatic_buffer, service.rounds.configuration.buffer_size) == (True, 2)
        assert service.rounds.verify() == []


def test_a_buffer_that_the_rule_cannot_merge_is_refused_before_it_is_confirmed(tmp_path: Path) -> None:
    where = make_folder(tmp_path, buffer_size=5, min_devices=2, rule="multi-krum")
    with (
        contextlib.closing(open_service(where)) as service,
        running(service) as address,
        signed_in(service, address) as browser,
    ):
        assert browser.get("/dashboard/do/buffer?about=500").status_code == 200
        refused = browser.get("/dashboard/do/buffer?about=501")
        assert (refused.status_code, "compares at most 500 updates" in refused.text) == (400, True)


def test_a_buffer_of_rounds_with_a_deadline_does_not_follow_the_devices(tmp_path: Path) -> None:
    where = make_folder(tmp_path, buffer_size=4, max_staleness=0, cohort=CohortRules(deadline_s=60, quorum=2))
    with contextlib.closing(open_service(where)) as service, running(service) as address:
        assert not service.configuration.automatic_buffer
        with signed_in(service, address) as browser:
            assert browser.get("/dashboard/do/buffer?about=automatic").status_code == 400


def test_a_version_is_released_now_where_enough_devices_fed_it(tmp_path: Path) -> None:
    where = make_folder(tmp_path, buffer_size=5, min_devices=2)
    with contextlib.ExitStack() as opened:
        service = opened.enter_context(contextlib.closing(open_service(where)))
        address = opened.enter_context(running(service))
        browser = opened.enter_context(signed_in(service, address))
        send(enrol(service, address, "A"))
        assert "/do/release" not in browser.get("/dashboard").text
        assert browser.get("/dashboard/do/release").status_code == 400, "one device alone is never released"
        send(enrol(service, address, "B"))
        form = confirmed(browser, "/do/release", "the lesson is tomorrow")
        for status in (200, 400):
            assert browser.post("/dashboard/do/release", data=form).status_code == status
        assert service.reader.newest() == 1


EVERY_ACTION = [
    ("/do/consent?about=B", False),
    ("/do/withdraw-consent?about=A", False),
    ("/do/revoke?about=KEY", False),
    ("/do/withdraw?about=KEY", False),
    ("/do/buffer?about=3", False),
    ("/do/release", False),
    ("/do/addresses", False),
    ("/versions/0/back", True),
]


@pytest.mark.attack(
    "who is speaking", "an auditor's session, and a form of another site, press every button of the dashboard"
)
@pytest.mark.parametrize(("path", "needs_version"), EVERY_ACTION)
def test_no_button_works_for_an_auditor_or_from_elsewhere(path: str, needs_version: bool, tmp_path: Path) -> None:
    where = make_folder(tmp_path, buffer_size=5, min_devices=2)
    with contextlib.ExitStack() as served:
        service = served.enter_context(contextlib.closing(open_service(where)))
        service.addresses = PublicAddresses(where, service.configuration.server, 8340)
        address = served.enter_context(running(service))
        for name in ("A", "C"):
            send(enrol(service, address, name))
        enrol(service, address, "B", consent="")
        if needs_version:
            service.rounds.release_now()
        path = path.replace("KEY", service.members.every("A")[0]["device"])
        with signed_in(service, address) as officer, signed_in(service, address, "auditor") as auditor:
            form = confirmed(officer, path)
            assert officer.get("/dashboard/do/nothing").status_code == 404
            assert "/dashboard/do/" not in "".join(auditor.get(f"/dashboard{page}").text for page in PAGES)
            before = service.rounds.log.last(), len(list(audit.records(service.reader.database)))
            own = form | {"form": word(auditor.get("/dashboard").text)}
            tries = [
                (auditor, own, {}, 403),
                (officer, form | {"form": own["form"]}, {}, 403),
                (officer, form, {"origin": "https://evil.example"}, 403),
                (officer, form | {"seen": "0" * 64}, {}, 409),
                (officer, form | {"why": " "}, {}, 422),
                (officer, form | {"why": "x" * 300}, {}, 400),
            ]
            for browser, data, headers, status in tries:
                answer = browser.post(f"/dashboard{path}", data=data, headers=headers)
                assert answer.status_code == status, text(answer.text)
            assert auditor.get(f"/dashboard{path}").status_code == 403
            assert httpx.post(f"{address}/dashboard{path}", data=form).status_code == 401
            assert (service.rounds.log.last(), len(list(audit.records(service.reader.database)))) == before
            assert officer.post(f"/dashboard{path}", data=form).status_code == 200, "and the officer's own works"
            assert len(list(audit.records(service.reader.database))) > before[1]
