"""Finds the aggregator on the local network: DNS-SD over multicast DNS (RFC 6762, RFC 6763).

An address that is found is trusted only once a key under the institution's root signs a fresh challenge there and, with
TLS, the server's TLS key. Needs the extra `lan` (zeroconf); an address that is entered works without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from itertools import chain
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.address import authority_of, is_secure, pin_of
from homeroom.contract.invitation import Enrolment
from homeroom.errors import MissingExtraError, NetworkError, TrustError
from homeroom.federation.network.client import Client
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.network.tls import gate, tls_context
from homeroom.federation.network.transport import CONNECT_TIMEOUT_S, dates_ignored
from homeroom.system.installation import how_to_install

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
        raise NetworkError(
            "listens on this machine alone", where=host, remedy="`homeroom district serve FOLDER --host 0.0.0.0`"
        )
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
    """The settings, with an address that proves itself where the known one does not answer as this device trusts it.

    Tried are the same place by TLS, to which a server may have gone over or for which it may have a new key, then what
    is announced on the local network, where `lan` allows it. An address without TLS only for who joined without it.
    """
    address, pin = gate(enrolment.address, enrolment.pin, network)
    if network.proxy or _environment_proxy(address):
        return network
    candidates, elsewhere = list[str](), _announced(enrolment.root, network)
    with contextlib.suppress(OSError):
        if _answers(address, pin, network):
            return network
        candidates = [f"https://{address.partition('://')[2]}"]
        if not is_secure(address):
            elsewhere = iter(())  # a server is there; a line that cuts its answers is no reason to look for another
    for candidate in chain(candidates, elsewhere):
        with contextlib.suppress(OSError, ValueError, NetworkError, TrustError):
            shown = shown_pin(candidate) if is_secure(candidate) else ""
            local = msgspec.structs.replace(network, address=candidate, pin=shown)
            with contextlib.closing(Client(enrolment, key, local)) as client:
                client.keys()
                return local
    return network


def _announced(root: str, network: NetworkSettings) -> Iterator[str]:
    """Addresses on the local network; looked for once the first is asked for."""
    if network.lan != "off" and importlib.util.find_spec("zeroconf") is not None:
        with contextlib.suppress(OSError, NetworkError):
            yield from find_addresses(root)


def _answers(address: str, pin: str, network: NetworkSettings) -> bool:
    """Whether the server at an address speaks TLS as this device trusts it, or plain http; OSError if none listens."""
    with _reach(address) as raw:
        try:
            if is_secure(address):
                with tls_context(pin, dates_ignored(network)).wrap_socket(raw, server_hostname=httpx.URL(address).host):
                    return True
            request = f"GET /v1/health HTTP/1.1\r\nhost: {authority_of(address)}\r\nconnection: close\r\n\r\n"
            raw.sendall(request.encode())
            return raw.makefile("rb").read(5) == b"HTTP/"
        except OSError:
            return False


def shown_pin(address: str) -> str:
    """The pin of the key with which the server at an address speaks TLS, whoever that is; OSError if it does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with _reach(address) as raw, context.wrap_socket(raw, server_hostname=httpx.URL(address).host) as connection:
        return pin_of(connection.getpeercert(binary_form=True) or b"")


def _reach(address: str) -> socket.socket:
    url = httpx.URL(address)
    return socket.create_connection((url.host, url.port or (443 if is_secure(address) else 80)), CONNECT_TIMEOUT_S)


def _environment_proxy(address: str) -> bool:
    url = httpx.URL(address)
    return url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(url.host)


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
        raise MissingExtraError("finding aggregators needs zeroconf", remedy=how_to_install("lan")) from None
    return zeroconf
