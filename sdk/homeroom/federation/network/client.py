"""The device's side of the wire: join an aggregator, and speak with it in signed requests; imports network and httpx.

Nothing an answer says is believed before its signature leads to the institution's root.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import http_signatures
from homeroom.contract.canonical_json import digest
from homeroom.contract.delta import apply_delta
from homeroom.contract.evaluation_report import EvaluationReport
from homeroom.contract.invitation import Invitation
from homeroom.contract.manifest import Hash
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import Certificate, check_certificate, public_hex, sign, verify
from homeroom.contract.update import REFUSALS
from homeroom.contract.version import VERSION_LIMIT_BYTES
from homeroom.errors import NetworkError, TrustError, UpdateError
from homeroom.federation.network.download import DownloadOffer, Headers, download, read_and_remove
from homeroom.federation.network.transport import (
    RETRY_REMEDY,
    Connection,
    NetworkSettings,
    ReadBody,
    Response,
    read_bounded,
    retry_after,
)

RESPONSE_LIMIT_BYTES = 1 << 20  # of every answer but a theta
NONCE_ATTEMPTS = 4  # fresh ones that a request is signed with in turn, before giving up


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What a device remembers of the aggregator it joined; `root` is the trusted fingerprint."""

    address: str
    root: Hash
    institution: str
    bundle_id: Hash


class Refusal(msgspec.Struct, frozen=True):
    """A refusal as the aggregator words it."""

    code: str = ""
    message: str = ""
    remedy: str = ""


class AggregatorKeys(msgspec.Struct, frozen=True):
    """Whose key signs at an aggregator, which bundle it serves, and where that may be fetched."""

    bundle_id: str
    certificate: Certificate
    bundle: DownloadOffer | None = None
    proof: str = ""


class VersionOffer(msgspec.Struct, frozen=True):
    """The newest version, whole and, where that is smaller, as a difference from the one that the device has."""

    version: int
    whole: DownloadOffer
    delta: DownloadOffer | None = None


class _RoundResponse(msgspec.Struct, frozen=True):
    configuration: dict[str, Any]
    certificate: Certificate
    signature: str
    time: str = ""
    time_signature: str = ""
    school: str = ""
    school_signature: str = ""


def enrolment_of(invitation: Invitation) -> Enrolment:
    return Enrolment(
        address=invitation.address,
        root=invitation.root,
        institution=invitation.institution,
        bundle_id=invitation.bundle_id,
    )


def join(
    invitation: Invitation,
    key: Ed25519PrivateKey,
    network: NetworkSettings | None = None,
    *,
    transport: httpx.BaseTransport | None = None,
) -> Enrolment:
    """Enrol `key` with the invitation's code; asking again with the same key and code is harmless.

    Raises TrustError if the aggregator is not vouched for by the invitation's root, or takes the code for used.
    """
    enrolment = enrolment_of(invitation)
    client = Client(enrolment, key, network, transport=transport)
    client.check_server()
    client.send("POST", "/v1/join", msgspec.json.encode({"code": invitation.code}))
    return enrolment


