"""Withdrawals that officers ask for: of a device, a school, a task or a modality; by whom; many with one replay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from aggregator.institution import START, School, enrol, make_folder, running
from aggregator.server.officer import confirmed, signed_in
from homeroom.cli.main import homeroom
from homeroom.contract.round import UnlearningRules
from homeroom.errors import HomeroomError, InputError
from homeroom.federation.network.client import Client
from homeroom.system.printable import counted
from homeroom_aggregator.admin import withdrawal
from homeroom_aggregator.admin.configuration import LogSection
from homeroom_aggregator.admin.configuration_file import read_configuration, write_file
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.admin.officers import OPERATOR, Officer
from homeroom_aggregator.admin.withdrawal import Part
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.members import StoredInvitation

A, B, C = School(), School(), School()
SCHOOLS = {A: "Hill", B: "Hill", C: "Lake"}
REWIND = UnlearningRules(rule="rewind", within_days=30)


def opened(tmp: Path, **rules: object) -> Rounds:
    rounds = open_rounds(make_folder(tmp, **{"unlearning": REWIND, **rules}))
    for one, school in SCHOOLS.items():
        rounds.members.join(one.name, StoredInvitation(one.name, school=school))
        rounds.members.consent(school, "letter")
    return rounds


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    """Versions 1 and 2: the first without anything of the task `grade`, the second with it from A alone."""
    found = opened(tmp_path)
    for base, schools in ((0, (A, C)), (1, (A, B))):
        for one in schools:
            segments = {"ladder_table": 4} | ({"head_grade": 4} if base and one == A else {})
            found.update(one.update(found.configuration, 0.5, base, **segments), one.name)
    assert found.state.version == 2
    yield found
    found.close()


def test_what_learned_from_a_task_goes_and_the_rest_stays(rounds: Rounds) -> None:
    whole = withdrawal.find(rounds, OPERATOR, A.name, "")
    assert (whole.count, whole.others) == (2, 0)
    part = Part(task="grade")
    found = withdrawal.find(rounds, OPERATOR, A.name[:12], "", part)
    assert (found.count, found.others) == (1, 1)
    (said,) = withdrawal.lines(found, part)
    assert "Nothing of task grade is in 1 update: what holds nothing of it stays" in said
    withdrawal.withdraw(rounds, found, "Ms Lee", "a family asked", part)
    planned = rounds.to_unlearn()
    assert planned is not None
    assert (planned.to, planned.versions) == (1, 1), "void from the first version in which the task's segment entered"
    rounds.rewind(by="Ms Lee")
    np.testing.assert_array_equal(rounds.state.theta[:4], START[:4] + np.float32(0.5))
    assert rounds.verify() == []
    (entry,) = (one for one in audit.records(rounds.log.database) if one.event == "updates taken back")
    assert entry.about["part"] == "task grade"
    both = withdrawal.find(rounds, OPERATOR, "", "Hill", Part(modality="table"))
    assert (list(both.updates), both.count) == ([A.name], 1), "what is void is out already"


def test_what_cannot_be_told_is_refused_with_the_way_that_works(rounds: Rounds, tmp_path: Path) -> None:
    for key, school, part, says in (
        (A.name, "", Part(task="spelling"), "is no task with a segment here"),
        (A.name, "", Part(modality="image"), "is no modality with a segment here"),
        (C.name, "", Part(task="grade"), r"none of what it sent \(1 update here\) learned from task grade"),
    ):
        with pytest.raises(InputError, match=says):
            withdrawal.find(rounds, OPERATOR, key, school, part)
    with closing(opened(tmp_path / "other", scopes={"head.grade": "personal"})) as other:
        other.update(A.update(other.configuration, 0.5, 0, ladder_table=4), A.name)
        with pytest.raises(InputError, match="has no segment that leaves a device"):
            withdrawal.find(other, OPERATOR, A.name, "", Part(task="grade"))


def test_a_school_speaks_for_itself_and_for_its_own_devices(rounds: Rounds) -> None:
    hill = Officer("head of Hill", "school", "Hill")
    assert withdrawal.find(rounds, hill, "", "Hill").count == 3
    assert withdrawal.find(rounds, hill, B.name, "").count == 1
    for officer, key, school, says in (
        (hill, C.name, "", "is no device's key here"),
        (hill, "", "Lake", "speaks for itself only"),
        (Officer("x", "device", "Hill"), B.name, "", "only an officer"),
        (Officer("x", "auditor"), B.name, "", "only an officer"),
    ):
        with pytest.raises(InputError, match=says):
            withdrawal.find(rounds, officer, key, school)


def test_updates_whose_bytes_are_gone_stay_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeroom_aggregator.merge.rounds.CHECKPOINT_ENTRIES", 1)
    opened(tmp_path).close()
    with closing(open_rounds(tmp_path / "district", retain=3)) as rounds:
        for base in range(5):
            for one in (A, C):
                rounds.update(one.update(rounds.configuration, 0.5, base), one.name)
        found = withdrawal.find(rounds, OPERATOR, A.name, "")
        assert found.kept > 0
        assert found.kept + found.count == 5
        assert "Older than what is kept (log.retain)" in withdrawal.lines(found, Part())[0]
        assert counted(found.kept, "update") in withdrawal.lines(found, Part())[0]


def test_a_device_is_told_that_an_update_of_an_old_version_stays(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, unlearning=REWIND)
    log = LogSection(retain=2, checkpoint_entries=1)
    write_file(folder, msgspec.structs.replace(read_configuration(folder), log=log))
    with closing(open_service(folder)) as service, running(service) as address:
        rounds, names = service.rounds, ("Hill", "Lake")
        client, stranger = (enrol(service, address, name, consents={name: "letter"}) for name in names)
        school, other = School(client.key), School(stranger.key)

        def release() -> str:
            base = rounds.state.version
            first, _ = (rounds.update(one.update(rounds.configuration, 0.5, base), one.name) for one in (school, other))
            return first[0]

        sent = [release() for _ in range(6)]
        said = [client.unlearn(update_id).status for update_id in sent]
        assert set(said) == {"kept", "accepted"}
        assert said == sorted(said, reverse=True), "the older ones stay"
        assert [client.unlearn(update_id).status for update_id in sent] == said, "and again, should the answer be lost"
        assert stranger.unlearn(sent[0]).status == "accepted", "another's id gets the answer of an unknown one"
        rounds.rewind(by="Ms Lee")
        for _ in range(4):
            release()
        assert [client.unlearn(update_id).status for update_id in sent] == said, "long after, when their bytes are gone"
        assert rounds.verify() == []


@pytest.mark.parametrize("rule", ["replay", "rewind"])
def test_hundreds_of_updates_are_one_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    with closing(opened(tmp_path, unlearning=UnlearningRules(rule=rule))) as rounds:  # type: ignore[arg-type]
        for base in range(60):
            for one in (A, B):
                rounds.update(one.update(rounds.configuration, 0.01, base), one.name)
        replays, resume = list[int](), rounds._resume
        monkeypatch.setattr(rounds, "_resume", lambda: (replays.append(1), resume())[1])
        found = withdrawal.find(rounds, OPERATOR, "", "Hill")
        assert found.count == 120
        withdrawal.withdraw(rounds, found, "Ms Lee", "the school left")
        assert len(replays) == (rule == "replay")
        rounds.rewind(by="Ms Lee")
        assert rounds.state.version == 60 + (rule == "rewind")
        np.testing.assert_array_equal(rounds.state.theta, START)
        assert rounds.verify() == []


def test_the_command_names_a_task(rounds: Rounds, tmp_path: Path) -> None:
    rounds.close()
    words = ["district", "withdraw", str(tmp_path / "district"), "--school", "Hill", "--task", "grade"]
    done = CliRunner().invoke(homeroom, [*words, "--by", "Ms Lee", "--why", "a family asked", "--yes"])
    assert done.exit_code == 0, done.output
    assert "taken out: 1 update of 1 device" in done.output
    assert "Nothing of task grade is in 2 updates: what holds nothing of it stays" in done.output
    with closing(open_rounds(tmp_path / "district")) as opened_again:
        assert opened_again.to_unlearn() is not None
    rounds.log = opened_again.log  # closed already


@pytest.mark.parametrize("rules", [{"unlearning": REWIND, "buffer_size": 2}])
def test_a_school_officer_asks_the_server_and_the_district_by_the_dashboard(service: Service, address: str) -> None:
    def client(school: str, role: str = "device") -> Client:
        return enrol(service, address, school, role, consents={school: "letter"})  # type: ignore[arg-type]

    def post(asks: Client, **fields: str) -> bytes:
        return asks.send("POST", "/v1/withdraw", json.dumps(fields).encode())

    hill, lake, officer = client("Hill"), client("Lake"), client("Hill", "school")
    names = [one.key.public_key().public_bytes_raw().hex() for one in (hill, lake)]
    for one in (hill, lake):
        one.update(School(one.key).update(one.round(), 0.5, 0))
    for asks, fields in (
        (officer, {"device": names[1], "why": "x"}),
        (officer, {"school": "Lake", "why": "x"}),
        (officer, {"device": names[0], "school": "Hill", "why": "x"}),
        (officer, {"device": names[0], "why": ""}),
        (officer, {"device": names[0], "tasks": "grade", "why": "x"}),
        (hill, {"device": names[0], "why": "x"}),
    ):
        with pytest.raises(HomeroomError):
            post(asks, **fields)
    assert service.rounds.to_unlearn() is None
    assert b'"updates":1' in post(officer, device=names[0], task="grade", why="a family asked")
    planned = service.rounds.to_unlearn()
    assert planned is not None
    assert len(planned.update_ids) == 1
    with signed_in(service, address) as browser:
        page = browser.get("/dashboard/do/withdraw-school?about=Lake").text
        assert "Only what learned from modality table" in page
        path = "/do/withdraw-school?about=Lake%7Ctask%7Cgrade"
        answer = browser.post(f"/dashboard{path}", data=confirmed(browser, path))
        assert answer.status_code == 200
        assert browser.get(f"/dashboard{path}").status_code == 400, "none is left"
    planned = service.rounds.to_unlearn()
    assert planned is not None
    assert len(planned.update_ids) == 2, "one rewind for both"
