"""Enrolment of a device with an aggregator: invitation, key, network settings, key rotation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.address import is_secure
from homeroom.contract.canonical_json import digest
from homeroom.contract.invitation import Enrolment, Invitation, enrolment_of
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import Certificate, new_key, public_hex
from homeroom.errors import BundleError, InputError, TrustError
from homeroom.federation import agreement
from homeroom.federation.network.settings import NetworkSettings
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.store.device_state import StateRecord, json_record, text_record
from homeroom.system.identity import machine_identity

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client


def _key_record(name: str) -> StateRecord[Ed25519PrivateKey]:
    return StateRecord(name, lambda key: key.private_bytes_raw(), Ed25519PrivateKey.from_private_bytes)


ENROLMENT = json_record("identity.enrolment", Enrolment)
KEY, NEXT_KEY = _key_record("identity.key"), _key_record("identity.next")  # next: in a rotation
CERTIFICATE, SCHOOL = json_record("identity.aggregator", Certificate), text_record("identity.school")
NETWORK = json_record("network", NetworkSettings)


@dataclass(frozen=True)
class KnownAggregator:
    """The aggregator as this device last saw it: its certificate, and the school it takes this device for."""

    certificate: Certificate | None = None
    school: str = ""


def enrol(store: Store, bundle: Bundle, invitation: Invitation, root: str) -> RoundConfiguration:
    """Joins the invitation's aggregator with this device's key; returns the round configuration it gives.

    The key is durable before the code is spent, so that an interrupted join can be repeated. Raises BundleError or
    TrustError if the invitation is for another bundle or root.

    store: of this device.
    bundle: in use.
    invitation: whose code is spent.
    root: fingerprint of the trusted root key.
    """
    from homeroom.federation.network.client import Client, join
    from homeroom.federation.network.discovery import locate

    check_invitation(store, bundle, invitation, root)
    key = make_key(store)
    network = locate(enrolment_of(invitation), key, network_settings(store))
    enrolment = join(invitation, key, network)
    with contextlib.closing(Client(enrolment, key, network)) as client:
        configuration = client.round()
        store_aggregator(store, client.certificate, client.school)
    _store_enrolment(store, enrolment, network)
    return configuration


def _store_enrolment(store: Store, enrolment: Enrolment, network: NetworkSettings) -> None:
    """Stores the enrolment, gone over to TLS or to the server's new TLS key where that has proved itself.

    network: of `locate`.
    """
    if network.pin and not is_secure(enrolment.address):
        enrolment = msgspec.structs.replace(enrolment, address=network.address, pin=network.pin)
        own = NETWORK.read(store) or NetworkSettings()
        if own.address and not is_secure(own.address):
            NETWORK.write(store, msgspec.structs.replace(own, address=""))
    elif network.pin and enrolment.pin:
        enrolment = msgspec.structs.replace(enrolment, pin=network.pin)
    ENROLMENT.write(store, enrolment)


def store_aggregator(store: Store, certificate: Certificate | None, school: str) -> None:
    """Stores the aggregator's certificate, and the school it takes this device for."""
    CERTIFICATE.write(store, certificate)
    SCHOOL.write(store, school)


def known_aggregator(store: Store) -> KnownAggregator:
    """The aggregator as this device last saw it."""
    return KnownAggregator(CERTIFICATE.read(store), SCHOOL.read(store) or "")


def _check_address(store: Store, address: str) -> None:
    """TrustError where an address would lead this device from TLS down to plain http."""
    from homeroom.federation.network.tls import gate

    if enrolment := ENROLMENT.read(store):
        gate(enrolment.address, enrolment.pin, NetworkSettings(address=address))


def has_joined(store: Store) -> bool:
    """Whether this device has joined an aggregator."""
    return ENROLMENT.exists(store)


