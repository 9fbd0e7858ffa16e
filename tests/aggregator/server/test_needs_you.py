"""What the dashboard says needs a person: the school, the reason, and a button or what can be done, for every kind."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from aggregator.institution import START, School, make_folder, running
from aggregator.server.officer import confirmed, enrol, send, signed_in, text
from homeroom.cli.main import homeroom
from homeroom.contract.round import UnlearningRules
from homeroom.contract.signing import public_hex
from homeroom.system.clock import now
from homeroom_aggregator.admin import backup, learned_addresses
from homeroom_aggregator.server.dashboard import formatting, pages, queries, school_status
from homeroom_aggregator.server.public_address import PublicAddresses
from homeroom_aggregator.server.service import Service, open_service


def needs(page: str) -> list[tuple[str, list[str]]]:
    """Each entry's words, and where its links lead."""
    listed = page.partition('<ul class="plain needs">')[2].partition("</ul>")[0]
    return [(text(one), re.findall(r'href="([^"]+)"', one)) for one in listed.split("<li>")[1:]]


def test_every_status_that_needs_somebody_says_what_can_be_done() -> None:
    needing = {status for status, tone in formatting.STATUS_TONE.items() if tone in ("bad", "warn")}
    assert needing == formatting.STATUS_ADVICE.keys()
    assert all(all(row) for row in formatting.STATUS_ADVICE.values())


def test_a_silent_school_and_one_behind_have_a_reason_advice_and_a_button(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [enrol(service, address, f"School {n}") for n in range(3)]
    send(clients[2])
    for _ in range(4):
        for client in clients[:2]:
            send(client)
    with signed_in(service, address) as browser, signed_in(service, address, "auditor") as auditor:
        ((words, links),) = needs(browser.get("/dashboard").text)
        assert "School 2 : trains on a version that is 4 behind." in words
        assert "after its next sync" in words
        assert "Look at the devices of School 2" in words
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=20)
        monkeypatch.setattr(school_status, "now", lambda: later)
        entries = needs(browser.get("/dashboard").text)
        assert len(entries) == 3
        for words, links in entries:
            assert re.search(
                r"School \d : none of its devices was here for 20 days. Ask it whether its device is on", words
            )
            target = links[-1].removeprefix("/dashboard")
            page = browser.get(f"/dashboard{target}")
            assert f'id="{target.partition("#")[2]}"' in page.text, "the button leads to that very school"
            assert "Revoke" in page.text
        said = auditor.get("/dashboard").text
        assert "Ask it whether its device is on" in text(said)
        assert "Look at the devices" not in said


def test_every_other_kind_says_what_can_be_done_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = make_folder(tmp_path, buffer_size=5, min_devices=2)
    with contextlib.closing(open_service(where)) as service:
        service.addresses = PublicAddresses(where, service.configuration.server, 8340)
        service.learn_addresses()
        service.tls_end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
        monkeypatch.setattr(pages, "reasons", lambda _: [("update 1", "it ended its reader")])
        monkeypatch.setattr(pages, "_at_budget", lambda _: 2)
        broken = queries.AuditChain(0, "", "entry 1 is not as it was written")
        monkeypatch.setattr(queries, "verify_audit", lambda _: broken)
        with running(service) as address, signed_in(service, address) as browser:
            send(enrol(service, address, "A"))
            said = dict(
                re.split(r" ?: ", words.strip().split(maxsplit=1)[1], maxsplit=1)
                for words, _ in needs(browser.get("/dashboard").text)
            )
            for subject, can_do in {
                "The audit log": "Compare with a backup",
                "The next version": "Have further devices join",
                "The server": "Answer to these addresses alone",
                "Set apart": "have it sent again",
                "Privacy": "Look at the budget",
                "The TLS certificate": "Put a newer one into the files",
            }.items():
                assert can_do in said[subject], said


def test_what_a_restored_backup_undid_is_said_until_it_is_done_again(tmp_path: Path) -> None:
    where = make_folder(tmp_path)
    open_service(where).close()
    backup.backup(where, tmp_path / "monday")
    done = CliRunner().invoke(homeroom, ["district", "restore", str(tmp_path / "back"), str(tmp_path / "monday")])
    assert "keys that were revoked" in done.output
    with contextlib.ExitStack() as served:
        service = served.enter_context(contextlib.closing(open_service(tmp_path / "back")))
        browser = served.enter_context(signed_in(service, served.enter_context(running(service))))
        ((words, _),) = needs(browser.get("/dashboard").text)
        assert "A backup : with version 0 was put back" in words
        form = confirmed(browser, "/do/restored", "keys looked at")
        assert browser.post("/dashboard/do/restored", data=form).status_code == 200
        assert needs(browser.get("/dashboard").text) == []
        assert browser.get("/dashboard/do/restored").status_code == 400


