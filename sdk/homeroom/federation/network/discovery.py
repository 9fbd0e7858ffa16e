"""The aggregator on the school's own network: announced and found by DNS-SD over multicast DNS (RFC 6762, RFC 6763).

What is found is a rumour until it signs a word that this device chose, under the institution's root. Needs the extra
`lan` (zeroconf); an address by hand always works without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.errors import MissingExtraError, NetworkError, TrustError
from homeroom.federation.network.client import Client, Enrolment
from homeroom.federation.network.transport import CONNECT_TIMEOUT_S, NetworkSettings

SERVICE_TYPE = "_homeroom._tcp.local."
DISCOVERY_TIMEOUT_S = 3.0
MOST_ADDRESSES = 16  # aggregators that are looked at
INTERFACES: Any = None  # None: all of this machine's


@contextlib.contextmanager
def announce(host: str, port: int, root: str, scheme: str = "http") -> Iterator[None]:
    """Say on the local network that the aggregator of this root listens here, until the end of the block.

    Raises NetworkError where it listens on this machine alone, or there is no network to say it on.
    """
    zeroconf = _zeroconf()
    addresses = _addresses_of(host)
    if not addresses:
        raise NetworkError("listens on this machine alone", where=host, remedy="serve with --host 0.0.0.0")
    info = zeroconf.ServiceInfo(
        SERVICE_TYPE,
        f"{root[:16]}-{port}.{SERVICE_TYPE}",
        parsed_addresses=addresses,
        port=port,
        properties={"root": root, "scheme": scheme},
    )
    with _open(zeroconf) as speaker:
        speaker.register_service(info, allow_name_change=True)
        try:
            yield
        finally:
            speaker.unregister_service(info)


def find_addresses(root: str, patience_s: float = DISCOVERY_TIMEOUT_S) -> list[str]:
    """Addresses that somebody announces for this root, as they came in; nothing about them is checked yet."""
    zeroconf = _zeroconf()
    found: list[str] = []

    class Listener:
        def add_service(self, speaker: Any, kind: str, name: str) -> None:
            info = speaker.get_service_info(kind, name, int(1000 * patience_s))
            said = (info.properties or {}) if info else {}
            scheme = "https" if said.get(b"scheme") == b"https" else "http"
            if info and info.port and said.get(b"root") == root.encode():
                found.extend(f"{scheme}://{_url_host(address)}:{info.port}" for address in info.parsed_addresses())

        def update_service(self, *_: Any) -> None:
            """Nothing that matters here can change."""

        def remove_service(self, *_: Any) -> None:
            """Whoever went does not answer."""

    with _open(zeroconf) as speaker:
        browser = zeroconf.ServiceBrowser(speaker, SERVICE_TYPE, Listener())
        until = time.monotonic() + patience_s
        while not found and time.monotonic() < until:
            time.sleep(0.05)
        browser.cancel()
    return list(dict.fromkeys(found))[:MOST_ADDRESSES]


def locate(enrolment: Enrolment, key: Ed25519PrivateKey, network: NetworkSettings) -> NetworkSettings:
    """These settings, with an address on this network where the known one does not answer and `lan` is installed."""
    if network.lan == "off" or network.proxy or importlib.util.find_spec("zeroconf") is None:
        return network
    if _is_listening(network.address or enrolment.address):
        return network
    with contextlib.suppress(OSError, NetworkError):
        for address in find_addresses(enrolment.root):
            there = msgspec.structs.replace(network, address=address)
            with (
                contextlib.suppress(NetworkError, TrustError),
                contextlib.closing(Client(enrolment, key, there)) as client,
            ):
                client.prove()
                return there
    return network


def _is_listening(address: str) -> bool:
    """Whether anything listens there."""
    url = httpx.URL(address)
    try:
        socket.create_connection(
            (url.host, url.port or (443 if url.scheme == "https" else 80)), CONNECT_TIMEOUT_S
        ).close()
    except OSError:
        return False
    return True


def _addresses_of(host: str) -> list[str]:
    """Where others on the network reach a server that listens on `host`."""
    if INTERFACES is not None:
        return list(INTERFACES)
    if host not in ("", "0.0.0.0", "::"):
        return [] if ipaddress.ip_address(socket.gethostbyname(host)).is_loopback else [socket.gethostbyname(host)]
    import ifaddr  # a part of zeroconf's own installation

    found = [str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


def _url_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _open(zeroconf: Any) -> contextlib.closing[Any]:
    try:
        return contextlib.closing(zeroconf.Zeroconf(**({"interfaces": INTERFACES} if INTERFACES else {})))
    except OSError as problem:
        raise NetworkError(f"no local network: {problem}", remedy="give the address by hand") from None


def _zeroconf() -> Any:
    try:
        import zeroconf
    except ModuleNotFoundError:
        raise MissingExtraError("finding aggregators needs zeroconf", remedy="pip install 'homeroom[lan]'") from None
    return zeroconf
