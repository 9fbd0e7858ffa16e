"""By which address a request came: its authority and path as the device signed them, behind a proxy too.

Only authorities of this server are answered, so that nobody passes requests on that were signed for another name, and
no web page reaches it by a name of its own (DNS rebinding). `Forwarded` (RFC 7239) and `X-Forwarded-…` count from
stated proxies alone; from anybody else they only say that the request comes from afar.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from homeroom.contract.address import authority_of, bare_authority
from homeroom.errors import HomeroomError
from homeroom_aggregator.admin.certificate import local_hosts
from homeroom_aggregator.admin.configuration import ServerSection
from homeroom_aggregator.admin.configuration_file import CONFIGURATION_FILE, read_file
from homeroom_aggregator.server.refusals import RefusedError

FORWARDING_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
SEEN_LIMIT = 100  # authorities that members claimed
FROM_AFAR = ("afar", 0)  # the client of a request that a proxy passed on, whatever it says of that client
REMEDY = "add it to `addresses` of [server] in district.toml if it is this server's (docs/network.md)"
Application = Callable[..., Any]


class PublicAddresses:
    """The addresses of one server: its own at its port, and those of its configuration, with their paths.

    With `addresses` not set at all every authority counts, as before there were any.
    """

    def __init__(self, folder: Path, server: ServerSection, port: int) -> None:
        self._file, self._changed_ns = folder / CONFIGURATION_FILE, 0
        self._host, self._port, self._speaks_tls = server.host, port, server.tls_cert is not None
        self._seen = set[str]()
        self.look()
        self._proxies = [ipaddress.ip_network(proxy) for proxy in server.trusted_proxies]
        self.take(server)

    def look(self) -> None:
        """Note this machine's names and addresses, which may change while it serves."""
        hosts = local_hosts(self._host)
        self._own = {bare_authority(f"[{h}]:{self._port}" if ":" in h else f"{h}:{self._port}") for h in hosts}

    def take(self, server: ServerSection) -> None:
        """Answer to the addresses of this section."""
        self.open_to_all = server.addresses is None
        self._paths = {authority_of(a): urlsplit(a).path.rstrip("/") for a in server.addresses or ()}
        self._secure = {authority_of(a) for a in server.addresses or () if a.startswith("https:")}

    def check(self, request: Request) -> None:
        """RefusedError with 421 (RFC 9110, section 15.5.20) for an authority that is not this server's."""
        authority = bare_authority(request.headers.get("host", ""))
        if not self.open_to_all and not self._knows(authority):
            raise RefusedError(421, "other_authority", f"this server is not {authority[:200] or 'nameless'}", REMEDY)

    def new_address(self, request: Request) -> str:
        """The address that a member's request was sent to, if every authority counts and this one is new; else empty.

        Whether it was https is only known where this server speaks TLS itself, or the proxy says so.
        """
        headers = request.headers
        authority = bare_authority(headers.get("host", ""))
        if not self.open_to_all or authority in self._own or authority in self._seen or len(self._seen) > SEEN_LIMIT:
            return ""
        self._seen.add(authority)
        told = headers.get("x-forwarded-proto", "") or headers.get("forwarded", "").lower().partition("proto=")[2]
        direct = authority.endswith(f":{self._port}")
        secure = told.startswith("https") if told else self._speaks_tls or not direct
        return f"{'https' if secure else 'http'}://{authority}"

    def _knows(self, authority: str) -> bool:
        if authority in self._own or authority in self._paths:
            return True
        try:  # an address may have been added to the file meanwhile
            changed_ns = self._file.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                self._changed_ns = changed_ns
                self.take(read_file(self._file).server)
        except (OSError, HomeroomError):
            return False
        return self.open_to_all or authority in self._paths

    def settled(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """The request's scope with the host, scheme, path and client that the device's request had."""
        settled, headers = dict(scope), Headers(scope=dict(scope))
        if any(name in headers for name in FORWARDING_HEADERS):
            settled["client"] = FROM_AFAR
            if self._trusts(scope["client"]) and (host := _forwarded_host(headers)):
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                settled["headers"] = [*others, (b"host", host.encode("latin-1", "replace"))]
        authority = bare_authority(Headers(scope=settled).get("host", ""))
        if authority in self._secure:
            settled["scheme"] = "https"
        if prefix := self._paths.get(authority):
            settled["root_path"] = prefix
            if not f"{scope['path']}/".startswith(f"{prefix}/"):  # the proxy has taken it off
                settled |= {"path": prefix + scope["path"], "raw_path": prefix.encode() + scope["raw_path"]}
        return settled

    def _trusts(self, client: tuple[str, int] | None) -> bool:
        try:
            return client is not None and any(ipaddress.ip_address(client[0]) in proxy for proxy in self._proxies)
        except ValueError:
            return False

    def behind(self, app: Application) -> Application:
        """The application, which sees each request as the device sent it."""

        async def answer(scope: dict[str, Any], receive: Application, send: Application) -> None:
            await app(self.settled(scope) if scope["type"] == "http" else scope, receive, send)

        return answer


def _forwarded_host(headers: Headers) -> str:
    """The host that the nearest proxy was asked for: it wrote the last element of a list."""
    if elements := headers.getlist("forwarded"):
        pairs = (pair.partition("=") for pair in elements[-1].rpartition(",")[2].split(";"))
        return next((value.strip().strip('"') for name, _, value in pairs if name.strip().lower() == "host"), "")
    return ",".join(headers.getlist("x-forwarded-host")).rpartition(",")[2].strip()
