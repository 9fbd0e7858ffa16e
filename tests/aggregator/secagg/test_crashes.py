"""Sudden deaths inside every phase of a secure round, on the server's side and on the device's: one sum, or none.

Each death is a forked child in which server and devices live, over the true routes without a socket; it kills itself
before or after one of the calls that make a phase. What every side finds on its disk then has to go on by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from aggregator.institution import ROOT, START, School, make_folder
from aggregator.merge.test_crashes import dying
from homeroom.contract.invitation import Enrolment
from homeroom.contract.roster import make_roster
from homeroom.contract.round import weight
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, new_key
from homeroom.contract.update_checks import read_update
from homeroom.federation import secure_round
from homeroom.federation.agreement import renew_round
from homeroom.federation.network.client import Client, join
from homeroom.federation.secure_update import UpdateContribution
from homeroom.store import Store
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.folder import invite_devices, open_folder_bundle, open_rounds, read_facts, replace_roster
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg import coordinator
from homeroom_aggregator.secagg.round_store import RoundStore
from homeroom_aggregator.server.routes import make_app
from homeroom_aggregator.server.service import open_service

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
RULES = SecureRules(minimum=3, cohort=4, drop_rate=0.25, corrupt_rate=0.1, phase_s=3600)
SCHOOLS = [School() for _ in range(4)]
ADDRESS = "http://district.example"
PLACES: dict[str, tuple[Any, str]] = {
    "device, keys": (secure_round, "advertise"),
    "device, its store": (Store, "put_secret"),
    "server, a message": (RoundStore, "put"),
    "server, a phase": (RoundStore, "save"),
    "device, shares": (secure_round, "share"),
    "device, input": (secure_round, "mask"),
    "device, consent": (secure_round, "consent"),
    "device, its copy": (Store, "back_up"),
    "device, reveal": (secure_round, "reveal"),
    "server, shares": (coordinator, "Unmasking"),
    "server, the sum": (coordinator, "unmask_sum"),
    "server, the merge": (Rounds, "take_sum"),
    "server, the release": (Rounds, "_release"),
    "server, the end": (RoundStore, "end"),
    "either, a statement": (Database, "write"),
    "either, a commit": (Database, "transaction"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An aggregator and four devices that have joined, each with an update that waits; all of it closed."""
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    made = make_folder(tmp_path, min_devices=3, secure=RULES)  # type: ignore[arg-type]
    signer = new_key()
    names = [school.name for school in SCHOOLS]
    roster = make_roster(signer, certify(ROOT, "roster", signer, "t"), names, serial=1, minimum=3, institution="t")
    replace_roster(made, msgspec.json.encode(roster))
    with served(made) as line:
        for number, (school, invitation) in enumerate(zip(SCHOOLS, invite_devices(made, ADDRESS, 4), strict=True)):
            join(invitation, school.key, transport=line)
            with contextlib.closing(Store.open(made.parent / f"device-{number}")) as store:
                queue(store, made, number, 0)
    return made


class InProcess(httpx.BaseTransport):
    """The server's routes in an event loop of their own, without a socket."""

    def __init__(self, app: Any) -> None:
        self.inner, self.loop = httpx.ASGITransport(app), asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return asyncio.run_coroutine_threadsafe(self._answer(request), self.loop).result(60)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        sent = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        answer = await self.inner.handle_async_request(sent)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[httpx.BaseTransport]:
    service = open_service(folder)
    try:
        with contextlib.closing(InProcess(make_app(service))) as line:
            yield line
    finally:
        service.close()


def queue(store: Store, folder: Path, number: int, base: int) -> None:
    """An update of a device, the same for the same device and base."""
    rng, configuration = np.random.default_rng((number, base)), read_facts(folder).configuration
    delta = rng.normal(0, 0.1, START.shape)
    data = SCHOOLS[number].update(configuration, delta, base, ladder_table=3 + number, head_grade=5)
    layout = open_folder_bundle(folder, read_facts(folder)).layout
    store.outbox.queue(read_update(data, configuration, layout).header.update_id, data, base, ())


