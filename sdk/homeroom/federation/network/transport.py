"""How a request gets out: proxy, TLS, retries with back-off and jitter, and who answered; imports httpx and stamina.

A request is tried again where the connection fails, or where a busy server (429, 502, 503, 504) says so: after its
Retry-After (RFC 9110, section 10.2.3), else after a growing, jittered wait. What answers in the aggregator's place, a
login page or a filter, is told apart from it and never retried.
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
from typing import Annotated, Literal

import httpx
import msgspec
import stamina

from homeroom.errors import InputError, NetworkError

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0
LEAST_BYTES_PER_TIMEOUT = 4096  # that must come in each READ_S: what is slower than that does not come, it stalls
ATTEMPTS = 3
LONGEST_RETRY_WAIT_S = 30.0  # a server that asks for more is asked again at the next sync
BUSY_STATUSES = (429, 502, 503, 504)
EXPIRED_CODES = (9, 10)  # OpenSSL: the certificate is not yet valid, or has expired
NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME
EARLIEST_TIME = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)  # a clock before this is wrong
RETRY_REMEDY = "try again later; nothing is lost"
LOG_IN_REMEDY = "log in to this network in a browser, or ask its administrator to allow the address"
logging.getLogger("stamina").addHandler(logging.NullHandler())  # else each retry prints a line on stderr


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How this device is to reach its aggregator; empty texts mean: as the invitation and the environment say.

    clock: `ignore` looks at the chain and name of a TLS certificate, not at its dates (the default does so by itself
    where the clock is plainly wrong). metered: `auto` stays offline on mobile data where the system tells so.
    lan: `auto` looks for the aggregator on the local network where its address does not answer and zeroconf is here.
    scores: `tell` lets the aggregator know how each new version does on this device's validation samples.
    """

    address: Annotated[str, msgspec.Meta(pattern=r"^(https?://[^\s/]+)?$")] = ""
    proxy: Annotated[str, msgspec.Meta(pattern=r"^((http|https|socks5)://[^\s]+)?$")] = ""
    metered: Literal["auto", "allow", "refuse"] = "auto"
    clock: Literal["auto", "ignore"] = "auto"
    lan: Literal["auto", "off"] = "auto"
    scores: Literal["keep", "tell"] = "keep"


def check_urls(network: NetworkSettings) -> None:
    """InputError where address or proxy cannot be: no name, a port that is none, SOCKS without what speaks it."""
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


@dataclass(frozen=True)
class Response:
    """What came back; `body` is empty where `read` took it elsewhere."""

    status: int
    headers: httpx.Headers
    body: bytes


ReadBody = Callable[[httpx.Response], bytes]


class _BusyError(Exception):
    def __init__(self, answer: Response, wait_s: float | None) -> None:
        super().__init__(answer.status)
        self.answer, self.wait_s = answer, wait_s


