"""The device's side of the wire: join an aggregator, and speak with it in signed requests; imports httpx and stamina.

Nothing an answer says is believed before its signature leads to the institution's root.
"""

from __future__ import annotations

import logging
from typing import Any

import httpx
import msgspec
import stamina
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom import http
from homeroom.contract.invitation import Invitation
from homeroom.contract.manifest import Hash
from homeroom.contract.signing import Certificate, check_certificate, verify
from homeroom.contract.update import REFUSALS, RoundConfiguration
from homeroom.contract.version import LIMIT_BYTES
from homeroom.errors import NetworkError, TrustError, UpdateError

ANSWER_LIMIT_BYTES = 1 << 20  # of every answer but a theta
CONNECT_S, READ_S = 10.0, 60.0
ATTEMPTS = 3
LATER = "try again later; nothing is lost"
logging.getLogger("stamina").addHandler(logging.NullHandler())  # else each retry prints a line on stderr


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What a device remembers of the aggregator it joined; `root` is the trusted fingerprint."""

    address: str
    root: Hash
    institution: str
    bundle_id: Hash


class Said(msgspec.Struct, frozen=True):
    """A refusal as the aggregator words it."""

    code: str = ""
    message: str = ""
    remedy: str = ""


class _Round(msgspec.Struct, frozen=True):
    configuration: dict[str, Any]
    certificate: Certificate
    signature: str


def join(invitation: Invitation, key: Ed25519PrivateKey, transport: httpx.BaseTransport | None = None) -> Enrolment:
    """Enrol `key` with the invitation's code; asking again with the same key and code is harmless.

    Raises TrustError if the aggregator is not vouched for by the invitation's root, or takes the code for used.
    """
    enrolment = Enrolment(
        address=invitation.address,
        root=invitation.root,
        institution=invitation.institution,
        bundle_id=invitation.bundle_id,
    )
    client = Client(enrolment, key, transport)
    client.check_server()
    client.send("POST", "/v1/join", msgspec.json.encode({"code": invitation.code}))
    return enrolment


class Client:
    """Speaks for one device key; every answer's nonce signs the next request."""

    def __init__(
        self, enrolment: Enrolment, key: Ed25519PrivateKey, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.enrolment, self.key = enrolment, key
        self._nonce: str | None = None
        self._http = httpx.Client(
            base_url=enrolment.address,
            transport=transport,
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            headers={"user-agent": "homeroom", "accept-encoding": "identity"},
            follow_redirects=False,
        )

    def check_server(self) -> None:
        """Raise TrustError unless the aggregator shows a certificate by the trusted root, for this bundle."""

        class Keys(msgspec.Struct):
            bundle_id: str
            certificate: Certificate

        found = self._decode(self.send("GET", "/v1/keys", signed=False), Keys)
        where = self.enrolment.address
        check_certificate(found.certificate, role="aggregator", root_fingerprint=self.enrolment.root, where=where)
        if found.bundle_id != self.enrolment.bundle_id:
            raise TrustError(
                "it serves another bundle than the invitation names", where=where, remedy="ask for a new one"
            )

    def round(self) -> RoundConfiguration:
        """What the aggregator asks for now, with its signature checked."""
        found = self._decode(self.send("GET", "/v1/round"), _Round)
        where = f"{self.enrolment.address}/v1/round"
        check_certificate(found.certificate, role="aggregator", root_fingerprint=self.enrolment.root, where=where)
        verify(found.certificate.key, "round", found.configuration, found.signature, where=where)
        try:
            configuration = msgspec.convert(found.configuration, RoundConfiguration)
        except msgspec.ValidationError as problem:
            raise NetworkError(
                f"a round this version cannot read: {problem}", where=where, remedy="update homeroom"
            ) from None
        if configuration.bundle_id != self.enrolment.bundle_id:
            raise TrustError("the round is for another bundle", where=where, remedy="install the institution's bundle")
        return configuration

    def update(self, data: bytes) -> str:
        """Send an update; return "accepted", or "already" where it had arrived before. UpdateError says why not."""

        class Receipt(msgspec.Struct):
            status: str

        return str(self._decode(self.send("POST", "/v1/updates", data), Receipt).status)

    def latest(self, after: int) -> bytes | None:
        """The newest version as it was signed, for the caller to check; None if there is none newer than `after`."""
        return self.send("GET", "/v1/versions/latest", after=after, limit_bytes=LIMIT_BYTES) or None

    def unlearn(self, update_id: str) -> None:
        self.send("POST", "/v1/unlearn", msgspec.json.encode({"update_id": update_id}))

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        signed: bool = True,
        after: int | None = None,
        limit_bytes: int = ANSWER_LIMIT_BYTES,
    ) -> bytes:
        """One exchange: signed, repeated where the connection fails or the nonce was old; the answer's body.

        Empty where nothing is newer than `after`. Raises NetworkError, TrustError or UpdateError.
        """
        if signed and self._nonce is None:
            self.send("GET", "/v1/keys", signed=False)
        for _ in range(2):
            status, answer = self._exchange(method, path, body, signed, after, limit_bytes)
            said = self._said(status, answer)
            if said is None or said.code != "nonce":
                break
        if said is None or (after is not None and status == 404 and said.code == "unknown_version"):
            return answer if said is None and status == 200 else b""
        raise self._error(path, status, said)

    @stamina.retry(on=httpx.TransportError, attempts=ATTEMPTS, wait_initial=0.2, wait_max=2.0)
    def _try(
        self, method: str, path: str, body: bytes, signed: bool, after: int | None, limit_bytes: int
    ) -> tuple[int, bytes]:
        request = self._http.build_request(method, path, content=body)
        if after is not None:
            request.headers["if-none-match"] = f'"{after}"'
        if signed:
            http.sign_request(request, body, self.key, self._nonce or "")
        response = self._http.send(request, stream=True)
        self._nonce = response.headers.get(http.NONCE_HEADER, self._nonce)
        answer = bytearray()
        try:
            for part in response.iter_bytes():
                answer += part
                if len(answer) > limit_bytes:
                    raise NetworkError(f"answers with more than {limit_bytes:,} bytes", where=self.enrolment.address)
        finally:
            response.close()
        return response.status_code, bytes(answer)

    def _exchange(
        self, method: str, path: str, body: bytes, signed: bool, after: int | None, limit_bytes: int
    ) -> tuple[int, bytes]:
        try:
            return self._try(method, path, body, signed, after, limit_bytes)
        except httpx.RequestError as problem:
            raise NetworkError(f"no connection: {problem}", where=self.enrolment.address, remedy=LATER) from None

    def _said(self, status: int, answer: bytes) -> Said | None:
        if status in (200, 304):
            return None
        try:
            return msgspec.json.decode(answer, type=Said)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Said()

    def _error(self, path: str, status: int, said: Said) -> Exception:
        where = f"{self.enrolment.address}{path}"
        message, remedy = said.message[:300], said.remedy[:300]
        if said.code == "bad_invitation":
            return TrustError(message, where=where, remedy=remedy)
        if said.code in REFUSALS:
            return UpdateError(message or REFUSALS[said.code], code=said.code, where=where, remedy=remedy)
        return NetworkError(message or f"answered with status {status}", where=where, remedy=remedy or LATER)

    def _decode(self, answer: bytes, into: type[Any]) -> Any:
        try:
            return msgspec.json.decode(answer, type=into)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise NetworkError(f"an answer that cannot be read: {problem}", where=self.enrolment.address) from None
