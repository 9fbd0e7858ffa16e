"""GET requests to public addresses: redirects followed, never from TLS down to plain http; files resumed.

A file is resumed only where the server says by a strong ETag (RFC 9110, section 8.8.3), or a published hash, that it is
the same one; else it is fetched from its beginning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from homeroom.contract.address import is_secure
from homeroom.contract.canonical_json import digest
from homeroom.errors import Code, NetworkError, TrustError
from homeroom.federation.network.download import Headers, Tell, receive
from homeroom.federation.network.transport import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    ReadBody,
    Response,
    certificate_problem,
    read_bounded,
    with_retries,
)
from homeroom.runtime.unpack import SIZE_LIMIT_BYTES

REDIRECTS = 5
LOG_IN_REMEDY = "log in to this network in a browser, check the address, or ask an administrator to allow it"
OFFLINE_REMEDY = "try again with a network; from a stick or a folder: `homeroom bundle pull PATH`"
CHANGED_REMEDY = "pull it again"


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file before it is fetched. etag: a strong one, or ""."""

    size: int
    etag: str


class WebClient:
    """GET requests to addresses that anybody may name; proxies and authorities as the environment says."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        """headers: of every request; an Authorization stays with its own host."""
        self._within_tls = False
        self._http = httpx.Client(
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            headers={"user-agent": "homeroom", "accept-encoding": "identity", **(headers or {})},
            follow_redirects=True,
            max_redirects=REDIRECTS,
            event_hooks={"request": [self._stay_in_tls]},
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def get(self, address: str, read: ReadBody, headers: Headers = dict) -> Response:
        """The response to GET, whatever its status; `read` takes its body, and `headers` makes those of each attempt.

        Raises NetworkError without a response, TrustError where a redirect leads out of TLS.
        """
        where = shown(address)
        self._within_tls = is_secure(address)

        def once() -> Response:
            request = self._http.build_request("GET", address, headers=headers())
            stream = self._http.send(request, stream=True)
            with contextlib.closing(stream):
                return Response(stream.status_code, stream.headers, read(stream))

        try:
            return with_retries(once)
        except httpx.InvalidURL as problem:
            raise NetworkError(f"is no address: {problem}", where=where, remedy="check it") from None
        except httpx.TooManyRedirects:
            what = f"sends on more than {REDIRECTS} times"
            raise NetworkError(what, where=where, remedy=LOG_IN_REMEDY) from None
        except httpx.RequestError as problem:
            raise _explained(problem, where) from None

    def look(self, address: str) -> RemoteFile:
        """Size and ETag of a file, of which no byte is read; NetworkError where there is no file, or no size is said.

        GET and not HEAD, which stores with signed addresses refuse.
        """
        response, where = self.get(address, lambda _: b""), shown(address)
        refuse_status(response, where)
        if response.headers.get("content-type", "").lower().startswith("text/html"):
            what = "a web page answered in place of a file: a login page, a filter, or a page about the file"
            raise NetworkError(what, where=where, remedy=LOG_IN_REMEDY)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            what = "is sent compressed, so that its size is not known before"
            raise NetworkError(what, where=where, remedy="fetch it with a browser")
        size = response.headers.get("content-length", "")
        if not (size.isascii() and size.isdigit() and int(size[:18]) > 0):
            raise NetworkError("does not say how large the file is", where=where, remedy="fetch it with a browser")
        if int(size[:18]) > SIZE_LIMIT_BYTES:
            what = f"is {int(size[:18]):,} bytes, more than the {SIZE_LIMIT_BYTES:,} of any bundle"
            raise NetworkError(what, where=where, remedy="check the address")
        etag = response.headers.get("etag", "")
        return RemoteFile(int(size), "" if etag.startswith("W/") else etag)

    def file(self, address: str, sha256: str, folder: Path, tell: Tell) -> Path:
        """Fetches a file into a folder and returns its path; where it is cut, the next call goes on from there.

        sha256: that was published for it; "" where none was.
        """
        remote, where = self.look(address), shown(address)
        start, same = f".homeroom-{digest(address.encode())[:16]}-", sha256 or remote.etag
        path = folder / f"{start}{digest(f'{same} {remote.size}'.encode())[:16]}.part"
        for other in folder.glob(f"{start}*.part"):
            if other != path or not same:
                other.unlink()

        def fetch(headers: Headers, read: ReadBody) -> Response:
            def resumed() -> Mapping[str, str]:
                made = headers() if same else {}
                return {**made, "if-range": remote.etag} if made and remote.etag else made

            def whole_or_part(response: httpx.Response) -> bytes:
                length = response.headers.get("content-length", "")
                if response.status_code == 200 and length != str(remote.size):
                    path.unlink(missing_ok=True)
                    raise NetworkError("changed while it was fetched", where=where, remedy=CHANGED_REMEDY)
                return read(response)

            return self.get(address, whole_or_part, resumed)

        receive(path, remote.size, where, fetch, tell)
        return path

    def small(self, address: str, limit_bytes: int) -> Response:
        """The response to GET with a body of at most so many bytes."""
        return self.get(address, read_bounded(limit_bytes, shown(address)))

    def _stay_in_tls(self, request: httpx.Request) -> None:
        if self._within_tls and request.url.scheme != "https":
            what = f"a redirect leads from https to {shown(str(request.url))}: nothing was fetched from there"
            raise TrustError(what, code=Code.TLS_ONLY, remedy=LOG_IN_REMEDY)


@contextlib.contextmanager
def web_client(headers: Mapping[str, str] | None = None) -> Iterator[WebClient]:
    """A client that is closed at the end."""
    client = WebClient(headers)
    try:
        yield client
    finally:
        client.close()


def shown(address: str) -> str:
    """An address as it is said: without name and password, and without a query, which may sign it."""
    try:
        url = httpx.URL(address)
        return str(url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("?")
    except (httpx.InvalidURL, ValueError):
        return address.partition("?")[0]


def refuse_status(response: Response, where: str) -> None:
    """NetworkError for a status other than 200."""
    if response.status == 200:
        return
    if response.status in (404, 410):
        raise NetworkError("there is no such file", where=where, remedy="check the address")
    if response.status in (401, 403):
        what = f"the server does not hand it out (status {response.status})"
        raise NetworkError(what, where=where, remedy="ask who serves it")
    raise NetworkError(f"answered with status {response.status}", where=where, remedy="try again later")


def _explained(problem: httpx.RequestError, where: str) -> NetworkError:
    refused = certificate_problem(problem)
    if refused is None:
        return NetworkError(f"no connection: {problem}", where=where, remedy=OFFLINE_REMEDY)
    what = f"its TLS certificate does not hold: {refused.verify_message}"
    remedy = "a login page or filter may answer in its place; SSL_CERT_FILE names an authority of the school's own"
    return NetworkError(what, where=where, remedy=remedy)