def check_invitation(store: Store, bundle: Bundle, invitation: Invitation, root: str) -> None:
    """Raises BundleError or TrustError unless the invitation is for this bundle, from the trusted root, and not down
    from TLS where this device joined by it.
    """
    _check_address(store, invitation.address)
    if invitation.bundle_id != bundle.bundle_id:
        raise BundleError(
            f"the invitation is for bundle {invitation.bundle_id[:12]}, not {bundle.bundle_id[:12]}",
            remedy="install the institution's bundle first",
        )
    if invitation.root != root:
        raise TrustError(
            "the invitation's root is not the one this device trusts",
            remedy="ask who sent it; if its root is right, begin a new directory with the invitation "
            "(`homeroom device fetch NEWDIR INVITATION`), and add the samples there",
        )


def make_key(store: Store) -> Ed25519PrivateKey:
    """This device's signing key, new if it has none, durable before it is used."""
    key = device_key(store) or new_key()
    KEY.write(store, key)
    return key


@contextlib.contextmanager
def connect(store: Store) -> Iterator[Client]:
    """Connects to the aggregator with this device's key; raises InputError if it has not joined."""
    from homeroom.federation.network.client import Client
    from homeroom.federation.network.discovery import locate
    from homeroom.federation.network.metered import check_metered

    enrolment, key = ENROLMENT.read(store), device_key(store)
    if enrolment is None or key is None:
        why = "the directory was copied to this machine" if store.moved else "this device has not joined"
        raise InputError(why, where=str(store.directory), remedy="join with a new invitation")
    network = network_settings(store)
    check_metered(network)
    network = locate(enrolment, key, network)
    if network.pin not in ("", enrolment.pin):
        _store_enrolment(store, enrolment, network)
    with contextlib.closing(Client(enrolment, key, network, instance=_machine_name(key))) as client:
        if NEXT_KEY.exists(store):
            _finish_rotation(store, client)
        yield client


def network_settings(store: Store) -> NetworkSettings:
    """The settings for reaching the aggregator; certificate dates are ignored while the store doubts the clock."""
    network = NETWORK.read(store) or NetworkSettings()
    return msgspec.structs.replace(network, clock="ignore") if store.clock_warning() else network


def _is_setting(name: str, value: str) -> bool:
    try:
        msgspec.convert({name: value}, NetworkSettings)
    except msgspec.ValidationError:
        return False
    return True


def set_network(store: Store, **changes: str) -> NetworkSettings:
    """Stores changes of some `NetworkSettings`; raises InputError where one is impossible."""
    from homeroom.federation.network.transport import check_urls

    known = NETWORK.read(store) or NetworkSettings()
    try:
        network = msgspec.convert({**msgspec.structs.asdict(known), **changes}, NetworkSettings)
    except msgspec.ValidationError:
        wrong = [f"{value[:80]!r} is no {name}" for name, value in changes.items() if not _is_setting(name, value)]
        raise InputError(", ".join(wrong), remedy="an address is https://name, a proxy http://name:port") from None
    check_urls(network)
    _check_address(store, network.address)
    NETWORK.write(store, network)
    return network


def rotate_key(store: Store) -> None:
    """Replaces this device's key with a new one; an interrupted rotation is finished at the next connection."""
    if not NEXT_KEY.exists(store):
        NEXT_KEY.write(store, new_key())
    with connect(store):
        pass


def _finish_rotation(store: Store, client: Client) -> None:
    key = NEXT_KEY.read(store)
    assert key is not None
    client.rotate(key)
    with store.step("key rotated"):
        KEY.write(store, key)
        NEXT_KEY.write(store, None)


def _machine_name(key: Ed25519PrivateKey) -> str:
    """A pseudonym of this machine: a digest of its identity with the device's key, in 32 hex digits."""
    return digest(public_hex(key).encode() + machine_identity().encode())[:32]


def device_key(store: Store) -> Ed25519PrivateKey | None:
    """This device's signing key; None before it joins."""
    return KEY.read(store)


def follow_bundle(store: Store, bundle: Bundle) -> None:
    """Enrols this device for another bundle of the same aggregator; the round of the bundle before is dropped."""

    if (enrolment := ENROLMENT.read(store)) is not None:
        ENROLMENT.write(store, msgspec.structs.replace(enrolment, bundle_id=bundle.bundle_id))
        agreement.ROUND.write(store, None)  # what was promised stays
