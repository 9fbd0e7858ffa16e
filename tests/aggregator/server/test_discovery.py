"""The aggregator on the school's own network: found without an address, believed only under the right root."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from aggregator.institution import make_folder, running
from homeroom import Device
from homeroom.cli.main import homeroom
from homeroom.contract.invitation import enrolment_of
from homeroom.contract.signing import new_key
from homeroom.errors import AnswerError, MissingExtraError, NetworkError
from homeroom.federation.enrolment import set_network
from homeroom.federation.network import discovery
from homeroom.federation.network.client import Client
from homeroom.federation.network.settings import NetworkSettings
from homeroom_aggregator.admin.folder import invite_devices, read_facts
from homeroom_aggregator.server.routes import Service

pytest.importorskip("zeroconf")
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(
        "homeroom.inference.golden.choose_precision", lambda *_, **__: {}
    )  # these bundles hold no graphs
    monkeypatch.setattr(discovery, "INTERFACES", ["127.0.0.1"])


@contextlib.contextmanager
def announcing(service: Service, root: str) -> Iterator[str]:
    with running(service) as address, discovery.announce("0.0.0.0", int(address.rpartition(":")[2]), root):
        yield address


def test_a_device_joins_and_syncs_with_an_aggregator_whose_address_it_was_told_wrong(
    service: Service, tmp_path: Path
) -> None:
    (invitation,) = invite_devices(tmp_path / "district", NOWHERE, 1)
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    with announcing(service, invitation.root), Device.open(tmp_path / "c", tmp_path / "bundle") as device:
        device.join(tmp_path / "invitation.json")
        assert device.sync().version is None
        set_network(device.store, lan="off")
        with pytest.raises(NetworkError, match="no connection"):
            device.sync()


def test_a_device_is_made_from_an_invitation_whose_address_is_wrong(service: Service, tmp_path: Path) -> None:
    (invitation,) = invite_devices(tmp_path / "district", NOWHERE, 1)
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    with announcing(service, invitation.root):
        done = CliRunner().invoke(homeroom, ["device", "fetch", str(tmp_path / "c"), str(tmp_path / "invitation.json")])
    assert "lesson version 1" in done.output


def test_serve_announces_what_it_serves_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path)
    root, found = read_facts(folder).root, list[str]()

    def run(*_: Any, announced: Callable[[], contextlib.AbstractContextManager[None]], **__: Any) -> None:
        with announced():
            found.extend(discovery.find_addresses(root))

    monkeypatch.setattr("homeroom_aggregator.server.serve.serve", run)
    words = ["district", "serve", str(folder), "--port", "0", "--announce", "--host", "0.0.0.0"]
    done = CliRunner().invoke(homeroom, words, catch_exceptions=False)
    assert found
    assert f"listening on {found[0].replace('127.0.0.1', '0.0.0.0')}" in done.output
    assert discovery.find_addresses(root, 0.3) == []


def test_somebody_who_announces_the_root_without_its_key_is_not_spoken_with(service: Service, tmp_path: Path) -> None:
    (invitation,) = invite_devices(tmp_path / "district", NOWHERE, 1)
    service.rounds.key = new_key()  # it shows the aggregator's certificate, which is public, but has not its key
    with announcing(service, invitation.root) as address:
        assert discovery.find_addresses(invitation.root) == [address]
        enrolment, key = enrolment_of(invitation), new_key()
        with pytest.raises(AnswerError):
            Client(enrolment, key, NetworkSettings(address=address)).keys()
        assert discovery.locate(enrolment, key, NetworkSettings()) == NetworkSettings()


def test_an_aggregator_of_another_root_is_not_even_looked_at(service: Service, tmp_path: Path) -> None:
    with announcing(service, "0" * 64):
        assert discovery.find_addresses(read_facts(tmp_path / "district").root, 0.5) == []


def test_a_server_for_this_machine_alone_is_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "INTERFACES", None)
    with pytest.raises(NetworkError, match="this machine alone"), discovery.announce("127.0.0.1", 8340, "0" * 64):
        pass


def test_without_the_extra_the_address_by_hand_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="zeroconf"):
        discovery.find_addresses("0" * 64)
    (invitation,) = invite_devices(make_folder(tmp_path), NOWHERE, 1)
    by_hand = NetworkSettings(address="http://10.0.0.7:8340")
    assert discovery.locate(enrolment_of(invitation), new_key(), by_hand) == by_hand
