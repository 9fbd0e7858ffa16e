"""Finds the aggregator on the local network: DNS-SD over multicast DNS (RFC 6762, RFC 6763).

An address that is found is trusted only once a key under the institution's root signs a fresh challenge there. Needs
the extra `lan` (zeroconf); an address that is entered works without it.
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

from homeroom.contract.invitation import Enrolment
from homeroom.errors import MissingExtraError, NetworkError, TrustError
from homeroom.federation.network.client import Client
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.network.transport import CONNECT_TIMEOUT_S

SERVICE_TYPE = "_homeroom._tcp.local."
DISCOVERY_TIMEOUT_S = 3.0
MOST_ADDRESSES = 16  # that are tried
INTERFACES: Any = None  # None: all of this machine's


@contextlib.contextmanager
def announce(host: str, port: int, root: str, scheme: str = "http") -> Iterator[None]:
    """Announces an aggregator on the local network until the end of the block.

    Raises NetworkError where it listens on this machine alone, or there is no network.

    host: address that it listens on.
    port: that it listens on.
    root: fingerprint of the institution's root key.
    scheme: "http" or "https".
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
    """URLs announced for a root, in the order they came; nothing about them is checked yet."""
    zeroconf = _zeroconf()
    urls: list[str] = []

    class Listener:
        def add_service(self, speaker: Any, kind: str, name: str) -> None:
            info = speaker.get_service_info(kind, name, int(1000 * patience_s))
            properties = (info.properties or {}) if info else {}
            scheme = "https" if properties.get(b"scheme") == b"https" else "http"
            if info and info.port and properties.get(b"root") == root.encode():
                urls.extend(f"{scheme}://{_url_host(address)}:{info.port}" for address in info.parsed_addresses())

        def update_service(self, *_: Any) -> None:
            """Ignored: nothing that matters here can change."""

        def remove_service(self, *_: Any) -> None:
            """Ignored: an address that went does not answer."""

    with _open(zeroconf) as speaker:
        browser = zeroconf.ServiceBrowser(speaker, SERVICE_TYPE, Listener())
        until = time.monotonic() + patience_s
        while not urls and time.monotonic() < until:
            time.sleep(0.05)
        browser.cancel()
    return list(dict.fromkeys(urls))[:MOST_ADDRESSES]


def locate(enrolment: Enrolment, key: Ed25519PrivateKey, network: NetworkSettings) -> NetworkSettings:
    """The settings, with a local address that proves itself where the known one does not listen and `lan` allows it."""
    if network.lan == "off" or network.proxy or importlib.util.find_spec("zeroconf") is None:
        return network
    if _is_listening(network.address or enrolment.address):
        return network
    with contextlib.suppress(OSError, NetworkError):
        for address in find_addresses(enrolment.root):
            local = msgspec.structs.replace(network, address=address)
            with (
                contextlib.suppress(NetworkError, TrustError),
                contextlib.closing(Client(enrolment, key, local)) as client,
            ):
                client.keys()
                return local
    return network


def _is_listening(address: str) -> bool:
    """Whether anything listens at a URL."""
    url = httpx.URL(address)
    try:
        socket.create_connection(
            (url.host, url.port or (443 if url.scheme == "https" else 80)), CONNECT_TIMEOUT_S
        ).close()
    except OSError:
        return False
    return True


def _addresses_of(host: str) -> list[str]:
    """Addresses at which others on the network reach a server that listens on `host`."""
    if INTERFACES is not None:
        return list(INTERFACES)
    if host not in ("", "0.0.0.0", "::"):
        return [] if ipaddress.ip_address(socket.gethostbyname(host)).is_loopback else [socket.gethostbyname(host)]
    import ifaddr  # a part of zeroconf's own installation

    addresses = [str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return [address for address in addresses if not ipaddress.ip_address(address).is_loopback]


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
