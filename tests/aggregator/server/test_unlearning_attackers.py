"""Three attackers solve for a withdrawn update from all that a server serves: after a rewind none of them can."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import pytest
from conftest import Attack

from aggregator.institution import START, enrol
from aggregator.state.served import made
from homeroom.contract.round import UnlearningRules
from homeroom.contract.signing import fingerprint
from homeroom.contract.version import read_version
from homeroom.errors import UpdateError
from homeroom_aggregator.server.service import Service
from unlearning_attack import Column, Observation, error, solve

SHARED = 7  # values that are merged
RULES = {"buffer_size": 4, "min_devices": 2}
ATTACKERS = {"a member": (1,), "a school": (1, 2), "a reader of the audit log": ()}
REWIND = UnlearningRules(rule="rewind", within_days=30)


class Lesson:
    """Four members, of whom the first withdraws what it sent in two rounds."""

    def __init__(self, service: Service, address: str) -> None:
        self.service, self.clients = service, [enrol(service, address) for _ in range(4)]
        self.rng, self.sent = np.random.default_rng(26), dict[Column, np.ndarray]()
        self.releases = dict[int, list[int]]({0: []})  # by version, the releases that it holds
        self.ids = list[str]()

    def learn(self, release: int, members: tuple[int, ...]) -> None:
        base = self.service.rounds.state.version
        for member in members:
            delta = np.zeros(len(START), np.float32)
            delta[:SHARED] = self.rng.normal(0, 1, SHARED)
            update_id, data = made(self.clients[member], delta, base)
            assert self.clients[member].update(data) == "accepted"
            self.sent[member, release] = np.round(delta[:SHARED].astype(np.float64) * 2**20) / 2**20
            self.ids += [update_id] if member == 0 else []
        self.service.rounds.release_now()
        self.releases[self.service.rounds.state.version] = [*self.releases[base], release]

    def withdraw(self) -> None:
        for update_id in self.ids:
            assert self.clients[0].unlearn(update_id).status == "accepted"

    def served(self) -> dict[int, np.ndarray]:
        """Every version that a member gets now."""
        found, rounds = dict[int, np.ndarray](), self.service.rounds
        told = {"bundle_id": rounds.bundle.bundle_id, "root_fingerprint": fingerprint(rounds.certificate.root)}
        for number in range(1, rounds.state.version + 1):
            with contextlib.suppress(UpdateError):
                body = self.clients[1].send("GET", f"/v1/versions/{number}")
                found[number] = read_version(body, rounds.rules.layout, **told)[1]
        return found

    def errors(self, without: int = 0) -> dict[str, float]:
        """Each attacker's error. without: the first version that the withdrawn updates are left out of; 0: none."""
        seen = []
        for number, theta in self.served().items():
            shares = dict[Column, float]()
            for release in self.releases[number]:
                members = [m for m, r in self.sent if r == release and not (without and number >= without and m == 0)]
                shares |= {(member, release): 1 / len(members) for member in members}
            seen.append(Observation((theta - START)[:SHARED].astype(np.float64), shares))
        gone = [column for column in self.sent if column[0] == 0]
        truth = sum(self.sent[column] for column in gone)
        return {name: error(solve(seen, self.known(own), gone), np.asarray(truth)) for name, own in ATTACKERS.items()}

    def known(self, own: tuple[int, ...]) -> Mapping[Column, np.ndarray]:
        return {column: update for column, update in self.sent.items() if column[0] in own}


@pytest.mark.attack("members", "a withdrawn update: solve for it from every version that is served after a rewind")
@pytest.mark.parametrize("rules", [{**RULES, "unlearning": REWIND}])
def test_nobody_solves_for_a_withdrawn_update_after_a_rewind(service: Service, address: str, attack: Attack) -> None:
    lesson = Lesson(service, address)
    for release in (1, 2):
        lesson.learn(release, (0, 1, 2, 3))
    before = lesson.errors()
    lesson.withdraw()
    version = service.rounds.rewind(by="tests")
    lesson.releases[version] = []
    for release in (3, 4):
        lesson.learn(release, (1, 2, 3))
    after = lesson.errors()
    attack.got = sum(one < 0.999 for one in after.values())
    attack.noticed = f"errors {before} before, {after} after"
    assert before["a school"] < 0.8, "it knows two of four and sees the sum: the attack is a real one"


@pytest.mark.parametrize("rules", [RULES])
def test_where_an_update_is_left_out_of_the_sums_each_of_them_solves_for_it(service: Service, address: str) -> None:
    lesson = Lesson(service, address)
    for release in (1, 2):
        lesson.learn(release, (0, 1, 2, 3))
    lesson.withdraw()
    service.rounds.release_unchanged()
    lesson.releases[3] = lesson.releases[2]
    found = lesson.errors(without=3)
    assert max(found.values()) < 1e-5
