"""Dealing with an aggregator: enrol, send what waits, ask to unlearn, fetch and judge the newest global theta."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.evaluation_report import make_report
from homeroom.contract.invitation import Invitation
from homeroom.contract.layout import Layout
from homeroom.contract.signing import new_key, public_hex
from homeroom.contract.update import RoundConfiguration
from homeroom.contract.version import read_version
from homeroom.errors import BundleError, InputError, NetworkError, TrustError, UpdateError
from homeroom.federation import privacy_ledger
from homeroom.federation.versions import as_stored, facts, newest_global, theta_of, with_own_segments
from homeroom.runtime.bundle import SIZE_LIMIT_BYTES, Bundle
from homeroom.store import Store
from homeroom.store.retention_clock import now
from homeroom.system.identity import machine_identity

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client
    from homeroom.federation.network.transport import Network

NEXT_KEY = "identity.next"
DOWNLOADS = "downloads"  # folder of unfinished downloads in the device's directory
CLEARLY = 2.0  # standard errors by which a global theta must be worse here before the local one stays in use

Scores = Mapping[str, Any]


def enrol(store: Store, bundle: Bundle, invitation: Invitation, root: str) -> RoundConfiguration:
    """Join the invitation's aggregator with this device's key; return what it asks for.

    The key is durable before the code is spent, so that a join which was cut short can be repeated.
    """
    from homeroom.federation.network.client import Client, enrolment_of, join
    from homeroom.federation.network.discovery import located

    check_invitation(bundle, invitation, root)
    key = make_key(store)
    network = located(enrolment_of(invitation), key, network_of(store))
    enrolment = join(invitation, key, network)
    with contextlib.closing(Client(enrolment, key, network)) as client:
        configuration = client.round()
        remember(store, client)
    store.put_secret("identity.enrolment", msgspec.json.encode(enrolment))
    return configuration


def remember(store: Store, client: Client) -> None:
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
def connected(store: Store) -> Iterator[Client]:
    """A client that speaks for this device; InputError if it has not joined."""
    from homeroom.federation.network.client import Client, Enrolment
    from homeroom.federation.network.discovery import located
    from homeroom.federation.network.metered import check_metered

    enrolment, key = store.get_secret("identity.enrolment"), device_key(store)
    if enrolment is None or key is None:
        why = "the directory was copied to this machine" if store.moved else "this device has not joined"
        raise InputError(why, where=str(store.directory), remedy="join with a new invitation")
    network, known = network_of(store), msgspec.json.decode(enrolment, type=Enrolment)
    check_metered(network)
    network = located(known, key, network)
    with contextlib.closing(Client(known, key, network, instance=_instance(key))) as client:
        if store.get_secret(NEXT_KEY) is not None:
            _take_next_key(store, client)
        yield client


def network_of(store: Store) -> Network:
    """How this device is to reach its aggregator; a clock that the store doubts is not held against a certificate."""
    from homeroom.federation.network.transport import Network

    body = store.get_secret("network")
    found = Network() if body is None else msgspec.json.decode(body, type=Network)
    return msgspec.structs.replace(found, clock="ignore") if store.clock_warning() else found


def set_network(store: Store, **changes: str) -> Network:
    """Change and remember some of the settings in `network.transport.Network`; InputError where one is impossible."""
    from homeroom.federation.network.transport import Network, check_urls

    body = store.get_secret("network")
    known = {} if body is None else msgspec.json.decode(body, type=dict[str, str])
    try:
        found = msgspec.convert({**known, **changes}, Network)
    except msgspec.ValidationError as problem:
        raise InputError(
            f"no such setting: {problem}", remedy="an address is https://name, a proxy http://name:port"
        ) from None
    check_urls(found)
    store.put_secret("network", msgspec.json.encode(found))
    return found


def rotate(store: Store) -> None:
    """Let a new key speak for this device from now on; what was cut short is finished when it next connects."""
    if store.get_secret(NEXT_KEY) is None:
        store.put_secret(NEXT_KEY, new_key().private_bytes_raw())
    with connected(store):
        pass


def _take_next_key(store: Store, client: Client) -> None:
    raw = store.get_secret(NEXT_KEY)
    assert raw is not None
    client.rotate(Ed25519PrivateKey.from_private_bytes(raw))
    with store.step("key rotated"):
        store.put_secret("identity.key", raw)
        store.put_secret(NEXT_KEY, None)


def _instance(key: Ed25519PrivateKey) -> str:
    """A name of this machine that tells the aggregator nothing else: a digest with the device's own key."""
    return digest(public_hex(key).encode() + machine_identity().encode())[:32]


def clock_off_s(client: Client) -> float | None:
    """By how many seconds this machine's clock is ahead of the aggregator's; None where that is not known."""
    told = client.server_time
    return None if told is None else (now() - told).total_seconds()


def device_key(store: Store) -> Ed25519PrivateKey | None:
    secret = store.get_secret("identity.key")
    return None if secret is None else Ed25519PrivateKey.from_private_bytes(secret)


def send_updates(
    store: Store, client: Client, configuration: RoundConfiguration, layout: Layout
) -> tuple[list[str], dict[str, str], int]:
    """Send every waiting update once more under its own id; (sent, refused with the reason, bytes).

    In a private round the device refuses what is not as the round promises, before a byte of it leaves.
    """
    sent: list[str] = []
    refused: dict[str, str] = {}
    size = 0
    for update in store.pending_updates():
        try:
            privacy_ledger.charge(store, update.data, update.update_id, configuration, layout)
            store.mark_sending(update.update_id)
            size += len(update.data)
            client.update(update.data)
        except UpdateError as problem:
            if problem.code == "not_selected":  # it waits for a round that asks this device
                break
            if problem.code in ("unknown_device", "no_consent"):  # it waits until that is mended
                raise
            store.mark_refused(update.update_id)
            refused[update.update_id] = str(problem)
        else:
            store.mark_sent(update.update_id)
            sent.append(update.update_id)
    return sent, refused, size


