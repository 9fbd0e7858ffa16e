"""Whole syncs over a line that truncates, stalls, resets and repeats, and with a server that lies: nothing is lost,
nothing counts twice, nothing grows, nothing wrong is believed.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import psutil
import pytest
from faults import proxy

from aggregator.institution import ROOT, START, learn, make_folder, running
from homeroom import Device
from homeroom.contract.signing import certify, new_key
from homeroom.contract.version import make_version
from homeroom.errors import AnswerError, HomeroomError, NetworkError
from homeroom.federation.enrolment import device_key, set_network
from homeroom.federation.network import transport
from homeroom_aggregator.admin.configuration import DeviceLimits
from homeroom_aggregator.admin.folder import invite_devices
from homeroom_aggregator.server.routes import Service
from homeroom_aggregator.server.service import open_service

GROWTH_BYTES = 400  # of the store, for each update that was ever sent: its id is kept, in case it is to be unlearned
MEMORY_BYTES = 12 << 20


@pytest.fixture(autouse=True)
def quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(
        "homeroom.inference.golden.choose_precision", lambda *_, **__: {}
    )  # these bundles hold no graphs


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    opened = open_service(make_folder(tmp_path, buffer_size=1, min_devices=1, max_staleness=10_000))
    opened.meter.limits = DeviceLimits(0, 0, 0, 0)
    yield opened
    opened.close()


@contextlib.contextmanager
def classroom(service: Service, tmp_path: Path, address: str) -> Iterator[Device]:
    """A device that has joined."""
    (invitation,) = invite_devices(tmp_path / "district", address, 1)
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    with Device.open(tmp_path / "classroom", tmp_path / "bundle") as device:
        device.join(tmp_path / "invitation.json")
        yield device


def size_of(device: Device) -> int:
    """Bytes of the pages in use in device.db, whether they lie in the file yet or still in its write-ahead log."""
    one = device.store._context.database.one
    used = one("PRAGMA page_count")[0] - one("PRAGMA freelist_count")[0]
    return int(used * one("PRAGMA page_size")[0])


def many_syncs(service: Service, tmp_path: Path, count: int, every: int) -> None:
    """So many syncs with a new update before every so-manieth, through a line where a third of requests fail."""
    memory = psutil.Process()
    with running(service) as address, classroom(service, tmp_path, address) as device:
        bad = proxy.Proxy(address, proxy.seeded(7, 0.3))
        made, failed, marks = 0, 0, list[tuple[int, int]]()
        with proxy.running(bad) as through, mock.patch.object(transport, "READ_TIMEOUT_S", 0.5):
            set_network(device.store, address=through, lan="off")
            for number in range(count):
                if number % every == 0 and not device.store.outbox.pending():
                    learn(device, 0.001)
                    made += 1
                try:
                    device.sync()
                except NetworkError:
                    failed += 1
                if number in (count // 3, count - 1):
                    gc.collect()
                    marks.append((size_of(device), memory.memory_info().rss))
        set_network(device.store, address=address)
        device.sync()
        device.sync()
        assert {kind for kind in bad.met if kind != "none"} == set(proxy.FAULTS)
        assert failed < count
        assert device.status()["updates_waiting"] == 0
        assert service.rounds.log.count("update") == made == service.rounds.state.version
        assert device.status()["global_version"] == made
        assert not list((tmp_path / "classroom" / "downloads").iterdir())
        key = device_key(device.store)
        assert key is not None
        member = service.members.find(key.public_key().public_bytes_raw().hex())
        assert member is not None
        assert not member.twin  # lost answers are no sign of a second machine
    assert service.rounds.verify() == []
    (size, rss), (later, later_rss) = marks
    assert later - size <= GROWTH_BYTES * made + (64 << 10)
    assert later_rss - rss < MEMORY_BYTES


def test_syncs_through_a_faulty_line_bring_every_update_exactly_once(service: Service, tmp_path: Path) -> None:
    many_syncs(service, tmp_path, 20, every=2)


@pytest.mark.extra
@pytest.mark.timeout(1800)
def test_a_thousand_syncs_through_a_faulty_line_let_nothing_grow(service: Service, tmp_path: Path) -> None:
    many_syncs(service, tmp_path, 1000, every=10)


@pytest.mark.parametrize("year", [1970, 2093])
def test_joining_and_syncing_ask_nothing_of_the_clock(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    then = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
    for module in ("homeroom.federation.sync.now", "homeroom.system.clock.now"):
        monkeypatch.setattr(module, lambda: then)
    with running(service) as address, classroom(service, tmp_path, address) as device:
        learn(device, 0.5)
        report = device.sync()
        assert len(report.sent) == 1
        assert report.version == 1
        assert report.clock_off_s is not None
        assert abs(report.clock_off_s) > 365 * 86_400


# A server that lies


def forged(theta: np.ndarray, version: int = 2, bundle_id: str | None = None) -> Callable[[Service], bytes]:
    """A version that the aggregator's own key has signed, of its own bundle unless told."""

    def make(service: Service) -> bytes:
        rounds = service.rounds
        found = bundle_id or rounds.bundle.bundle_id
        return make_version(rounds.key, rounds.certificate, found, version, theta, {})

    return make


def of_another(service: Service) -> bytes:
    key, root = new_key(), new_key()
    return make_version(key, certify(root, "aggregator", key, "x"), service.rounds.bundle.bundle_id, 2, START, {})


def by_an_exporter(service: Service) -> bytes:
    key = new_key()
    return make_version(key, certify(ROOT, "exporter", key, "x"), service.rounds.bundle.bundle_id, 2, START, {})


LIES: dict[str, Callable[[Service], bytes]] = {
    "older": forged(START, 0),
    "other bundle": forged(START, bundle_id="0" * 64),
    "not finite": forged(np.full(len(START), np.nan, np.float32)),
    "too short": forged(START[:-1]),
    "other root": of_another,
    "exporter": by_an_exporter,
    "torn": lambda service: (service.rounds.version(1) or b"")[:-3],
    "nothing": lambda service: b"\0",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_version_that_does_not_hold_changes_nothing(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    with running(service) as address, classroom(service, tmp_path, address) as device:
        learn(device, 0.5)
        device.sync()
        before = device.status()
        theta = device.store.versions.theta(before["in_use"]["version_id"])
        body = LIES[lie](service)
        with monkeypatch.context() as lying:
            lying.setattr(service.downloads.reader, "version", lambda _: body)
            for reader in (service.reader, service.downloads.reader):
                lying.setattr(reader, "newest", lambda: 2)
            with pytest.raises(HomeroomError):
                device.sync()
        assert device.status() == before
        np.testing.assert_array_equal(device.store.versions.theta(before["in_use"]["version_id"]), theta)
        assert not list((tmp_path / "classroom" / "downloads").glob("*.part"))
        device.sync()


def test_a_round_that_another_key_signed_is_not_followed(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(service) as address, classroom(service, tmp_path, address) as device:
        kept = device.store.get_secret("identity.round")
        monkeypatch.setattr(service.rounds, "key", new_key())
        with pytest.raises(AnswerError):
            device.sync()
        assert device.store.get_secret("identity.round") == kept


def test_a_receipt_that_cannot_be_read_leaves_the_update_waiting(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(service) as address, classroom(service, tmp_path, address) as device:
        learn(device, 0.5)
        with monkeypatch.context() as lying:
            lying.setattr(service.rounds, "update", lambda *_: ("x", ["not", "a", "status"]))
            with pytest.raises(NetworkError, match="cannot be read"):
                device.sync()
        assert device.status()["updates_waiting"] == 1
        assert len(device.sync().sent) == 1
