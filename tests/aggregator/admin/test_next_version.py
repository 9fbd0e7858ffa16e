"""The next version comes with the devices there are: an automatic buffer, and what is said where none would come."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import pytest

from aggregator.admin.starting import start
from aggregator.institution import ROOT, School, make_folder, running, write_bundle
from homeroom.contract.round import MOST_KRUM_UPDATES, RoundConfiguration
from homeroom.contract.signing import write_key
from homeroom.errors import InputError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin import next_version
from homeroom_aggregator.admin.configuration import DistrictConfiguration, with_options
from homeroom_aggregator.admin.configuration_file import CONFIGURATION_FILE, read_configuration, read_file
from homeroom_aggregator.admin.folder import invite_devices, open_rounds
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import last_seen


@pytest.fixture
def folder(tmp_path: Path, started: list[Service]) -> Path:
    """A district that was served once, by no option of the rounds."""
    write_key(tmp_path / "root.pem", ROOT)
    where = tmp_path / "district"
    words = ["--bundle", write_bundle(tmp_path / "bundle"), "--root-key", tmp_path / "root.pem"]
    done = start(where, *words, "--institution", "District 7")
    assert done.exit_code == 0, done.output
    return where


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    with closing(open_service(folder)) as opened:
        yield opened


def enrolled(folder: Path, address: str, count: int) -> list[Client]:
    keys = [School().key for _ in range(count)]
    invited = invite_devices(folder, address, count)
    return [Client(join(invitation, key), key) for invitation, key in zip(invited, keys, strict=True)]


def send(client: Client) -> tuple[int, int] | None:
    base = httpx.get(f"{client.enrolment.address}/v1/health").json()["version"]
    client.update(School(client.key).update(client.round(), 0.5, base))
    return client.waiting


def test_three_devices_get_a_version_with_no_option_at_all(folder: Path, service: Service) -> None:
    assert "#buffer_size = 3\n" in (folder / CONFIGURATION_FILE).read_text()
    with running(service) as address:
        clients = enrolled(folder, address, 3)
        assert [send(client) for client in clients] == [(1, 3), (2, 3), (0, 3)], "each is told how many are here"
        assert service.reader.newest() == 1


def test_the_buffer_follows_the_devices_and_a_replay_reads_no_clock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_service(folder)) as service, running(service) as address:
        clients = enrolled(folder, address, 9)
        for client in clients:
            client.round()
        assert send(clients[0]) == (1, 4), "half of nine"
        for client in clients[1:4]:
            send(client)
        assert service.reader.newest() == 1
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=40)
        for module in (last_seen, next_version):
            monkeypatch.setattr(module, "now", lambda: later)
        assert send(clients[0]) == (1, 3), "the others were not here for 40 days"
    monkeypatch.undo()
    with closing(open_rounds(folder)) as rounds:
        assert rounds.verify() == []
        assert rounds.configuration.buffer_size == 3
        bodies = [msgspec.json.decode(entry.body)["buffer_size"] for entry in rounds.log.configurations()]
        assert bodies == [4, 3], "each value that was in force is an entry of the log"


def test_an_option_or_a_line_of_the_file_ends_it_and_a_removed_line_begins_it(folder: Path) -> None:
    assert read_configuration(folder).automatic_buffer
    open_service(folder, None, with_options(read_configuration(folder), {"buffer_size": 7})).close()
    path = folder / CONFIGURATION_FILE
    assert "\nbuffer_size = 7\n" in path.read_text()
    with closing(open_service(folder)) as service:
        assert service.rounds.configuration.buffer_size == 7
    path.write_text(path.read_text().replace("\nbuffer_size = 7\n", "\n"))
    with closing(open_service(folder)) as service:
        assert service.rounds.configuration.buffer_size == 3
    path.write_text(path.read_text() + "\n[extra]\n")
    with pytest.raises(InputError, match="is no field"):
        read_configuration(folder)


def test_a_folder_of_before_keeps_its_buffer(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, buffer_size=5)
    with closing(open_service(folder)) as service:
        assert service.rounds.configuration.buffer_size == 5
    assert "\nbuffer_size = 5\n" in (folder / CONFIGURATION_FILE).read_text()
    assert not read_configuration(folder).automatic_buffer


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"min_devices": 8}, 8),
        ({"epsilon": 8.0, "clip_norm": 1.0, "noise_multiplier": 2.0}, 5),
        ({"deadline": 60.0, "quorum": 5}, None),
        ({"secure": True}, None),
        ({"buffer_size": 4}, None),
    ],
)
def test_no_buffer_follows_where_a_sum_or_a_deadline_ends_the_round(
    options: dict[str, object], size: int | None, tmp_path: Path
) -> None:
    path = tmp_path / CONFIGURATION_FILE
    path.write_text("")
    wanted = with_options(
        read_file(path) if "epsilon" not in options else DistrictConfiguration(automatic_buffer=True), options
    )
    assert wanted.automatic_buffer == (size is not None)
    assert size in (None, wanted.round.buffer_size)


def test_what_would_never_come_is_said_with_its_reason_and_the_buffer_that_would() -> None:
    def outlook(updates: int, needed: int, devices: str, active: str) -> next_version.NextVersion:
        return next_version.NextVersion(updates, needed, devices, active, least=3)

    assert outlook(0, 5, "", "abcde").hindrance == ""
    assert outlook(3, 5, "abc", "abcde").hindrance == ""
    stuck = outlook(3, 5, "abc", "abc")
    assert stuck.hindrance == "needs 5 updates, and only 3 came in the last 30 days, of schools that consent"
    assert stuck.fits == 3
    assert outlook(1, 3, "a", "ab").hindrance.startswith("needs 3 different devices, and only 2 came")
    assert outlook(2, 4, "ab", "cde").hindrance == "", "those that sent and went away count as well"


def test_the_buffer_that_is_forecast_is_no_larger_than_multi_krum_compares() -> None:
    came = [f"device {number}" for number in range(2 * MOST_KRUM_UPDATES + 2)]
    waits = next_version.NextVersion(0, 3, (), came, 3, rule="multi-krum")
    assert waits.fits == MOST_KRUM_UPDATES
    assert msgspec.structs.replace(RoundConfiguration(bundle_id="b" * 64, rule="multi-krum"), buffer_size=waits.fits)
    assert next_version.NextVersion(0, 3, (), came, 3, rule="bounded").fits == MOST_KRUM_UPDATES + 1
