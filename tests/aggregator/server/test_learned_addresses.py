"""A folder of 0.1.0 learns by which addresses its devices come, goes on meanwhile, and then answers to no others."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path

import httpx
import msgspec
import pytest
import stamina

from aggregator.institution import School, make_folder, running
from homeroom.errors import HomeroomError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin import learned_addresses
from homeroom_aggregator.admin.configuration_file import read_configuration
from homeroom_aggregator.admin.folder import make_invitations
from homeroom_aggregator.server.public_address import PublicAddresses
from homeroom_aggregator.server.service import open_service


class Proxy(httpx.BaseTransport):
    """Brings requests for any name to the server, and says that they came by TLS."""

    def __init__(self, address: str) -> None:
        self.there, self.line = httpx.URL(address), httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        where = request.url.copy_with(scheme="http", host=self.there.host, port=self.there.port)
        headers = httpx.Headers([*request.headers.multi_items(), ("x-forwarded-proto", "https")])
        return self.line.handle_request(httpx.Request(request.method, where, headers=headers, stream=request.stream))


def test_a_folder_of_before_learns_its_addresses_and_shuts_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path)
    (folder / "district.toml").write_text('# ours\ninstitution = "District 7"\n')
    stamina.set_testing(True, attempts=1)
    with contextlib.closing(open_service(folder)) as service:
        service.addresses = PublicAddresses(folder, service.configuration.server, 8340)
        service.learn_addresses()
        with running(service) as address:
            (invitation,) = make_invitations(folder, "https://hill.example", [("", "device")])
            school, proxy = School(), Proxy(address)
            client = Client(join(invitation, school.key, transport=proxy), school.key, transport=proxy)
            assert client.update(school.update(client.round())) == "accepted"
            database, now = service.rounds.log.database, datetime.datetime.now(datetime.UTC)
            assert learned_addresses.came(database) == ("https://hill.example",)
            service.learn_addresses()
            assert read_configuration(folder).server.addresses is None, "not before some days"
            monkeypatch.setattr(learned_addresses, "now", lambda: now + datetime.timedelta(days=15))
            assert not learned_addresses.is_over(database, service.rounds.members, {}), "no device came: it is summer"
            service.learn_addresses()
            assert read_configuration(folder).server.addresses == ("https://hill.example",)
            assert (folder / "district.toml").read_text().startswith("# ours\n")
            assert "addresses" not in (folder / "district.toml.before").read_text()
            client.round()
            evil = Client(
                msgspec.structs.replace(client.enrolment, address="https://evil.example"), school.key, transport=proxy
            )
            with pytest.raises(HomeroomError, match=r"evil\.example"):
                evil.round()
    stamina.set_testing(False)