class Client:
    """Speaks for one device key; every answer's nonce signs the next request."""

    def __init__(
        self,
        enrolment: Enrolment,
        key: Ed25519PrivateKey,
        network: NetworkSettings | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        instance: str = "",
    ) -> None:
        """instance: names the machine, so that the aggregator notices a key that two of them use."""
        self.enrolment, self.key, self.instance = enrolment, key, instance
        self.server_time: datetime.datetime | None = None  # as the aggregator last signed it for this client
        self.certificate: Certificate | None = None  # the aggregator's, once `round` has checked it
        self.school = ""  # whose own segments this device may feed, as the aggregator last signed it for this client
        self._nonce: str | None = None
        self._sent_nonce = ""
        self._line = Connection(enrolment.address, network, transport=transport)

    def keys(self) -> AggregatorKeys:
        """Who answers; TrustError unless it shows a certificate by the trusted root."""
        found = self._decode(self.send("GET", "/v1/keys", signed=False), AggregatorKeys)
        where = self._line.address
        check_certificate(found.certificate, role="aggregator", root_fingerprint=self.enrolment.root, where=where)
        return cast(AggregatorKeys, found)

    def prove(self) -> None:
        """Raise TrustError unless who answers signs a word chosen here and now with a key that the root vouches for."""
        challenge = secrets.token_hex(32)
        answer = self.ask(
            "GET", "/v1/keys", signed=False, headers=lambda: {http_signatures.CHALLENGE_HEADER: challenge}
        )
        found, where = self._decode(answer.body, AggregatorKeys), self._line.address
        check_certificate(found.certificate, role="aggregator", root_fingerprint=self.enrolment.root, where=where)
        verify(found.certificate.key, "challenge", {"challenge": challenge}, found.proof, where=where)

    def check_server(self) -> None:
        """Raise TrustError unless the aggregator shows a certificate by the trusted root, for this bundle."""
        if self.keys().bundle_id != self.enrolment.bundle_id:
            raise TrustError(
                "it serves another bundle than the invitation names",
                where=self._line.address,
                remedy="ask for a new one",
            )

    def round(self) -> RoundConfiguration:
        """What the aggregator asks for now, with its signature checked."""
        found = self._decode(self.send("GET", "/v1/round"), _RoundResponse)
        where = f"{self._line.address}/v1/round"
        check_certificate(found.certificate, role="aggregator", root_fingerprint=self.enrolment.root, where=where)
        verify(found.certificate.key, "round", found.configuration, found.signature, where=where)
        try:
            configuration = msgspec.convert(found.configuration, RoundConfiguration)
        except msgspec.ValidationError as problem:
            raise NetworkError(
                f"a round this version cannot read: {problem}", where=where, remedy="update homeroom"
            ) from None
        if configuration.bundle_id != self.enrolment.bundle_id:
            raise TrustError("the round is for another bundle", where=where, remedy="`homeroom device upgrade DIR`")
        if found.time:
            stated = {"time": found.time, "nonce": self._sent_nonce}
            verify(found.certificate.key, "time", stated, found.time_signature, where=where)
            with contextlib.suppress(ValueError):
                self.server_time = datetime.datetime.fromisoformat(found.time)
        if found.school:
            stated = {"school": found.school, "nonce": self._sent_nonce}
            verify(found.certificate.key, "school", stated, found.school_signature, where=where)
        self.certificate, self.school = found.certificate, found.school
        return configuration

    def rotate(self, new: Ed25519PrivateKey) -> None:
        """Let a new key take this one's place; asking again is harmless. The caller has made it durable before."""
        pair = {"old": public_hex(self.key), "new": public_hex(new)}
        body = {"key": pair["new"], "proof": sign(new, "rotate", pair)}
        self.send("POST", "/v1/rotate", msgspec.json.encode(body))
        self.key, self._nonce = new, None

    def update(self, data: bytes) -> str:
        """Send an update; return "accepted", or "already" where it had arrived before. UpdateError says why not."""

        class Receipt(msgspec.Struct):
            status: str

        return str(self._decode(self.send("POST", "/v1/updates", data), Receipt).status)

    def latest(self, after: int) -> bytes | None:
        """The newest version as it was signed, for the caller to check; None if there is none newer than `after`."""
        return self.send("GET", "/v1/versions/latest", after=after, limit_bytes=VERSION_LIMIT_BYTES) or None

    def newest(self, after: int, old: np.ndarray, folder: Path) -> tuple[bytes | None, int]:
        """As `latest`, in pieces that a break does not lose, and the bytes that came.

        old: float32 [P], the theta of version `after`. A difference that does not give what was offered is replaced by
        the whole.
        """
        answer = self.ask("GET", f"/v1/versions/after/{after}")
        said = self._said(answer)
        if said is not None and said.code == "unknown_version":
            return None, 0
        if answer.status == 404:  # an aggregator of before there were offers
            body = self.latest(after)
            return body, len(body or b"")
        if said is not None:
            raise self._error("/v1/versions/after", answer, said)
        offer, received = cast(VersionOffer, self._decode(answer.body, VersionOffer)), 0
        if offer.delta is not None and offer.delta.size < offer.whole.size:
            with contextlib.suppress(NetworkError):
                delta = self.fetch(offer.delta, folder, "theta", VERSION_LIMIT_BYTES)
                received = offer.delta.size
                version = apply_delta(old, read_and_remove(delta))
                if digest(version) == offer.whole.sha256:
                    return version, received
        version = read_and_remove(self.fetch(offer.whole, folder, "theta", VERSION_LIMIT_BYTES))
        return version, received + len(version)

    def fetch(self, parcel: DownloadOffer, folder: Path, kind: str, limit_bytes: int, *, code: str = "") -> Path:
        """Download a parcel, going on where an earlier attempt ended; the file is the caller's to remove.

        code: an invitation's, where this key is not enrolled yet.
        """
        known = {http_signatures.INVITATION_HEADER: code} if code else {}

        def part(path: str, headers: Headers, read: ReadBody) -> Response:
            answer = self.ask("GET", path, headers=lambda: {**headers(), **known}, read=read)
            if (said := self._said(answer)) is not None:
                raise self._error(path, answer, said)
            return answer

        return download(parcel, folder, kind, limit_bytes, part)

    def unlearn(self, update_id: str) -> str:
        """Ask to leave an update out; "accepted", or "bounded" where a private release holds it for good."""

        class Receipt(msgspec.Struct):
            status: str = "accepted"

        body = msgspec.json.encode({"update_id": update_id})
        return str(self._decode(self.send("POST", "/v1/unlearn", body), Receipt).status)

    def report(self, told: EvaluationReport) -> None:
        """Tell how a global version does here."""
        self.send("POST", "/v1/report", msgspec.json.encode(told))

    def close(self) -> None:
        self._line.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        signed: bool = True,
        after: int | None = None,
        limit_bytes: int = RESPONSE_LIMIT_BYTES,
    ) -> bytes:
        """One exchange: signed, repeated where the connection fails or the nonce was old; the answer's body.

        Empty where nothing is newer than `after`. Raises NetworkError, TrustError or UpdateError.
        """
        headers = {} if after is None else {"if-none-match": f'"{after}"'}
        read = read_bounded(limit_bytes, self._line.address)
        answer = self.ask(method, path, body, signed=signed, headers=lambda: headers, read=read)
        said = self._said(answer)
        if said is None or (after is not None and answer.status == 404 and said.code == "unknown_version"):
            return answer.body if answer.status == 200 else b""
        raise self._error(path, answer, said)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        signed: bool = True,
        headers: Headers = dict,
        read: ReadBody | None = None,
    ) -> Response:
        """One exchange, whatever its outcome; a lost answer may have used the nonce, so several are tried.

        headers: made anew for each attempt. read: takes the body, by default into memory.
        """
        take_in = read or read_bounded(RESPONSE_LIMIT_BYTES, self._line.address)

        def prepare() -> httpx.Request:
            request = self._line.request(method, path, body)
            request.headers.update(headers())
            if signed:
                self._sent_nonce = self._nonce or ""
                http_signatures.sign_request(request, body, self.key, self._sent_nonce, self.instance)
            return request

        def keep_nonce(response: httpx.Response) -> bytes:
            self._nonce = response.headers.get(http_signatures.NONCE_HEADER, self._nonce)
            return take_in(response)

        if signed and self._nonce is None:
            self.send("GET", "/v1/keys", signed=False)
        for _ in range(NONCE_ATTEMPTS):
            answer = self._line.exchange(prepare, keep_nonce)
            said = self._said(answer)
            if said is None or said.code != "nonce":
                break
        return answer

    def _said(self, answer: Response) -> Refusal | None:
        if answer.status in (200, 206, 304):
            return None
        try:
            return msgspec.json.decode(answer.body, type=Refusal)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Refusal()

    def _error(self, path: str, answer: Response, said: Refusal) -> Exception:
        where = f"{self._line.address}{path}"
        message, remedy = said.message[:300], said.remedy[:300]
        if said.code in ("bad_invitation", "bad_rotation"):
            return TrustError(message, where=where, remedy=remedy)
        if said.code in REFUSALS:
            return UpdateError(message or REFUSALS[said.code], code=said.code, where=where, remedy=remedy)
        wait_s = retry_after(answer.headers)
        if wait_s is not None:
            return NetworkError(message or "it is busy", where=where, remedy=f"try again in {wait_s:.0f} s")
        return NetworkError(
            message or f"answered with status {answer.status}", where=where, remedy=remedy or RETRY_REMEDY
        )

    def _decode(self, answer: bytes, into: type[Any]) -> Any:
        try:
            return msgspec.json.decode(answer, type=into)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise NetworkError(f"an answer that cannot be read: {problem}", where=self._line.address) from None