def test_the_addresses_by_which_devices_come_are_closed_by_a_button(tmp_path: Path) -> None:
    where = make_folder(tmp_path)
    with contextlib.closing(open_service(where)) as service:
        service.addresses = PublicAddresses(where, service.configuration.server, 0)
        service.learn_addresses()
        with running(service) as address, signed_in(service, address) as browser:
            send(enrol(service, address, "A"))
            assert learned_addresses.came(service.reader.database) == (address.replace("http:", "https:"),)
            form = confirmed(browser, "/do/addresses")
            assert browser.post("/dashboard/do/addresses", data=form).status_code == 200
            assert not service.addresses.open_to_all
            assert browser.get("/dashboard", headers={"host": "evil.example"}).status_code == 421
            assert "any server" not in text(browser.get("/dashboard").text)


def test_a_device_whose_updates_are_far_too_long_is_named_and_its_updates_can_be_withdrawn(tmp_path: Path) -> None:
    where = make_folder(tmp_path, rule="bounded", buffer_size=4, min_devices=3)
    with (
        contextlib.closing(open_service(where)) as service,
        running(service) as address,
        signed_in(service, address) as browser,
    ):
        *honest, liar = (enrol(service, address, f"School {n}") for n in range(4))
        for client in honest:
            send(client, 0.5)
        send(liar, -8.0)
        (entry,) = [one for one in needs(browser.get("/dashboard").text) if "as long as the bound" in one[0]]
        words, links = entry
        assert "School 3" in words
        assert "sent an update 16 times as long as the bound of version 1" in words
        assert links[-1].startswith("/dashboard/do/withdraw?about=")
        key = links[-1].partition("=")[2]
        assert f"1 update was longer than the bound, and was shortened, the longest, of device {key[:8]}, 16 times" in (
            text(browser.get("/dashboard/audit").text)
        )
        versions, schools = (text(browser.get(f"/dashboard/{page}").text) for page in ("versions", "schools"))
        assert "head.grade 0.866, ladder.table 1; 1 update shortened" in versions
        assert f"{key[:8]} 16 times the bound" in versions
        assert "16×" in schools
        done = browser.post(links[-1], data=confirmed(browser, links[-1].removeprefix("/dashboard"), "a liar"))
        assert done.status_code == 200, done.text
        for client in honest:
            send(client, 0.5)
        service.rounds.release_now()
        assert service.rounds.verify() == []
        np.testing.assert_allclose(service.rounds.state.theta[:4], START[:4] + 1.0, atol=1e-5)


@pytest.mark.parametrize("rules", [{"unlearning": UnlearningRules(rule="rewind", most_versions=1)}])
def test_what_waits_to_be_unlearned_has_a_day_or_a_decision_and_a_button(service: Service, address: str) -> None:
    clients = [enrol(service, address, f"School {n}") for n in range(2)]
    for client in clients:
        send(client)
    (first,) = service.rounds.withdrawable(public_hex(clients[0].key))
    with signed_in(service, address) as browser:
        assert needs(browser.get("/dashboard").text) == []
        day = clients[0].unlearn(first).by
        assert day == f"{now().date() + datetime.timedelta(days=30)}"
        ((words, _),) = needs(browser.get("/dashboard").text)
        assert f"1 update in a version to be unlearned by {day}" in words
        for client in clients:
            send(client)
        ((words, links),) = needs(browser.get("/dashboard").text)
        assert "more than 1 version would become void, so a person decides" in words
        path = links[-1].removeprefix("/dashboard")
        assert "Version 3 will be version 0 again" in text(browser.get(f"/dashboard{path}").text)
        answer = browser.post(f"/dashboard{path}", data=confirmed(browser, path, "a family asked"))
        assert answer.status_code == 200
        assert needs(browser.get("/dashboard").text) == []
        assert "Version 3 goes on from version 0" in text(browser.get("/dashboard/audit").text)
    assert service.rounds.state.version == 3


@pytest.mark.parametrize("rules", [{"unlearning": UnlearningRules(rule="rewind", within_days=0)}])
def test_a_server_rewinds_by_itself_on_the_day(service: Service) -> None:
    for school in (School(), School()):
        service.rounds.update(school.update(service.rounds.configuration), school.name)
    (held,) = service.rounds.withdrawable(school.name)
    asyncio.run(service.look())
    assert service.rounds.state.version == 1
    service.rounds.withdraw(held, school.name)
    asyncio.run(service.look())
    assert service.rounds.state.version == 2
