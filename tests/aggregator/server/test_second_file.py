"""A bundle's second file over the network: fetched by a device whose int8 features are others, and by no other."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest
import second
import tiny
from click.testing import CliRunner

from aggregator.institution import running
from homeroom import Device
from homeroom.cli.main import homeroom
from homeroom.contract.canonical_json import digest_file
from homeroom.contract.http_signatures import INVITATION_HEADER
from homeroom.contract.invitation import enrolment_of
from homeroom.contract.signing import new_key
from homeroom.errors import BundleError, FallbackNeededError
from homeroom.federation.network.client import Client
from homeroom.runtime.fallback import second_file
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.server.service import open_service

IMAGE = "graphs/features.image.float32.onnx"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def invite(folder: Path, address: str, out: Path) -> Path:
    (invitation,) = invite_devices(folder, address, 1)
    out.write_bytes(msgspec.json.encode(invitation))
    return out


def float32_files(classroom: Path) -> list[str]:
    return sorted(path.name for path in (classroom / "bundles").rglob("*float32*"))


def test_a_device_fetches_the_second_file_only_where_it_needs_it(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = second.set_apart(tiny_bundle, tmp_path / "first")
    newer = second.set_apart(tiny_bundle, tmp_path / "newer", version=tiny_bundle.manifest.version + 1)
    folder, classroom = tmp_path / "district", tmp_path / "classroom"
    create_folder(folder, first, institution="District 7", root_key=tiny_bundle.root_key)
    service = open_service(folder)
    with running(service) as address:
        offers = httpx.get(f"{address}/v1/keys").json()
        assert offers["fallback"]["size"] == second_file(first).stat().st_size
        assert offers["fallback"]["sha256"] == digest_file(second_file(first))
        invitation = invite(folder, address, tmp_path / "invitation.json")
        for words in (("fetch", classroom, invitation), ("join", classroom, invitation)):
            done = CliRunner().invoke(homeroom, ["device", *map(str, words)], catch_exceptions=False)
            assert done.exit_code == 0, done.output
        assert not float32_files(classroom)

        (open_invitation,) = invite_devices(folder, address, 1)
        stranger = Client(enrolment_of(open_invitation), new_key())
        path = offers["fallback"]["path"]
        codes = ({}, {INVITATION_HEADER: "A" * 48})
        assert [stranger.ask("GET", path, headers=lambda h=h: h).status for h in codes] == [403, 403]

        second.other_image_features(monkeypatch)
        other = tmp_path / "other"
        words = ["device", "fetch", str(other), str(invite(folder, address, tmp_path / "second.json"))]
        assert CliRunner().invoke(homeroom, words, catch_exceptions=False).exit_code == 0
        assert float32_files(other) == [Path(IMAGE).name]
        assert not list((other / "downloads").iterdir())
    service.close()
    upgrade_bundle(tmp_path / "later", folder, newer)
    service = open_service(tmp_path / "later")
    with running(service) as address:
        CliRunner().invoke(
            homeroom, ["device", "network", str(classroom), "--address", address], catch_exceptions=False
        )
        with Device.open(classroom) as device:
            assert device.update_bundle()
            assert device.graphs.precision["image"] == "float32"
        assert float32_files(classroom) == [Path(IMAGE).name]
        assert not list((classroom / "downloads").iterdir())
    service.close()


def test_where_the_server_has_no_second_file_the_device_says_what_to_ask_for(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = second.set_apart(tiny_bundle, tmp_path / "bundle")
    second_file(bundle).unlink()
    create_folder(tmp_path / "district", bundle, institution="District 7", root_key=tiny_bundle.root_key)
    service = open_service(tmp_path / "district")
    second.other_image_features(monkeypatch)
    with running(service) as address:
        words = [
            "device",
            "fetch",
            str(tmp_path / "c"),
            str(invite(tmp_path / "district", address, tmp_path / "i.json")),
        ]
        done = CliRunner().invoke(homeroom, words)
        assert isinstance(done.exception, BundleError)
        assert done.exception.code == FallbackNeededError.code
        assert "which the aggregator does not hand out" in done.exception.what
        assert "NAME.float32.homeroom" in done.exception.remedy
    service.close()