def until_released(folder: Path, version: int) -> None:
    """All visit, one after another, until that version is there."""
    facts = read_facts(folder)
    bundle = open_folder_bundle(folder, facts)
    enrolment = Enrolment(address=ADDRESS, root=facts.root, institution="t", bundle_id=facts.bundle_id)
    with served(folder) as line, contextlib.ExitStack() as opened:
        stores = [opened.enter_context(contextlib.closing(Store.open(folder.parent / f"device-{n}"))) for n in range(4)]
        clients = [Client(enrolment, school.key, transport=line) for school in SCHOOLS]
        for _ in range(12):
            for store, school, client in zip(stores, SCHOOLS, clients, strict=True):
                configuration = client.round()
                renew_round(store, configuration)
                context = secure_round.SecureRoundContext(store, bundle, client, school.key, facts.root, configuration)
                secure_round.take_part(context, UpdateContribution(context))
                if _version(client.send("GET", "/v1/health", signed=False)) >= version:
                    client.send("GET", "/v1/secure")  # whoever comes next ends the round
                    return
    raise AssertionError("the round never ended")


def _version(health: bytes) -> int:
    return int(msgspec.json.decode(health)["version"])


def dies(work: Callable[[], None]) -> bool:
    """Whether a child that does this was killed; what goes wrong in it otherwise is shown, and raised."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def round_with_deaths(folder: Path, version: int, deaths: list[tuple[str, int, bool]]) -> int:
    """A round that makes this version, with children that die on the way; how many did. Then everything is checked."""
    wanted, killed = expected(folder, version), 0
    for name, calls, late in deaths:

        def work(name: str = name, calls: int = calls, late: bool = late) -> None:
            module, function = PLACES[name]
            setattr(module, function, dying(getattr(module, function), calls, late))
            until_released(folder, version)

        killed += dies(work)
    until_released(folder, version)
    with contextlib.closing(open_rounds(folder)) as rounds:
        assert rounds.log.count("secure") == rounds.state.version == version, "each sum is merged once"
        assert rounds.state.theta.tobytes() == wanted, "of all four updates, to the last bit"
        assert rounds.verify() == []
    return killed


def expected(folder: Path, version: int) -> bytes:
    """Theta after the plain weighted mean of the four updates that wait for this version."""
    with contextlib.closing(open_rounds(folder)) as rounds:
        layout, configuration, theta = rounds.rules.layout, rounds.configuration, rounds.state.theta.copy()
    sums = {name: (np.zeros(layout[name].size, np.int64), 0) for name in ("ladder.table", "head.grade")}
    for number in range(4):
        with contextlib.closing(Store.open(folder.parent / f"device-{number}")) as store:
            queue(store, folder, number, version - 1)
            (waiting,) = (u for u in store.outbox.pending() if u.base == version - 1)
            update = read_update(waiting.data, configuration, layout)
            for (name, values), entry in zip(update.values.items(), update.header.segments, strict=True):
                units = weight(entry.examples, 0, configuration)
                total, before = sums[name]
                sums[name] = total + values.astype(np.int64) * units, before + units
    for name, (total, units) in sums.items():
        where, step = layout.slices[name], total.astype(np.float64) / units * 2.0**-configuration.scale_bits
        theta[where] = (theta[where].astype(np.float64) + step).astype(np.float32)
    return theta.tobytes()


def test_a_death_on_either_side_in_each_phase_costs_nothing(folder: Path) -> None:
    """In the order of the round, so that each of them finds its moment still to come."""
    names = [name for name in PLACES if not name.startswith("either")]
    deaths = [(name, 1 if number else 2, bool(number % 2)) for number, name in enumerate(names)]
    assert round_with_deaths(folder, 1, deaths) == len(deaths)


@pytest.mark.extra
@pytest.mark.timeout(900)
def test_fifty_deaths_at_seeded_moments_of_secure_rounds_lose_and_repeat_nothing(folder: Path) -> None:
    chance, killed, version = random.Random(20261125), 0, 0
    while killed < 50:
        version += 1
        names = [chance.choice(list(PLACES)) for _ in range(6)]
        killed += round_with_deaths(
            folder, version, [(name, chance.randint(1, 9), chance.random() < 0.5) for name in names]
        )
