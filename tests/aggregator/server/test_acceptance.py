"""Invitations and policies in the inbox wait for a person's yes: a true agent, its page, and a true aggregator."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
from click.testing import CliRunner

from aggregator.institution import ROOT, make_folder, running
from homeroom import Device
from homeroom.agent.inbox import refused_entries
from homeroom.agent.loop import Agent, AgentSettings
from homeroom.agent.page import PageServer
from homeroom.cli.main import homeroom
from homeroom.contract.policy import Policy, sign_policy
from homeroom.contract.signing import certify, new_key
from homeroom.federation.enrolment import ENROLMENT
from homeroom_aggregator.admin.folder import invite_devices
from homeroom_aggregator.server.service import open_service

NAMES = ("invitation.json", "invitation-1.json", "invitation (1).json", "Hill School.JSON")
STRANGER = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "inbox").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})  # bundles without graphs
    monkeypatch.setattr("homeroom.federation.sync.sync", lambda *_: pytest.fail("nothing is sent here"))
    monkeypatch.setattr(Agent, "_sync_due", lambda *_: False)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    service = open_service(make_folder(tmp_path, buffer_size=1, min_devices=1))
    with running(service) as served:
        yield served
    service.close()


@contextlib.contextmanager
def at_work(place: Path) -> Iterator[PageServer]:
    """A page, whose agent looks again and again in a thread of its own."""
    Device.open(place / "classroom", place / "bundle").close()
    agent = Agent(AgentSettings(place / "classroom", place / "inbox", settled_s=0.0, look_s=0.05))
    agent.cycle()
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            agent.cycle()
            agent._wait()

    page, thread = PageServer(agent), threading.Thread(target=work)
    thread.start()
    try:
        yield page
    finally:
        stopping.set()
        thread.join(60)
        page.close()


def ask(page: PageServer, path: str = "/", **form: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=60)
    headers = {"Cookie": f"homeroom={page.address.token}", "Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode({"token": page.address.token, **form}) if form else None
    connection.request("POST" if form else "GET", path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def invite(place: Path, address: str, name: str) -> Path:
    (invitation,) = invite_devices(place / "district", address, 1)
    path = place / "inbox" / name
    path.write_bytes(msgspec.json.encode(invitation))
    return path


def joined(page: PageServer) -> str:
    """The address of the aggregator that the device has joined; empty where it has joined none."""
    enrolment = page.agent.ask(lambda device: ENROLMENT.read(device.store))
    return str(enrolment.address) if enrolment else ""


def digest_on(page: PageServer) -> str:
    return re.findall(r'name="digest" value="([0-9a-f]{64})"', ask(page)[1])[0]


@pytest.mark.attack("files and bundles", "a file in the inbox makes the device join, or change aggregator or policy")
@pytest.mark.parametrize("name", NAMES)
def test_an_invitation_waits_whatever_it_is_called_until_a_person_says_yes(
    name: str, tmp_path: Path, address: str
) -> None:
    file = invite(tmp_path, address, name)
    with at_work(tmp_path) as page:
        assert joined(page) == ""
        assert (page.agent.status.waiting_entries, page.agent.status.unread_entries) == (1, 0)
        _, text = ask(page)
        assert "waits for a yes" in text
        assert f"joins District 7 at {address}" in text
        assert ask(page, "/accept", name=name, digest="0" * 64)[0] == 400
        assert (joined(page), file.exists()) == ("", True)
        status, text = ask(page, "/accept", name=name, digest=digest_on(page))
        assert (status, joined(page), file.exists()) == (200, address, False), text
        assert f"joins District 7 at {address}" in text
        assert "waits for a yes" not in ask(page)[1]


@pytest.mark.attack("files and bundles", "a file in the inbox makes the device join, or change aggregator or policy")
def test_another_invitation_changes_nothing_for_a_device_that_has_joined(tmp_path: Path, address: str) -> None:
    own = invite(tmp_path, address, "invitation-1.json")
    with at_work(tmp_path) as page:
        ask(page, "/accept", name=own.name, digest=digest_on(page))
        invite(tmp_path, address, "invitation-2.json")
        invite(tmp_path, STRANGER, "invitation-3.json")
        page.agent.cycle()
        assert joined(page) == address
        _, text = ask(page)
        assert "has joined District 7 already" in text
        assert f"in place of District 7 at {address}" in text
        status, _ = ask(page, "/accept", name="invitation-3.json", digest=digest_on(page))
        assert (status, joined(page)) == (400, address), "nobody answers there"
        assert (tmp_path / "inbox" / "invitation-3.json").exists()
        status, text = ask(page, "/decline", name="invitation-3.json", digest=digest_on(page))
        (refused,) = refused_entries(tmp_path / "inbox")
        assert "a person said no" in refused.why
        assert joined(page) == address


@pytest.mark.attack("files and bundles", "a file in the inbox makes the device join, or change aggregator or policy")
def test_a_policy_waits_for_a_yes(tmp_path: Path, address: str) -> None:
    key = new_key()
    signed = sign_policy(
        Policy(institution="Hill", version=3, consent=True), key, certify(ROOT, "institution", key, "Hill")
    )
    (tmp_path / "inbox" / "rules (1).json").write_bytes(signed)
    with at_work(tmp_path) as page:
        assert page.agent.ask(lambda device: device.policy()) is None
        assert "keeps the policy of Hill, version 3" in ask(page)[1]
        assert ask(page, "/accept", name="rules (1).json", digest=digest_on(page))[0] == 200
        assert page.agent.ask(lambda device: device.policy()).version == 3


@pytest.mark.parametrize("name", ["lesson (1).csv", "lesson.jsonl", "b.homeroom", "photo.png"])
def test_an_invitation_waits_for_a_yes_whatever_it_is_called(tmp_path: Path, address: str, name: str) -> None:
    invite(tmp_path, address, name)
    with at_work(tmp_path) as page:
        assert "District 7" in ask(page)[1]
        assert page.agent.status.waiting_entries == 1
        assert refused_entries(tmp_path / "inbox") == []
        assert ask(page, "/accept", name=name, digest=digest_on(page))[0] == 200
        assert joined(page) == address


def test_what_is_called_an_invitation_and_is_none_is_named_with_what_to_do(tmp_path: Path, address: str) -> None:
    for name, text in (("invitation.json", '{"format": 1'), ("invitation-1.json", "x"), ("list.json", "[1]")):
        (tmp_path / "inbox" / name).write_text(text)
    with at_work(tmp_path) as page:
        assert (page.agent.status.waiting_entries, page.agent.status.unread_entries) == (0, 3)
        assert ask(page)[1].count("get it again from who sent it") == 2


def test_a_new_device_joins_where_the_command_says_so_and_not_by_the_file_alone(tmp_path: Path, address: str) -> None:
    file = invite(tmp_path, address, "invitation (1).json")
    run = ["device", "run", str(tmp_path / "classroom"), "--inbox", str(tmp_path / "inbox"), "--once"]
    done = CliRunner().invoke(homeroom, run)
    assert "waits for your yes" in str(done.exception)
    assert f"homeroom device join {tmp_path / 'classroom'} '{file}'" in str(done.exception)
    assert not (tmp_path / "classroom").exists()
    for _ in range(2):  # a service is started again with the same words
        done = CliRunner().invoke(homeroom, [*run, "--join", str(file)])
        assert done.exception is None, done.output
    with Device.open(tmp_path / "classroom") as device:
        assert device.status()["joined"]
