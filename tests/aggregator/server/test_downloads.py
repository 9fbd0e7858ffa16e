"""What a device fetches in pieces: nothing that came is lost to a break, nothing wrong is kept."""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from faults import proxy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aggregator.institution import START, School, latest
from homeroom.contract.canonical_json import digest
from homeroom.contract.delta import apply_delta, make_delta
from homeroom.contract.signing import certify, new_key
from homeroom.contract.version import make_version, read_version
from homeroom.errors import DiskFullError, NetworkError
from homeroom.federation.network.client import Client, join
from homeroom.federation.network.download import FSYNC_INTERVAL_BYTES, DownloadOffer, download
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.network.transport import Connection, read_bounded
from homeroom.runtime.bundle import install
from homeroom_aggregator.admin.folder import invite_devices
from homeroom_aggregator.server.service import Service

KEY = new_key()
WORD = certify(new_key(), "aggregator", KEY, "tests")


@pytest.fixture
def rules() -> dict[str, Any]:
    return {"buffer_size": 1, "min_devices": 1}


def enrol(service: Service, address: str, network: NetworkSettings | None = None) -> tuple[School, Client]:
    school = School()
    (invitation,) = invite_devices(service.rounds.log.database.path.parent, address, 1)
    return school, Client(join(invitation, school.key), school.key, network)


# A file in pieces


CONTENT = np.random.default_rng(0).bytes(3 * FSYNC_INTERVAL_BYTES + 1000)
PARCEL = DownloadOffer(path="/v1/bundles/0", size=len(CONTENT), sha256=digest(CONTENT))


