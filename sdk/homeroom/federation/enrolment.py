"""Enrolment of a device with an aggregator: invitation, key, network settings, key rotation."""

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
    """Joins the invitation's aggregator with this device's key; returns the round configuration it gives.

    The key is durable before the code is spent, so that an interrupted join can be repeated. Raises BundleError or
    TrustError if the invitation is for another bundle or root.

    store: of this device.
    bundle: in use.
    invitation: whose code is spent.
    root: fingerprint of the trusted root key.
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
    """Stores the aggregator's certificate, and the school it takes this device for."""
    store.put_secret("identity.aggregator", msgspec.json.encode(client.certificate))
    store.put_secret("identity.school", client.school.encode())


def check_invitation(bundle: Bundle, invitation: Invitation, root: str) -> None:
    """Raises BundleError or TrustError unless the invitation is for this bundle and from the trusted root."""
    if invitation.bundle_id != bundle.bundle_id:
        raise BundleError(
            f"the invitation is for bundle {invitation.bundle_id[:12]}, not {bundle.bundle_id[:12]}",
            remedy="install the institution's bundle first",
        )
    if invitation.root != root:
        raise TrustError("the invitation's root is not the one this device trusts", remedy="ask who sent it")


def make_key(store: Store) -> Ed25519PrivateKey:
    """This device's signing key, new if it has none, durable before it is used."""
    key = device_key(store) or new_key()
    store.put_secret("identity.key", key.private_bytes_raw())
    return key


@contextlib.contextmanager
def connect(store: Store) -> Iterator[Client]:
    """Connects to the aggregator with this device's key; raises InputError if it has not joined."""
    from homeroom.federation.network.client import Client, Enrolment
    from homeroom.federation.network.discovery import locate
    from homeroom.federation.network.metered import check_metered

    body, key = store.get_secret("identity.enrolment"), device_key(store)
    if body is None or key is None:
        why = "the directory was copied to this machine" if store.moved else "this device has not joined"
        raise InputError(why, where=str(store.directory), remedy="join with a new invitation")
    network, enrolment = network_settings(store), msgspec.json.decode(body, type=Enrolment)
    check_metered(network)
    network = locate(enrolment, key, network)
    with contextlib.closing(Client(enrolment, key, network, instance=_machine_name(key))) as client:
        if store.get_secret(NEXT_KEY_SECRET) is not None:
            _finish_rotation(store, client)
        yield client


def network_settings(store: Store) -> NetworkSettings:
    """The settings for reaching the aggregator; certificate dates are ignored while the store doubts the clock."""
    from homeroom.federation.network.transport import NetworkSettings

    body = store.get_secret("network")
    network = NetworkSettings() if body is None else msgspec.json.decode(body, type=NetworkSettings)
    return msgspec.structs.replace(network, clock="ignore") if store.clock_warning() else network


def set_network(store: Store, **changes: str) -> NetworkSettings:
    """Stores changes of some `NetworkSettings`; raises InputError where one is impossible."""
    from homeroom.federation.network.transport import NetworkSettings, check_urls

    body = store.get_secret("network")
    known = {} if body is None else msgspec.json.decode(body, type=dict[str, str])
    try:
        network = msgspec.convert({**known, **changes}, NetworkSettings)
    except msgspec.ValidationError as problem:
        raise InputError(
            f"no such setting: {problem}", remedy="an address is https://name, a proxy http://name:port"
        ) from None
    check_urls(network)
    store.put_secret("network", msgspec.json.encode(network))
    return network


def rotate_key(store: Store) -> None:
    """Replaces this device's key with a new one; an interrupted rotation is finished at the next connection."""
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
    """A pseudonym of this machine: a digest of its identity with the device's key, in 32 hex digits."""
    return digest(public_hex(key).encode() + machine_identity().encode())[:32]


def device_key(store: Store) -> Ed25519PrivateKey | None:
    """This device's signing key; None before it joins."""
    secret = store.get_secret("identity.key")
    return None if secret is None else Ed25519PrivateKey.from_private_bytes(secret)


def follow_bundle(store: Store, bundle: Bundle) -> None:
    """Enrols this device for another bundle of the same aggregator; the round of the bundle before is dropped."""
    from homeroom.federation.network.client import Enrolment

    body = store.get_secret("identity.enrolment")
    if body is not None:
        enrolment = msgspec.structs.replace(msgspec.json.decode(body, type=Enrolment), bundle_id=bundle.bundle_id)
        store.put_secret("identity.enrolment", msgspec.json.encode(enrolment))
        store.put_secret("identity.round", None)