class Connection:
    """To one aggregator, by way of this device's settings."""

    def __init__(
        self, address: str, network: NetworkSettings | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        network = network or NetworkSettings()
        self.address, self._proxy = network.address or address, network.proxy
        ignore_dates = network.clock == "ignore" or _now() < EARLIEST_TIME
        try:
            self._http = httpx.Client(
                base_url=self.address,
                transport=transport,
                proxy=network.proxy or None,
                verify=_tls_context(ignore_dates) if self.address.startswith("https") else True,
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                headers={"user-agent": "homeroom", "accept-encoding": "identity"},
                follow_redirects=False,
            )
        except (ImportError, ValueError, OSError) as problem:
            raise InputError(f"the proxy or certificates cannot be used: {problem}", where=self.address) from None

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, body: bytes = b"") -> httpx.Request:
        return self._http.build_request(method, path, content=body)

    def exchange(self, prepare: Callable[[], httpx.Request], read: ReadBody) -> Response:
        """Send what `prepare` makes, anew for each attempt, and let `read` take the body; NetworkError says why not."""
        try:
            for attempt in stamina.retry_context(
                on=_should_retry, attempts=ATTEMPTS, timeout=None, wait_initial=0.2, wait_max=5.0
            ):
                with attempt:
                    return self._once(prepare(), read)
        except _BusyError as problem:
            return problem.answer
        except httpx.RequestError as problem:
            raise self._explained(problem) from None
        raise AssertionError("unreachable")

    def _once(self, request: httpx.Request, read: ReadBody) -> Response:
        response = self._http.send(request, stream=True)
        with contextlib.closing(response):
            self._check_who_answered(response)
            answer = Response(response.status_code, response.headers, read(response))
        if answer.status in BUSY_STATUSES:
            raise _BusyError(answer, retry_after(response.headers))
        return answer

    def _check_who_answered(self, response: httpx.Response) -> None:
        if response.has_redirect_location:
            to = response.headers.get("location", "")[:200]
            if httpx.URL(self.address).join(to).host == httpx.URL(self.address).host:
                raise NetworkError(f"sends devices on to {to}", where=self.address, remedy="use that address")
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
        wrong = _certificate_problem(problem)
        if wrong is None:
            through = f" through the proxy {httpx.URL(self._proxy).host}" if self._proxy else ""
            return NetworkError(f"no connection{through}: {problem}", where=self.address, remedy=RETRY_REMEDY)
        if wrong.verify_code in EXPIRED_CODES:
            return NetworkError(
                f"its TLS certificate does not hold at this machine's time, {_now():%Y-%m-%d}: {wrong.verify_message}",
                where=self.address,
                remedy="set the clock, or `homeroom device network DIR --clock ignore`",
            )
        return NetworkError(
            f"shows another TLS certificate than the aggregator's ({wrong.verify_message}): a login page or filter",
            where=self.address,
            remedy=LOG_IN_REMEDY,
        )


def read_bounded(limit_bytes: int, where: str) -> ReadBody:
    """Read a body into memory, never more than so many bytes."""

    def read(response: httpx.Response) -> bytes:
        body = bytearray()
        for part in refuse_stalling(response.iter_bytes()):
            body += part
            if len(body) > limit_bytes:
                raise NetworkError(f"answers with more than {limit_bytes:,} bytes", where=where)
        return bytes(body)

    return read


def refuse_stalling(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same parts; httpx.ReadTimeout where they trickle, which a timeout of single reads does not notice."""
    since, size = time.monotonic(), 0
    for part in parts:
        yield part
        size += len(part)
        if time.monotonic() - since > READ_TIMEOUT_S:
            if size < LEAST_BYTES_PER_TIMEOUT:
                raise httpx.ReadTimeout(f"fewer than {LEAST_BYTES_PER_TIMEOUT} bytes in {READ_TIMEOUT_S:g} s")
            since, size = time.monotonic(), 0


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that a server asks to wait; a date counts from the answer's own Date, never from this machine's clock."""
    asked = headers.get("retry-after", "")
    if asked.isascii() and asked.isdigit():
        return float(asked[:9])
    try:
        return max(0.0, (parsedate_to_datetime(asked) - parsedate_to_datetime(headers["date"])).total_seconds())
    except (ValueError, TypeError, KeyError):
        return None


def _should_retry(problem: Exception) -> bool | float:
    """stamina's question: not again, after its own back-off, or after so many seconds."""
    if isinstance(problem, _BusyError) and problem.wait_s is not None:
        if problem.wait_s > LONGEST_RETRY_WAIT_S:
            return False
        return problem.wait_s + random.uniform(0.05, 1.0)  # else all schools come back in the same second
    if isinstance(problem, _BusyError):
        return True
    return isinstance(problem, httpx.TransportError) and _certificate_problem(problem) is None


def _certificate_problem(problem: BaseException) -> ssl.SSLCertVerificationError | None:
    found: BaseException | None = problem
    while found is not None and not isinstance(found, ssl.SSLCertVerificationError):
        found = found.__cause__ or found.__context__
    return found


def _tls_context(ignore_dates: bool) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    if ignore_dates:
        context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    return context


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