class Line:
    """A server of CONTENT whose answers break after so many bytes each; `asked` are the ranges it saw."""

    def __init__(self, breaks: list[int], content: bytes = CONTENT, *, ranges: bool = True) -> None:
        self.breaks, self.content, self.ranges, self.asked = breaks, content, ranges, list[str]()
        self.line = Connection("http://district.example", transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        asked = request.headers.get("range", "")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        whole = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        headers = {"content-range": whole} if start else {}
        return httpx.Response(206 if start else 200, headers=headers, content=self.body(self.content[start:]))

    def body(self, rest: bytes) -> Iterator[bytes]:
        size = self.breaks.pop(0) if self.breaks else len(rest)
        for begin in range(0, min(size, len(rest)), 10_000):
            yield rest[begin : min(begin + 10_000, size)]
        if size < len(rest):
            raise httpx.ReadError("the line broke")

    def fetch(self, folder: Path, parcel: DownloadOffer = PARCEL, limit_bytes: int = 1 << 30) -> Path:
        def one(path, headers, read):  # type: ignore[no-untyped-def]
            def prepare() -> httpx.Request:
                request = self.line.request("GET", path)
                request.headers.update(headers())
                return request

            return self.line.exchange(prepare, read)

        return download(parcel, folder, "bundle", limit_bytes, one)


def test_a_download_goes_on_where_the_line_broke_however_often(tmp_path: Path) -> None:
    line = Line([300_000, 100, 1, 200_000, 0, 0, 90_000])
    assert line.fetch(tmp_path).read_bytes() == CONTENT
    assert line.asked[1] == "bytes=300000-"


def test_after_a_restart_only_what_was_synced_for_sure_is_kept(tmp_path: Path) -> None:
    with pytest.raises(NetworkError):
        Line([FSYNC_INTERVAL_BYTES + 5000, 0, 0, 0, 0, 0]).fetch(tmp_path)
    (part,) = tmp_path.iterdir()
    torn = part.read_bytes()[: FSYNC_INTERVAL_BYTES + 3000] + bytes(2000)  # what a power cut may leave at the end
    part.write_bytes(torn)
    line = Line([])
    assert line.fetch(tmp_path).read_bytes() == CONTENT
    assert line.asked == [f"bytes={FSYNC_INTERVAL_BYTES}-"]


def test_a_server_without_ranges_sends_all_again(tmp_path: Path) -> None:
    line = Line([300_000], ranges=False)
    assert line.fetch(tmp_path).read_bytes() == CONTENT


def test_what_is_not_what_was_offered_is_thrown_away(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="not what was offered"):
        Line([], bytes(len(CONTENT))).fetch(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(NetworkError, match="more than was offered"):
        Line([], CONTENT + b"more").fetch(tmp_path)


def test_a_download_is_bounded_and_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match="allowed"):
        Line([]).fetch(tmp_path, limit_bytes=1000)
    usage = type("Usage", (), {"free": len(CONTENT)})
    monkeypatch.setattr("homeroom.federation.network.download.shutil.disk_usage", lambda _: usage)
    line = Line([])
    with pytest.raises(DiskFullError):
        line.fetch(tmp_path)
    assert not line.asked


def test_of_each_kind_one_unfinished_file_is_kept(tmp_path: Path) -> None:
    for number in range(3):
        content = CONTENT + bytes([number])
        parcel = DownloadOffer(path="/v1/x", size=len(content), sha256=digest(content))
        with pytest.raises(NetworkError):
            Line([FSYNC_INTERVAL_BYTES, 0, 0, 0, 0, 0], content).fetch(tmp_path, parcel)
    assert len(list(tmp_path.iterdir())) == 1


# Differences


@given(
    arrays(np.float32, 40, elements=st.floats(-100, 100, width=32)),
    arrays(np.float32, 40, elements=st.floats(-100, 100, width=32)),
)
def test_a_difference_gives_the_signed_file_bit_for_bit(old: np.ndarray, new: np.ndarray) -> None:
    version = make_version(KEY, WORD, "0" * 64, 3, new, {"head": 3})
    assert apply_delta(old, make_delta(old, version)) == version


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_a_difference_of_that_length_or_refused(data: bytes, size: int) -> None:
    old = np.zeros(size, np.float32)
    for found in (data, b"HRDELTA1" + data, make_delta(old, bytes(4 * size))[: 12 + len(data)] + data):
        with contextlib.suppress(NetworkError):
            apply_delta(old, found)


def test_a_difference_that_unpacks_to_far_too_much_is_refused() -> None:
    bomb = make_delta(np.zeros(5_000_000, np.float32), bytes(20_000_000))
    with pytest.raises(NetworkError, match="does not hold 10 values"):
        apply_delta(np.zeros(10, np.float32), bomb)


def test_a_small_step_of_a_large_theta_travels_in_far_fewer_bytes() -> None:
    rng = np.random.default_rng(1)
    old = rng.standard_normal(50_000).astype(np.float32)
    new = old.copy()
    new[:10_000] += (rng.standard_normal(10_000) * 1e-3).astype(np.float32)
    version = make_version(KEY, WORD, "0" * 64, 3, new, {})
    assert len(make_delta(old, version)) < len(version) / 5


# Over the wire


def test_a_device_fetches_the_difference_and_gets_the_signed_version(
    service: Service, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    school, client = enrol(service, address)
    assert client.newest(0, START, tmp_path / "d") == (None, 0)
    client.update(school.update(client.round(), 0.0, ladder_table=4))  # of ten values a difference is no smaller else
    monkeypatch.setattr("homeroom_aggregator.server.downloads.make_delta", padded := _counting(make_delta))
    data, received = client.newest(0, START, tmp_path / "d")
    assert data == service.rounds.version(1)
    assert padded.calls == 1
    assert not list((tmp_path / "d").iterdir())
    assert data is not None
    assert 0 < received < len(data)
    client.newest(0, START, tmp_path / "d")
    assert padded.calls == 1  # computed once


def _counting(function):  # type: ignore[no-untyped-def]
    def counted(*arguments):  # type: ignore[no-untyped-def]
        counted.calls += 1
        return function(*arguments)

    counted.calls = 0
    return counted


def test_a_lie_in_the_difference_costs_a_whole_download_and_nothing_else(
    service: Service, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    school, client = enrol(service, address)
    client.update(school.update(client.round(), 0.5))
    right = service.rounds.version(1) or b""
    front = 12 + len(right) - 4 * len(START)
    lies = [b"HRDELTA1" + bytes(100), make_delta(START, right)[:front] + zlib.compress(bytes(4 * len(START)))]
    for lie in lies:  # no difference at all; and one that changes nothing
        service.downloads._kept.clear()
        monkeypatch.setattr("homeroom_aggregator.server.downloads.make_delta", lambda *_, lie=lie: lie)
        data, received = client.newest(0, START, tmp_path)
        assert data == right
        assert received == len(lie) + len(right)


def test_ranges_are_served_as_they_are_asked_for(service: Service, address: str, tmp_path: Path) -> None:
    _, client = enrol(service, address)
    where = str(service.downloads.bundle["path"])
    read = read_bounded(1 << 30, "test")
    whole = client.ask("GET", where, read_file=read).body
    assert digest(whole) == service.downloads.bundle["sha256"]
    part = client.ask("GET", where, headers=lambda: {"range": "bytes=100-"}, read_file=read)
    assert (part.status, part.body) == (206, whole[100:])
    (tmp_path / "b.homeroom").write_bytes(whole)
    assert install(tmp_path / "b.homeroom", tmp_path / "here", root=None).bundle_id == service.rounds.bundle.bundle_id
    assert client.ask("GET", f"/v1/bundles/{'0' * 64}").status == 404


def test_parts_of_a_version_are_served_and_impossible_ones_refused(service: Service, address: str) -> None:
    school, client = enrol(service, address)
    client.update(school.update(client.round(), 0.5))
    body = service.rounds.version(1) or b""

    def ask(asked: str, **headers: str) -> tuple[int, bytes]:
        answer = client.ask("GET", "/v1/versions/1", headers=lambda: {"range": asked, **headers})
        return answer.status, answer.body

    assert ask("bytes=10-19") == (206, body[10:20])
    assert ask("bytes=10-") == (206, body[10:])
    assert ask("bytes=0-999999999") == (206, body)
    assert ask(f"bytes={len(body)}-")[0] == 416
    assert ask("bytes=5-2")[0] == 416
    assert ask("bytes=-5") == (200, body)
    assert ask("bytes=10-", **{"if-range": '"7"'}) == (200, body)


def test_a_version_comes_whole_through_a_line_that_cuts_many_answers(
    service: Service, address: str, tmp_path: Path
) -> None:
    school, client = enrol(service, address)
    client.update(school.update(client.round(), 0.5))
    bad = proxy.Proxy(address, proxy.seeded(5, 0.3, ("truncate",)))
    with proxy.running(bad) as through:
        away = Client(msgspec.structs.replace(client.enrolment, address=through), school.key)
        found = []
        for _ in range(20):
            with contextlib.suppress(NetworkError):  # three breaks in a row: the next sync goes on from there
                found.append(away.newest(0, START, tmp_path)[0])
    data = service.rounds.version(1)
    assert set(found) == {data}
    assert bad.met["truncate"] > 3
    bundle = service.rounds.bundle
    header, theta = read_version(
        data or b"", bundle.manifest.layout, bundle_id=bundle.bundle_id, root_fingerprint=client.enrolment.root
    )
    assert header.version == 1
    np.testing.assert_array_equal(theta[:7], START[:7] + np.float32(0.5))


def test_polls_are_answered_while_a_difference_is_computed(
    service: Service, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeroom_aggregator.server import downloads

    began, goes_on = threading.Event(), threading.Event()

    def slow(old: np.ndarray, version: bytes) -> bytes:
        began.set()
        assert goes_on.wait(60)
        return make_delta(old, version)

    school, client = enrol(service, address)
    client.update(school.update(client.round(), 0.5))
    monkeypatch.setattr(downloads, "make_delta", slow)
    found: list[bytes | None] = []
    fetching = threading.Thread(target=lambda: found.append(client.newest(0, START, tmp_path / "parts")[0]))
    fetching.start()
    assert began.wait(60)
    _, other = enrol(service, address)
    assert latest(other, 1) is None, "who has it already hears so at once"
    assert other.update(School(other.key).update(other.round(), 0.5)) == "accepted"
    assert not found
    goes_on.set()
    fetching.join(60)
    assert found == [service.rounds.version(1)]
