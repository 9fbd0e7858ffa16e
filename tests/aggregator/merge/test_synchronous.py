"""Synchronous rounds: who is asked, what a deadline brings, and that time leaves no trace in what is replayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aggregator.institution import School, latest, make_folder, running
from homeroom.cli.main import homeroom
from homeroom.contract.round import CohortRules
from homeroom.errors import UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import invite_devices, open_rounds
from homeroom_aggregator.merge.synchronous import SynchronousRound
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import audit

RULES = CohortRules(deadline_s=60, quorum=2, over=1.5)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path: Path, clock: Clock) -> Iterator[Service]:
    """Three updates a release, four places, a quorum of two."""
    more: dict[str, Any] = {"cohort": CohortRules(deadline_s=60, quorum=2, over=4 / 3), "max_staleness": 0}
    opened = open_service(make_folder(tmp_path, buffer_size=3, **more))
    assert opened.rounds.synchronous
    opened.rounds.synchronous._clock = clock
    yield opened
    opened.close()


@pytest.fixture
def clients(service: Service) -> Iterator[list[Client]]:
    with running(service) as address:
        invitations = invite_devices(service.rounds.log.database.path.parent, address, 6)
        keys = [School().key for _ in invitations]
        yield [Client(join(i, key), key) for i, key in zip(invitations, keys, strict=True)]


def send(client: Client, base: int = 0) -> str:
    try:
        return client.update(School(client.key).update(client.round(), 0.25, base))
    except UpdateError as problem:
        return problem.code


def test_some_more_are_asked_than_needed_and_the_rest_waits(service: Service, clients: list[Client]) -> None:
    for client in clients:
        client.round()
    assert [send(client) for client in reversed(clients)] == [
        *("not_selected", "not_selected"),
        *("accepted", "accepted", "accepted"),
        "too_stale",  # over-selected: the round had ended
    ]
    assert service.rounds.state.version == 1
    assert send(clients[5], base=1) == "accepted", "the next round asks who comes first"


def test_a_device_sends_once_a_round_and_may_ask_whether_it_arrived(service: Service, clients: list[Client]) -> None:
    configuration = clients[0].round()
    data = School(clients[0].key).update(configuration, 0.25)
    assert [clients[0].update(data), clients[0].update(data)] == ["accepted", "already"]
    assert send(clients[0]) == "not_selected"


def test_at_the_deadline_a_quorum_is_enough(service: Service, clients: list[Client], clock: Clock) -> None:
    assert [send(clients[0]), send(clients[1])] == ["accepted", "accepted"]
    assert latest(clients[0], 0) is None
    clock.now_s = 61
    assert latest(clients[0], 0) is not None, "whoever asks next finds the release"
    assert service.rounds.verify() == []


def test_too_few_at_the_deadline_means_that_others_are_asked(
    service: Service, clients: list[Client], clock: Clock
) -> None:
    for client in clients[:4]:
        client.round()
    assert send(clients[0]) == "accepted"
    assert send(clients[5]) == "not_selected"
    clock.now_s = 61
    assert send(clients[5]) == "accepted"
    assert service.rounds.state.version == 0
    assert send(clients[4]) == "accepted"
    assert service.rounds.state.version == 1, "the early one stayed counted"
    assert "round asked anew" in [entry.event for entry in audit.records(service.rounds.log.database)]
    assert service.rounds.verify() == []


def test_after_a_restart_a_device_comes_in_again(tmp_path: Path) -> None:
    more: dict[str, Any] = {"cohort": RULES, "max_staleness": 0}
    folder, school = make_folder(tmp_path, **more), School()
    rounds = open_rounds(folder)
    assert rounds.synchronous
    assert rounds.synchronous.ask(school.name, 0)
    data = school.update(rounds.configuration, 0.25)
    rounds.close()
    rounds = open_rounds(folder)
    assert rounds.synchronous
    with pytest.raises(UpdateError, match="not asked"):
        rounds.update(data, school.name)
    assert rounds.synchronous.ask(school.name, 0)
    assert rounds.update(data, school.name)[1] == "accepted"
    rounds.close()


def test_a_place_is_kept_while_its_round_lasts(clock: Clock) -> None:
    cohort = SynchronousRound(RULES, 2, clock)
    assert [cohort.ask(name, 0) for name in "abcd"] == [True, True, True, False]
    assert cohort.ask("a", 0)
    assert not cohort.ask("d", 0)
    assert cohort.ask("d", 1)
    assert cohort.verdict(0, 5) == "wait", "that round is over"


def test_the_options_go_together(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (tmp_path / "root.pem").write_text("")
    common = [
        "district",
        "serve",
        str(folder.with_name("other")),
        "--bundle",
        str(tmp_path / "bundle"),
        "--deadline",
        "60",
    ]
    done = CliRunner().invoke(homeroom, common)
    assert "belong together" in str(done.exception)
