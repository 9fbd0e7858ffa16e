"""Sudden deaths on either side of an exchange of statistics, plain and secure: nothing is lost or counted twice.

Each death is a forked child in which server and devices live, as in `test_crashes.py`. What every side finds on its
disk then has to go on by itself, to the very integers of all samples.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from faults.devices import make_sample

from aggregator.institution import ROOT, School, make_folder
from aggregator.merge.test_crashes import dying
from aggregator.secagg.test_crashes import ADDRESS, InProcess, dies
from aggregator.statistics_lesson import PLAIN, pupil_sums
from homeroom.contract.invitation import Enrolment
from homeroom.contract.roster import make_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, new_key
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.sums import NOTHING, Statistics, merge
from homeroom.federation import secure_round, secure_statistics, statistics
from homeroom.federation.agreement import renew_round
from homeroom.federation.network.client import Client, join
from homeroom.federation.secure_round import SecureRoundContext
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.system.sqlite import Database
from homeroom.train.solve.vectors.samples import sums_id
from homeroom_aggregator.admin.folder import (
    make_invitations,
    open_folder_bundle,
    open_rounds,
    read_facts,
    replace_roster,
)
from homeroom_aggregator.merge.statistics import SharedStatistics
from homeroom_aggregator.secagg import coordinator, statistics_sums
from homeroom_aggregator.secagg.round_store import RoundStore
from homeroom_aggregator.server.routes import make_app
from homeroom_aggregator.server.service import open_service
from homeroom_aggregator.state.statistics_totals import StatisticsTotals

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
RULES = SecureRules(minimum=3, cohort=4, drop_rate=0.25, corrupt_rate=0.1, phase_s=3600)
Places = dict[str, tuple[Any, str]]
BOTH: Places = {
    "the release": (SharedStatistics, "_release"),
    "the release on the device": (statistics, "fetch_release"),
    "a statement": (Database, "write"),
    "a commit": (Database, "transaction"),
}
PLACES: dict[str, Places] = {
    "plain": {
        "device, the message": (statistics, "make_change"),
        "device, it is sent": (Client, "send_statistics"),
        "server, it is taken": (SharedStatistics, "take"),
        "server, the total": (StatisticsTotals, "put"),
        "device, it is accepted": (statistics, "_accept"),
        **BOTH,
    },
    "secure": {
        "device, keys": (secure_round, "advertise"),
        "server, a message": (RoundStore, "put"),
        "server, a phase": (RoundStore, "save"),
        "device, shares": (secure_round, "share"),
        "device, its change": (secure_statistics, "encode_statistics"),
        "device, input": (secure_round, "mask"),
        "device, consent": (secure_round, "consent"),
        "device, reveal": (secure_round, "reveal"),
        "server, the sum": (coordinator, "unmask_sum"),
        "server, the total": (statistics_sums, "take_sum"),
        "server, the end": (RoundStore, "end"),
        "device, it is in the sum": (statistics, "keep_for_releases"),
        **BOTH,
    },
}


@dataclass
class Lesson:
    """An aggregator's folder and devices of a school each, with no more than a release needs; all of it closed."""

    folder: Path
    schools: list[School]
    mode: str
    lessons: int = 0

    def store(self, number: int) -> Store:
        return Store.open(self.folder.parent / f"device-{number}")

    @property
    def numbers(self) -> range:
        return range(len(self.schools))

    @property
    def bundle(self) -> Bundle:
        return open_folder_bundle(self.folder, read_facts(self.folder))

    def taught(self, number: int) -> Statistics:
        """What a device has of all its pupils."""
        return merge(self._pupils(number).values())

    def _pupils(self, number: int) -> dict[str, Statistics]:
        return {f"p-{one}": pupil_sums(1000 * number + one) for one in range(5 * self.lessons)}

    def teach(self) -> None:
        """Five pupils more, on every device."""
        self.lessons += 1
        for number in self.numbers:
            with contextlib.closing(self.store(number)) as store:
                names = [*enumerate(self._pupils(number))][-5:]
                store.add([make_sample(one, name) for one, name in names])
                store.put_sums(sums_id(self.bundle.manifest), self._pupils(number).items())

    def until_shared(self) -> None:
        """All visit, one after another, until everybody has all that the others taught."""
        facts, bundle = read_facts(self.folder), self.bundle
        enrolment = Enrolment(address=ADDRESS, root=facts.root, institution="t", bundle_id=facts.bundle_id)
        with served(self.folder) as line, contextlib.ExitStack() as opened:
            stores = [opened.enter_context(contextlib.closing(self.store(number))) for number in self.numbers]
            clients = [Client(enrolment, school.key, transport=line) for school in self.schools]
            for _ in range(12):
                for store, school, client in zip(stores, self.schools, clients, strict=True):
                    configuration = client.round()
                    renew_round(store, configuration)
                    context = SecureRoundContext(store, bundle, client, school.key, facts.root, configuration)
                    exchange(context)
                if all(self._has_all(store, number, bundle) for number, store in enumerate(stores)):
                    return
        raise AssertionError("the exchange never ended")

    def _has_all(self, store: Store, number: int, bundle: Bundle) -> bool:
        rest = merge(self.taught(other) for other in self.numbers if other != number)
        return statistics.others_total(store, bundle) == rest

    def check(self) -> None:
        """All samples are in the total, each once."""
        with contextlib.closing(open_rounds(self.folder)) as rounds:
            assert encode(rounds.statistics.totals.sum()) == encode(merge(self.taught(n) for n in self.numbers))
            assert rounds.verify() == []
            own = [rounds.statistics.totals.total(school.name) for school in self.schools]
        assert own == [NOTHING if self.mode == "secure" else self.taught(n) for n in self.numbers]

    def deaths(self, deaths: list[tuple[str, int, bool]]) -> int:
        """A lesson more, and children that die while it is shared; how many did."""
        self.teach()
        killed = 0
        for name, calls, late in deaths:

            def work(name: str = name, calls: int = calls, late: bool = late) -> None:
                module, function = PLACES[self.mode][name]
                setattr(module, function, dying(getattr(module, function), calls, late))
                self.until_shared()

            if not dies(work):
                break  # all is shared
            killed += 1
        self.until_shared()
        self.check()
        return killed


