"""Enrolment of a device: invitation, key, addresses, rotation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.invitation import Invitation
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key, public_hex
from homeroom.errors import BundleError, InputError, TrustError
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.system.identity import machine_identity

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client
    from homeroom.federation.network.transport import NetworkSettings

NEXT_KEY_SECRET = "identity.next"


def enrol(store: Store, bundle: Bundle, invitation: Invitation, root: str) -> RoundConfiguration:
    """Join the invitation's aggregator with this device's key; return what it asks for.

    The key is durable before the code is spent, so that a join which was cut short can be repeated.
    """
    from homeroom.federation.network.client import Client, enrolment_of, join
    from homeroom.federation.network.discovery import locate

    check_invitation(bundle, invitation, root)
    key = make_key(store)
    network = locate(enrolment_of(invitation), key, network_settings(store))
    enrolment = join(invitation, key, network)
    with contextlib.closing(Client(enrolment, key, network)) as client:
        configuration = client.round()
        store_aggregator(store, client)
    store.put_secret("identity.enrolment", msgspec.json.encode(enrolment))
    return configuration


def store_aggregator(store: Store, client: Client) -> None:
    """Keep who the aggregator is, and which school it takes this device for."""
    store.put_secret("identity.aggregator", msgspec.json.encode(client.certificate))
    store.put_secret("identity.school", client.school.encode())


def check_invitation(bundle: Bundle, invitation: Invitation, root: str) -> None:
    """Raise BundleError or TrustError unless the invitation is for this bundle and from the trusted root."""
    if invitation.bundle_id != bundle.bundle_id:
        raise BundleError(
            f"the invitation is for bundle {invitation.bundle_id[:12]}, not {bundle.bundle_id[:12]}",
            remedy="install the institution's bundle first",
        )
    if invitation.root != root:
        raise TrustError("the invitation's root is not the one this device trusts", remedy="ask who sent it")


def make_key(store: Store) -> Ed25519PrivateKey:
    """This device's key, durable before anything is done with it."""
    key = device_key(store) or new_key()
    store.put_secret("identity.key", key.private_bytes_raw())
    return key


@contextlib.contextmanager
def connect(store: Store) -> Iterator[Client]:
    """A client that speaks for this device; InputError if it has not joined."""
    from homeroom.federation.network.client import Client, Enrolment
    from homeroom.federation.network.discovery import locate
    from homeroom.federation.network.metered import check_metered

    enrolment, key = store.get_secret("identity.enrolment"), device_key(store)
    if enrolment is None or key is None:
        why = "the directory was copied to this machine" if store.moved else "this device has not joined"
        raise InputError(why, where=str(store.directory), remedy="join with a new invitation")
    network, known = network_settings(store), msgspec.json.decode(enrolment, type=Enrolment)
    check_metered(network)
    network = locate(known, key, network)
    with contextlib.closing(Client(known, key, network, instance=_machine_name(key))) as client:
        if store.get_secret(NEXT_KEY_SECRET) is not None:
            _finish_rotation(store, client)
        yield client


def network_settings(store: Store) -> NetworkSettings:
    """How this device is to reach its aggregator; a clock that the store doubts is not held against a certificate."""
    from homeroom.federation.network.transport import NetworkSettings

    body = store.get_secret("network")
    found = NetworkSettings() if body is None else msgspec.json.decode(body, type=NetworkSettings)
    return msgspec.structs.replace(found, clock="ignore") if store.clock_warning() else found


def set_network(store: Store, **changes: str) -> NetworkSettings:
    """Change and remember some of the settings in `network.transport.Network`; InputError where one is impossible."""
    from homeroom.federation.network.transport import NetworkSettings, check_urls

    body = store.get_secret("network")
    known = {} if body is None else msgspec.json.decode(body, type=dict[str, str])
    try:
        found = msgspec.convert({**known, **changes}, NetworkSettings)
    except msgspec.ValidationError as problem:
        raise InputError(
            f"no such setting: {problem}", remedy="an address is https://name, a proxy http://name:port"
        ) from None
    check_urls(found)
    store.put_secret("network", msgspec.json.encode(found))
    return found


def rotate_key(store: Store) -> None:
    """Let a new key speak for this device from now on; what was cut short is finished when it next connects."""
    if store.get_secret(NEXT_KEY_SECRET) is None:
        store.put_secret(NEXT_KEY_SECRET, new_key().private_bytes_raw())
    with connect(store):
        pass


def _finish_rotation(store: Store, client: Client) -> None:
    raw = store.get_secret(NEXT_KEY_SECRET)
    assert raw is not None
    client.rotate(Ed25519PrivateKey.from_private_bytes(raw))
    with store.step("key rotated"):
        store.put_secret("identity.key", raw)
        store.put_secret(NEXT_KEY_SECRET, None)


def _machine_name(key: Ed25519PrivateKey) -> str:
    """A name of this machine that tells the aggregator nothing else: a digest with the device's own key."""
    return digest(public_hex(key).encode() + machine_identity().encode())[:32]


def device_key(store: Store) -> Ed25519PrivateKey | None:
    secret = store.get_secret("identity.key")
    return None if secret is None else Ed25519PrivateKey.from_private_bytes(secret)


def follow_bundle(store: Store, bundle: Bundle) -> None:
    """From now on speak with the aggregator about this bundle."""
    from homeroom.federation.network.client import Enrolment

    body = store.get_secret("identity.enrolment")
    if body is not None:
        enrolment = msgspec.structs.replace(msgspec.json.decode(body, type=Enrolment), bundle_id=bundle.bundle_id)
        store.put_secret("identity.enrolment", msgspec.json.encode(enrolment))
        store.put_secret("identity.round", None)  # it was for the bundle of before
