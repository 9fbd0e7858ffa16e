"""Faults of networks and servers that fail, lie, stall and truncate; a part of `fault_injection.py`."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from aggregator.institution import learn, make_folder, running
from aggregator.server import test_faulty_network as lines
from faults import proxy

from homeroom.errors import HomeroomError, NetworkError
from homeroom.federation.enrolment import set_network
from homeroom_aggregator.server.rate_limits import DeviceLimits
from homeroom_aggregator.server.service import Service, open_service

Trials = Iterator[tuple[int, Callable[[], object]]]


@contextlib.contextmanager
def district(folder: Path) -> Iterator[Service]:
    """An aggregator without limits whose bundle holds no graphs, and devices that do not wait between tries."""
    with (
        mock.patch("homeroom.inference.golden.choose_precision", return_value={}),
        mock.patch("tenacity.nap.time.sleep", return_value=None),
        mock.patch("homeroom.federation.network.transport.READ_TIMEOUT_S", 0.5),
    ):
        service = open_service(make_folder(folder, buffer_size=1, min_devices=1, max_staleness=10_000))
        service.meter.limits = DeviceLimits(0, 0, 0, 0)
        try:
            yield service
        finally:
            service.close()


def many_syncs(folder: Path, quick: bool) -> Trials:
    with district(folder) as service:
        count = 40 if quick else 1000
        yield count, lambda: lines.many_syncs(service, folder, count, 4 if quick else 10)


def a_day_of(fault: str, syncs: int) -> Callable[[Path, bool], Trials]:
    """Every request of a day meets this fault: each sync is one sentence, and afterwards the update goes out once."""

    def trials(folder: Path, quick: bool) -> Trials:
        with (
            district(folder) as service,
            running(service) as address,
            lines.classroom(service, folder, address) as device,
        ):
            learn(device, 0.5)
            before = device.status()["updates_waiting"]

            def attempt(through: str) -> None:
                set_network(device.store, address=through, lan="off")
                with pytest.raises(NetworkError):
                    device.sync()
                assert device.status()["updates_waiting"] == before

            def afterwards() -> None:
                set_network(device.store, address=address)
                device.sync()
                device.sync()
                assert device.status()["updates_waiting"] == 0
                assert service.rounds.log.count("update") == service.rounds.state.version == 1
                assert not list((folder / "classroom" / "downloads").iterdir())

            bad = proxy.Proxy(address, lambda _: fault)
            with proxy.running(bad) as through:
                for _ in range(2 if quick else syncs):
                    yield 1, lambda: attempt(through)
            yield 1, afterwards

    return trials


def lies(folder: Path, quick: bool) -> Trials:
    """A version that is forged, older, torn or not finite is refused with a sentence, and changes nothing."""
    with district(folder) as service, running(service) as address, lines.classroom(service, folder, address) as device:
        learn(device, 0.5)
        device.sync()
        before = device.status()
        theta = device.store.versions.theta(before["in_use"]["version_id"])

        def attempt(body: bytes) -> None:
            with (
                mock.patch.object(service.downloads.reader, "version", return_value=body),
                mock.patch.object(service.downloads.reader, "newest", return_value=2),
                mock.patch.object(service.reader, "newest", return_value=2),
                pytest.raises(HomeroomError),
            ):
                device.sync()
            assert device.status() == before
            assert (device.store.versions.theta(before["in_use"]["version_id"]) == theta).all()

        for lie in lines.LIES.values():
            yield 1, lambda lie=lie: attempt(lie(service))
        yield 1, device.sync


def clocks(folder: Path, quick: bool) -> Trials:
    """Enrolment and sync with a clock that is years off."""

    def attempt(year: int) -> None:
        then = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
        with contextlib.ExitStack() as stack:
            for name in ("homeroom.federation.sync.now", "homeroom.system.clock.now"):
                stack.enter_context(mock.patch(name, return_value=then))
            service = stack.enter_context(district(folder / str(year)))
            address = stack.enter_context(running(service))
            device = stack.enter_context(lines.classroom(service, folder / str(year), address))
            learn(device, 0.5)
            report = device.sync()
            assert (len(report.sent), report.version) == (1, 1)
            assert report.clock_off_s is not None

    for year in (1970, 2093) if quick else (1970, 1980, 2000, 2015, 2038, 2070, 2093):
        (folder / str(year)).mkdir()
        yield 1, lambda year=year: attempt(year)


FAULTS = {
    "syncs through a line where a third of requests fail": ("every update once, and nothing grows", many_syncs),
    "a server that answers 5xx for a day": ("one sentence each time, then sent once", a_day_of("error", 24)),
    "a server that stalls for a day": ("one sentence each time, then sent once", a_day_of("stall", 6)),
    "answers cut in half for a day": ("one sentence each time, then sent once", a_day_of("truncate", 24)),
    "answers that are lost for a day": ("one sentence each time, then sent once", a_day_of("lost", 24)),
    "a captive portal for a day": ("one sentence each time, then sent once", a_day_of("page", 24)),
    "a server that lies about versions": ("refused, nothing changed", lies),
    "joining and syncing with a clock that is years off": ("it works", clocks),
}