def exchange(context: SecureRoundContext) -> None:
    """What `homeroom device sync` does of statistics."""
    rules, folder = context.configuration.statistics, context.store.directory / "downloads"
    if rules.mode == "secure":
        secure_statistics.exchange_secure_statistics(context, folder)
        return
    statistics.YES.write(context.store, rules)
    parts = (context.store, context.bundle, context.client, context.configuration, context.root, folder)
    statistics.exchange_statistics(*parts)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[httpx.BaseTransport]:
    service = open_service(folder)
    try:
        with contextlib.closing(InProcess(make_app(service))) as line:
            yield line
    finally:
        service.close()


@pytest.fixture(params=["plain", "secure"])
def lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Lesson:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    rules = msgspec.structs.replace(PLAIN, mode=request.param)
    asked = RoundConfiguration(
        bundle_id="0" * 64, min_devices=3, statistics=rules, secure=RULES if request.param == "secure" else None
    )
    folder = make_folder(tmp_path, min_devices=3, statistics=asked.statistics, secure=asked.secure)
    found = Lesson(folder, [School() for _ in range(4 if asked.secure else 3)], request.param)
    if asked.secure:
        signer, names = new_key(), [school.name for school in found.schools]
        word = certify(ROOT, "roster", signer, "t")
        roster = make_roster(signer, word, names, serial=1, minimum=3, institution="t")
        replace_roster(folder, msgspec.json.encode(roster))
    with served(folder) as line:
        for number, school in enumerate(found.schools):
            name = f"school {number}"
            (invitation,) = make_invitations(folder, ADDRESS, [(name, "device")], consents={name: "the head"})
            join(invitation, school.key, transport=line)
    return found


def test_a_death_on_either_side_costs_nothing(lesson: Lesson) -> None:
    """In the order of the exchange, so that each of them finds its moment still to come."""
    some = list(PLACES[lesson.mode])[: -len(BOTH) : 2]
    assert lesson.deaths([(name, 1, bool(number % 2)) for number, name in enumerate(some)]) == len(some)


@pytest.mark.extra
@pytest.mark.timeout(900)
def test_fifty_deaths_at_seeded_moments_lose_and_repeat_nothing(lesson: Lesson) -> None:
    chance, killed = random.Random(20261202), 0
    while killed < 50:
        names = [chance.choice(list(PLACES[lesson.mode])) for _ in range(6)]
        most = {"a statement": 60, "a commit": 20}  # others are called once or twice by each device
        deaths = [(name, chance.randint(1, most.get(name, 2)), chance.random() < 0.5) for name in names]
        killed += lesson.deaths(deaths)