def ask_unlearning(store: Store, client: Client) -> tuple[list[str], list[str]]:
    """Ask for every update that is to be unlearned; (those that are, those that a private release bounds instead)."""
    gone: list[str] = []
    bounded: list[str] = []
    for update_id in store.pending_unlearn():
        (bounded if client.unlearn(update_id) == "bounded" else gone).append(update_id)
        store.mark_unlearned(update_id)
    return gone, bounded


@dataclass(frozen=True)
class Fetched:
    """What became of the newest global theta: `in_use` is "global", "local" (clearly better here) or "unchanged"."""

    in_use: str = "unchanged"
    received_bytes: int = 0
    theirs: Scores = field(default_factory=dict)
    ours: Scores = field(default_factory=dict)


def take_global(
    store: Store, bundle: Bundle, client: Client, root: str, score: Callable[[np.ndarray], Scores]
) -> Fetched:
    """Fetch the newest global theta, verify it, and use it unless it is clearly worse on the validation samples.

    Either way it is what the next training starts from.
    """
    newest = newest_global(store, bundle)
    old = as_stored(store, bundle, newest)
    data, received = client.newest(newest.base if newest else 0, old, store.directory / DOWNLOADS)
    found = Fetched() if data is None else use_global(store, bundle, data, root, score)
    tell_scores(store, bundle, client, found)
    return replace(found, received_bytes=received)


def tell_scores(store: Store, bundle: Bundle, client: Client, taken: Fetched) -> None:
    """Tell the aggregator how a version that was just taken does here, if this device may (`Network.scores`).

    What goes wrong with it is not worth a failed sync: the next version is told about again.
    """
    newest = newest_global(store, bundle)
    if taken.in_use == "unchanged" or newest is None or network_of(store).scores != "tell":
        return
    if (told := make_report(newest.base, taken.in_use, taken.theirs, taken.ours)) is not None:
        with contextlib.suppress(NetworkError, UpdateError):
            client.report(told)


def use_global(store: Store, bundle: Bundle, data: bytes, root: str, score: Callable[[np.ndarray], Scores]) -> Fetched:
    """As `take_global`, for a version that is here as it was signed."""
    newest, present = newest_global(store, bundle), store.current()
    after = newest.base if newest else 0
    header, theta = read_version(
        data, bundle.manifest.layout, bundle_id=bundle.bundle_id, root_fingerprint=root, after=after
    )
    if header.version == after:
        return Fetched(received_bytes=len(data))
    theirs = score(with_own_segments(store, bundle, theta))
    ours = score(theta_of(store, bundle, present)) if present else {}
    worse, told = clearly_worse(theirs, ours), {}
    if header.clip_norm is not msgspec.UNSET:
        told["clip_norm"] = header.clip_norm
    with store.step("global theta", header.version):
        version_id = store.put_version(theta, "global", header.version, facts(bundle, devices=header.devices, **told))
        if not worse:
            store.set_current(version_id)
    return Fetched("local" if worse else "global", len(data), theirs, ours)


def offered_bundle(client: Client, folder: Path, have: str | None, code: str = "") -> Path | None:
    """The aggregator's bundle as a file in `folder`, to be verified and removed; None if it is the one we have.

    code: of an invitation, for a device that has not joined.
    """
    found = client.keys()
    if found.bundle_id == have:
        return None
    if found.bundle is None:
        raise NetworkError(
            "does not hand out its bundle", where=client.enrolment.address, remedy="ask for the .homeroom file"
        )
    return client.fetch(found.bundle, folder, "bundle", SIZE_LIMIT_BYTES, code=code)


def first_bundle(invitation: Invitation, folder: Path) -> Path:
    """The bundle of an invitation, for a device that has none yet."""
    from homeroom.federation.network.client import Client, enrolment_of
    from homeroom.federation.network.discovery import located
    from homeroom.federation.network.transport import Network

    enrolment, key = enrolment_of(invitation), new_key()
    with contextlib.closing(Client(enrolment, key, located(enrolment, key, Network()))) as client:
        client.check_server()
        found = offered_bundle(client, folder, None, invitation.code)
    assert found is not None  # every bundle is another one than none
    return found


def follow(store: Store, bundle: Bundle) -> None:
    """From now on speak with the aggregator about this bundle."""
    from homeroom.federation.network.client import Enrolment

    body = store.get_secret("identity.enrolment")
    if body is not None:
        enrolment = msgspec.structs.replace(msgspec.json.decode(body, type=Enrolment), bundle_id=bundle.bundle_id)
        store.put_secret("identity.enrolment", msgspec.json.encode(enrolment))
        store.put_secret("identity.round", None)  # it was for the bundle of before


def clearly_worse(new: Scores, old: Scores) -> bool:
    """Whether the mean accuracy over tasks fell by more than CLEARLY standard errors of the pooled sample."""
    tasks = [task for task in old if task in new and old[task].n]
    if not tasks:
        return False
    before = float(np.mean([old[task].accuracy for task in tasks]))
    after = float(np.mean([new[task].accuracy for task in tasks]))
    count = sum(old[task].n for task in tasks)
    error = float(np.sqrt(max(before * (1 - before), 0.05) * 2 / count))
    return before - after > CLEARLY * error
