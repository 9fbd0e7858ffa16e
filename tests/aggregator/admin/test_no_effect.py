"""Options without an effect are refused and the others are not; invitations are never written over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.institution import make_folder
from homeroom.contract.privacy import Privacy
from homeroom.contract.secagg import SecureRules
from homeroom.errors import InputError
from homeroom_aggregator.admin import invitations
from homeroom_aggregator.admin.configuration import DistrictConfiguration, ServerSection, with_options
from homeroom_aggregator.admin.configuration_file import read_configuration
from homeroom_aggregator.admin.invitations import InvitationRequest
from homeroom_aggregator.server.public_address import FROM_AFAR, PublicAddresses

PROMISE = Privacy(clip_norm=1, noise_multiplier=2, epsilon=8, delta=1e-5, mechanism="distributed")


@pytest.fixture
def secure(tmp_path: Path) -> DistrictConfiguration:
    rules = SecureRules(cohort=8, minimum=3)
    return read_configuration(make_folder(tmp_path, secure=rules, buffer_size=4, min_devices=3))  # type: ignore[arg-type]


def test_a_buffer_says_nothing_in_secure_rounds_unless_they_are_private(secure: DistrictConfiguration) -> None:
    with pytest.raises(InputError, match="--buffer says nothing with --secure"):
        with_options(secure, {"buffer_size": 9})
    assert with_options(secure, {"buffer_size": 4}) == secure, "what is so already may be said"
    private = msgspec.structs.replace(secure, round=msgspec.structs.replace(secure.round, privacy=PROMISE))
    assert with_options(private, {"buffer_size": 9}).round.buffer_size == 9


@pytest.mark.parametrize("names", [("Hill",), ("Hill", "Lake")])
def test_an_invitation_that_is_there_is_not_written_over(names: tuple[str, ...], tmp_path: Path) -> None:
    requests = [InvitationRequest(name) for name in names]
    planned = invitations.plan_files(requests, tmp_path)
    assert [path.name for _, path in planned] == [f"{name}.json" for name in names]
    planned[-1][1].write_text("of yesterday")
    with pytest.raises(InputError, match="is there already"):
        invitations.plan_files(requests, tmp_path)
    assert invitations.plan_files(requests, tmp_path, anew=True) == planned


@pytest.mark.attack("bounds", "a host and a client that a stranger forwards in a proxy's place")
@pytest.mark.parametrize(
    ("client", "host"), [("10.0.0.7", b"d.example"), ("10.0.1.7", b"here"), ("no address", b"here"), (None, b"here")]
)
def test_only_a_proxy_that_is_trusted_says_for_which_host_it_asks(
    client: str | None, host: bytes, tmp_path: Path
) -> None:
    addresses = PublicAddresses(make_folder(tmp_path), ServerSection(trusted_proxies=("10.0.0.0/24",)), 8340)
    headers = [(b"host", b"here"), (b"x-forwarded-host", b"d.example"), (b"x-forwarded-for", b"1.2.3.4")]
    scope: dict[str, Any] = {"type": "http", "path": "/v1/round", "raw_path": b"/v1/round", "headers": headers}
    settled = addresses.settled({**scope, "client": client and (client, 1)})
    assert dict(settled["headers"])[b"host"] == host
    assert settled["client"] == FROM_AFAR, "and nobody for which client"
