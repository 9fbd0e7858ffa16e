"""The HTTP transport: proxy, TLS, retries with back-off and jitter, and detection of login pages.

A request is retried where the connection fails, or where a busy server (429, 502, 503, 504) asks for it: after its
Retry-After (RFC 9110, section 10.2.3), else after a growing, jittered wait. A login page or a filter that responds in
the aggregator's place is recognised and never retried.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.util import find_spec

import httpx
import stamina

from homeroom.contract.address import is_secure
from homeroom.errors import Code, InputError, NetworkError, SignalError, TrustError
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.network.tls import NEVER_DOWN, OTHER_KEY, gate, tls_context
from homeroom.system import clock

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0
LEAST_BYTES_PER_TIMEOUT = 4096  # that must come in each READ_TIMEOUT_S, else the response has stalled
ATTEMPTS = 3
LONGEST_RETRY_WAIT_S = 30.0  # where a server asks for more, the next sync tries again
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without TLS: httpx would read them all, 0.05 s each time
BUSY_STATUSES = (429, 502, 503, 504)
EXPIRED_CODES = (9, 10)  # OpenSSL: the certificate is not yet valid, or has expired
EARLIEST_TIME = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)  # a clock that shows an earlier time is wrong
RETRY_REMEDY = "try again later; nothing is lost"
LOG_IN_REMEDY = "log in to this network in a browser, or ask its administrator to allow the address"
logging.getLogger("stamina").addHandler(logging.NullHandler())  # else each retry prints a line on stderr


def check_urls(network: NetworkSettings) -> None:
    """Raises InputError where address or proxy has no host, an impossible port, or needs SOCKS without its package."""
    for url in filter(None, (network.address, network.proxy)):
        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL as problem:
            raise InputError(f"is no address: {problem}", where=url) from None
        if not parts.host or not 1 <= (443 if parts.port is None else parts.port) <= 65535:
            raise InputError("needs a name, and a port from 1 to 65535", where=url)
    if network.proxy.startswith("socks5:") and find_spec("socksio") is None:
        raise InputError(
            "SOCKS needs a package that is not installed", where=network.proxy, remedy="pip install socksio"
        )


def dates_ignored(network: NetworkSettings) -> bool:
    """Whether the dates of TLS certificates are not looked at: by the settings, or since the clock is plainly wrong."""
    return network.clock == "ignore" or clock.now() < EARLIEST_TIME


@dataclass(frozen=True)
class Response:
    """An HTTP response; `body` is empty where a function read it elsewhere."""

    status: int
    headers: httpx.Headers
    body: bytes


ReadBody = Callable[[httpx.Response], bytes]


class _BusyError(SignalError):
    """The aggregator is busy: the request is repeated after `wait_s` seconds."""

    def __init__(self, response: Response, wait_s: float | None) -> None:
        super().__init__(response.status)
        self.response, self.wait_s = response, wait_s


class Connection:
    """A connection to one aggregator by this device's network settings."""

    def __init__(
        self,
        address: str,
        network: NetworkSettings | None = None,
        *,
        pin: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Opens no connection yet. address, pin: of the enrolment; the settings may name others that are as safe."""
        network = network or NetworkSettings()
        (self.address, self.pin), self._proxy = gate(address, pin, network), network.proxy
        try:
            self._http = httpx.Client(
                base_url=self.address,
                transport=transport,
                proxy=network.proxy or None,
                verify=tls_context(self.pin, dates_ignored(network)) if is_secure(self.address) else NO_AUTHORITIES,
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                headers={"user-agent": "homeroom", "accept-encoding": "identity"},
                follow_redirects=False,
            )
        except (ImportError, ValueError, OSError) as problem:
            raise InputError(f"the proxy or certificates cannot be used: {problem}", where=self.address) from None

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def request(self, method: str, path: str, body: bytes = b"") -> httpx.Request:
        """A request to the aggregator, not sent yet."""
        return self._http.build_request(method, path, content=body)

    def exchange(self, prepare: Callable[[], httpx.Request], read: ReadBody) -> Response:
        """Sends what `prepare` makes for each attempt and lets `read` take the body; NetworkError if all fail."""
        try:
            return with_retries(lambda: self._once(prepare(), read))
        except httpx.RequestError as problem:
            raise self._explained(problem) from None

    def _once(self, request: httpx.Request, read: ReadBody) -> Response:
        stream = self._http.send(request, stream=True)
        with contextlib.closing(stream):
            self._check_who_answered(stream)
            return Response(stream.status_code, stream.headers, read(stream))

    def _check_who_answered(self, response: httpx.Response) -> None:
        if response.has_redirect_location:
            to = response.headers.get("location", "")[:200]
            there, here = httpx.URL(self.address).join(to), httpx.URL(self.address)
            if there.host == here.host and (there.scheme == "https" or here.scheme == "http"):
                raise NetworkError(f"sends devices on to {to}", where=self.address, remedy="use that address")
            if there.host == here.host:
                raise TrustError(f"sends devices on to {to}: {NEVER_DOWN}", code=Code.TLS_ONLY, where=self.address)
            raise NetworkError(
                f"this network's login page answered in the aggregator's place (sent on to {to})",
                where=self.address,
                remedy=LOG_IN_REMEDY,
            )
        page = response.headers.get("content-type", "").lower().startswith("text/html")
        if response.status_code == 511 or (page and response.status_code < 500):
            raise NetworkError(
                "a web page answered in the aggregator's place: a login page, a filter, or a wrong address",
                where=self.address,
                remedy=LOG_IN_REMEDY,
            )

    def _explained(self, problem: httpx.RequestError) -> NetworkError:
        wrong = certificate_problem(problem)
        if wrong is None:
            through = f" through the proxy {httpx.URL(self._proxy).host}" if self._proxy else ""
            return NetworkError(f"no connection{through}: {problem}", where=self.address, remedy=RETRY_REMEDY)
        if wrong.verify_message == OTHER_KEY:
            return NetworkError(OTHER_KEY, code=Code.OTHER_TLS_KEY, where=self.address, remedy=LOG_IN_REMEDY)
        if wrong.verify_code in EXPIRED_CODES:
            today = f"{clock.now():%Y-%m-%d}"
            return NetworkError(
                f"its TLS certificate does not hold at this machine's time, {today}: {wrong.verify_message}",
                where=self.address,
                remedy="set the clock, or `homeroom device network DIR --clock ignore`",
            )
        return NetworkError(
            f"shows another TLS certificate than the aggregator's ({wrong.verify_message}): a login page or filter",
            where=self.address,
            remedy=LOG_IN_REMEDY,
        )


def with_retries(once: Callable[[], Response]) -> Response:
    """The response of `once`, which is called again where no connection holds or the server is busy.

    Raises httpx.RequestError where no attempt has a response.
    """
    try:
        for attempt in stamina.retry_context(
            on=_should_retry, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=5.0
        ):
            with attempt:
                response = once()
                if response.status in BUSY_STATUSES:
                    raise _BusyError(response, retry_after(response.headers))
                return response
    except _BusyError as problem:
        return problem.response
    raise AssertionError("unreachable")


def read_bounded(limit_bytes: int, where: str) -> ReadBody:
    """A reader of bodies into memory, which raises NetworkError above so many bytes."""

    def read(response: httpx.Response) -> bytes:
        body = bytearray()
        for part in refuse_stalling(response.iter_bytes()):
            body += part
            if len(body) > limit_bytes:
                raise NetworkError(f"answers with more than {limit_bytes:,} bytes", where=where)
        return bytes(body)

    return read


def refuse_stalling(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the same parts; raises httpx.ReadTimeout where they trickle, which a timeout of single reads misses."""
    since, size = time.monotonic(), 0
    for part in parts:
        yield part
        size += len(part)
        if time.monotonic() - since > READ_TIMEOUT_S:
            if size < LEAST_BYTES_PER_TIMEOUT:
                raise httpx.ReadTimeout(f"fewer than {LEAST_BYTES_PER_TIMEOUT} bytes in {READ_TIMEOUT_S:g} s")
            since, size = time.monotonic(), 0


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds of Retry-After; a date counts from the response's own Date, never from this machine's clock."""
    value = headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(headers["date"])).total_seconds())
    except (ValueError, TypeError, KeyError):
        return None


def _should_retry(problem: Exception) -> bool | float:
    """Whether stamina retries: no, after its own back-off, or after so many seconds."""
    if isinstance(problem, _BusyError) and problem.wait_s is not None:
        if problem.wait_s > LONGEST_RETRY_WAIT_S:
            return False
        return problem.wait_s + random.uniform(0.05, 1.0)  # else all schools retry in the same second
    if isinstance(problem, _BusyError):
        return True
    return isinstance(problem, httpx.TransportError) and certificate_problem(problem) is None


def certificate_problem(problem: BaseException) -> ssl.SSLCertVerificationError | None:
    """The refused TLS certificate that a failed request comes from; None where it has another cause."""
    cause: BaseException | None = problem
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause
