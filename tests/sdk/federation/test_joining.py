"""Whom a device joins: an invitation of its bundle and root, at an address that can be one, and only with a key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import tiny
from conftest import Attack
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from faults.devices import open_store

from homeroom.contract.invitation import Invitation, open_code, seal_code
from homeroom.contract.sealed_box import public_hex
from homeroom.errors import BundleError, HomeroomError, InputError, TrustError
from homeroom.federation import enrolment, offline
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.network.transport import check_urls
from homeroom.runtime.bundle import open_bundle

NOWHERE = "https://127.0.0.1:9"  # nothing listens there: who gets so far asks the network


@pytest.mark.attack("who is speaking", "an invitation of another root or for another bundle")
@pytest.mark.parametrize(
    ("changes", "error"), [({"root": "1" * 64}, TrustError), ({"bundle_id": "1" * 64}, BundleError)]
)
def test_a_device_joins_by_its_own_root_and_bundle_only(
    changes: dict[str, str], error: type[HomeroomError], tiny_bundle: tiny.Tiny, tmp_path: Path, attack: Attack
) -> None:
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    invitation = Invitation(
        address=NOWHERE, root=tiny_bundle.root, bundle_id=bundle.bundle_id, code="c" * 16, institution="District 7"
    )
    with open_store(tmp_path) as store:
        for join in (enrolment.enrol, offline.prepare_join):
            with pytest.raises(error, match="invitation"):
                join(store, bundle, msgspec.structs.replace(invitation, **changes), tiny_bundle.root)
        attack.got = int(enrolment.has_joined(store))
        assert enrolment.device_key(store) is None, "nothing is made for it"


def test_a_device_that_has_not_joined_sends_and_reads_nothing(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    with open_store(tmp_path) as store:
        with pytest.raises(InputError, match="has not joined"):
            offline.import_answer(store, bundle, tmp_path, tiny_bundle.root, lambda theta: {})
        for with_key in (False, True):  # a key alone is no membership
            if with_key:
                enrolment.make_key(store)
            with pytest.raises(InputError, match="has not joined"), enrolment.connect(store):
                pass
            with pytest.raises(InputError, match="has not joined"):
                offline.export_message(store, bundle, tmp_path, tiny_bundle.root)


@pytest.mark.attack("who is speaking", "an invitation's code that another device has sealed")
def test_a_code_is_opened_for_the_device_that_sealed_it(attack: Attack) -> None:
    box = X25519PrivateKey.generate()
    sealed = seal_code("the-code", "a" * 64, public_hex(box))
    assert open_code(sealed, "a" * 64, box) == "the-code"
    with pytest.raises(TrustError, match="by another device"):
        attack.got = len(open_code(sealed, "b" * 64, box))
    attack.noticed = "it was sealed by another device"


@pytest.mark.parametrize("address", ["https://d.example:0", "https://d.example:65535", "https://d.example"])
def test_an_address_has_a_port_that_exists(address: str) -> None:
    if address.endswith(":0"):
        with pytest.raises(InputError, match="a port from 1 to 65535"):
            check_urls(NetworkSettings(address=address))
    else:
        check_urls(NetworkSettings(address=address))
