"""The client of an aggregator: joins it, and sends it signed requests (RFC 9421).

Every answer goes through one gate, `Client.ask`: its signature must be for this very request, by a key that the
institution's root certified. Nothing of another answer is believed, and so nothing on the device changes by it.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
from pathlib import Path
from typing import Annotated, Any, cast

import httpx
import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract import http_signatures
from homeroom.contract.canonical_json import digest
from homeroom.contract.delta import apply_delta
from homeroom.contract.evaluation_counts import DeviceCounts
from homeroom.contract.evaluation_report import EvaluationReport
from homeroom.contract.invitation import Enrolment, Invitation, enrolment_of, seal_code
from homeroom.contract.manifest import Hash
from homeroom.contract.round import RoundConfiguration, read_round
from homeroom.contract.signing import Certificate, check_certificate, public_hex, sign
from homeroom.contract.statistics.messages import MESSAGE_LIMIT_BYTES, StatisticsStatus
from homeroom.contract.update import REFUSALS
from homeroom.contract.version import VERSION_LIMIT_BYTES
from homeroom.errors import AnswerError, Code, NetworkError, TrustError, UpdateError
from homeroom.federation.network import transport
from homeroom.federation.network.download import DownloadOffer, Headers, download, read_and_remove
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.network.transport import BUSY_STATUSES, Connection, ReadBody, Response, read_bounded

RESPONSE_LIMIT_BYTES = 1 << 20  # of every response but a theta
STATUS_MESSAGES = {421: "it does not answer to this address; who runs it may add that (docs/network.md)"}
NONCE_ATTEMPTS = 4  # fresh nonces that a request is signed with in turn, before it fails


class Refusal(msgspec.Struct, frozen=True):
    """The body of an error response."""

    code: str = ""
    message: str = ""
    remedy: str = ""


class AggregatorKeys(msgspec.Struct, frozen=True):
    """An aggregator's certificate, the bundle it serves and where that and its second file may be fetched, its sealing
    key and TLS pin."""

    bundle_id: str
    certificate: Certificate
    sealing: Hash
    bundle: DownloadOffer | None = None
    fallback: DownloadOffer | None = None
    tls: str = ""


class VersionOffer(msgspec.Struct, frozen=True):
    """Offers the newest version whole and, where that is smaller, as a difference from the one that the device has."""

    version: int
    whole: DownloadOffer
    delta: DownloadOffer | None = None


class _RoundResponse(msgspec.Struct, frozen=True):
    configuration: dict[str, Any]
    certificate: Certificate
    signature: str
    time: Annotated[datetime.datetime, msgspec.Meta(tz=True)]
    school: str = ""
    waiting: tuple[int, int] | None = None


def join(
    invitation: Invitation,
    key: Ed25519PrivateKey,
    network: NetworkSettings | None = None,
    *,
    transport: httpx.BaseTransport | None = None,
) -> Enrolment:
    """Enrols a key with the invitation's code; repeating it with the same key and code is harmless.

    Raises TrustError if the invitation's root does not vouch for the aggregator, or the code is used.

    invitation: whose code is spent.
    key: of this device.
    network: settings; the default ones if None.
    transport: in place of the network's, for tests.
    """
    enrolment = enrolment_of(invitation)
    client = Client(enrolment, key, network, transport=transport)
    client.check_server()
    client.send("POST", "/v1/join", msgspec.json.encode({"code": client.sealed(invitation.code)}))
    return enrolment


class UnlearnReceipt(msgspec.Struct, frozen=True):
    """What becomes of an update that is to be unlearned.

    status: `accepted`; `bounded` where a private release holds it for good; `kept` where it stays in a version that is
    too old to be made again.
    by: the day, ISO 8601, of the rewind that a released update waits for; "" where it is left out at once.
    """

    status: str = "accepted"
    by: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$")] = ""


class Client:
    """Sends requests signed with one device key; the nonce of each response signs the next request."""

    def __init__(
        self,
        enrolment: Enrolment,
        key: Ed25519PrivateKey,
        network: NetworkSettings | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        instance: str = "",
    ) -> None:
        """Opens no connection yet.

        enrolment: with the aggregator to reach.
        key: of this device.
        network: settings; the default ones if None.
        transport: in place of the network's, for tests.
        instance: pseudonym of the machine, by which the aggregator notices a key that two machines use.
        """
        self.enrolment, self.key, self.instance = enrolment, key, instance
        self.server_time: datetime.datetime | None = None  # as the aggregator last signed it for this client
        self.certificate: Certificate | None = None  # the aggregator's, once its first answer has shown it
        self.waiting: tuple[int, int] | None = None  # of the next version: updates that it has, and that it needs
        self.school = ""  # whose own segments this device may feed, as the aggregator last signed it for this client
        self.sent_bytes = 0  # of bodies, each attempt
        self._nonce = ""
        self._line = Connection(enrolment.address, network, pin=enrolment.pin, transport=transport)

    def keys(self) -> AggregatorKeys:
        """Fetches the aggregator's keys; AnswerError unless a key that the trusted root certified signed the answer.

        Raises TrustError where the TLS key of this connection is neither the enrolment's nor named in that answer.
        """
        keys = cast(AggregatorKeys, self._decode(self.send("GET", "/v1/keys", signed=False), AggregatorKeys))
        if self._line.pin not in ("", self.enrolment.pin, keys.tls):
            raise TrustError("the aggregator names another TLS key", code=Code.OTHER_TLS_KEY, where=self._line.address)
        return keys

    def sealed(self, code: str) -> str:
        """An invitation's code, sealed to the aggregator for this device's key."""
        return seal_code(code, public_hex(self.key), self.keys().sealing)

    def check_server(self) -> None:
        """Raises TrustError unless the trusted root certified the aggregator and it serves this bundle."""
        if self.keys().bundle_id != self.enrolment.bundle_id:
            raise TrustError(
                "it serves another bundle than the invitation names",
                code=Code.OTHER_BUNDLE,
                where=self._line.address,
                remedy="ask for a new one",
            )

    def round(self) -> RoundConfiguration:
        """Fetches the round configuration, checks its signature, and notes the signed time and school."""
        found = self._decode(self.send("GET", "/v1/round"), _RoundResponse)
        where = f"{self._line.address}/v1/round"
        signed, known = (found.configuration, found.certificate, found.signature), self.enrolment
        configuration = read_round(*signed, bundle_id=known.bundle_id, root=known.root, where=where)
        self.server_time, self.school, self.waiting = found.time, found.school, found.waiting
        return configuration

    def rotate(self, new: Ed25519PrivateKey) -> None:
        """Replaces this device's key, which the caller has made durable; repeating it is harmless."""
        pair = {"old": public_hex(self.key), "new": public_hex(new)}
        body = {"key": pair["new"], "proof": sign(new, "rotate", pair)}
        self.send("POST", "/v1/rotate", msgspec.json.encode(body))
        self.key, self._nonce = new, ""

    def update(self, data: bytes) -> str:
        """Sends an update; returns "accepted", or "already" where it had arrived; raises UpdateError if refused."""

        class Receipt(msgspec.Struct):
            status: str
            waiting: tuple[int, int] | None = None

        receipt = cast(Receipt, self._decode(self.send("POST", "/v1/updates", data), Receipt))
        self.waiting = receipt.waiting
        return receipt.status

    def newest(self, after: int, old: np.ndarray, folder: Path) -> tuple[bytes | None, int]:
        """Fetches the newest signed version, unchecked, resuming downloads; returns it and how many bytes came.

        The version is None where none is newer than `after`. Where a difference does not give the offered version, the
        whole version is fetched.

        after: number of the version that the device has.
        old: float32 [P], the theta of that version.
        folder: of unfinished downloads.
        """
        response = self.ask("GET", f"/v1/versions/after/{after}")
        refusal = self._refusal(response)
        if refusal is not None and refusal.code == "unknown_version":
            return None, 0
        if refusal is not None:
            raise self._error("/v1/versions/after", response, refusal)
        offer, received = cast(VersionOffer, self._decode(response.body, VersionOffer)), 0
        if offer.delta is not None and offer.delta.size < offer.whole.size:
            with contextlib.suppress(NetworkError):
                delta = self.fetch(offer.delta, folder, "theta", VERSION_LIMIT_BYTES)
                received = offer.delta.size
                version = apply_delta(old, read_and_remove(delta))
                if digest(version) == offer.whole.sha256:
                    return version, received
        version = read_and_remove(self.fetch(offer.whole, folder, "theta", VERSION_LIMIT_BYTES))
        return version, received + len(version)

    def fetch(self, offer: DownloadOffer, folder: Path, kind: str, limit_bytes: int, *, code: str = "") -> Path:
        """Downloads what is offered, resuming an earlier attempt; the caller removes the file.

        offer: the aggregator's.
        folder: of unfinished downloads.
        kind: of the file; one unfinished file of a kind is kept.
        limit_bytes: refused above.
        code: of an invitation, where this key is not enrolled yet.
        """
        invitation = {http_signatures.INVITATION_HEADER: self.sealed(code)} if code else {}

        def fetch_part(path: str, headers: Headers, read: ReadBody) -> Response:
            response = self.ask("GET", path, headers=lambda: {**headers(), **invitation}, read_file=read)
            if (refusal := self._refusal(response)) is not None:
                raise self._error(path, response, refusal)
            return response

        return download(offer, folder, kind, limit_bytes, fetch_part)

    def unlearn(self, update_id: str) -> UnlearnReceipt:
        """Asks to unlearn an update."""
        body = msgspec.json.encode({"update_id": update_id})
        return cast(UnlearnReceipt, self._decode(self.send("POST", "/v1/unlearn", body), UnlearnReceipt))

    def statistics(self) -> StatisticsStatus:
        """What the aggregator has of this device's statistics, and which release it serves."""
        return cast(StatisticsStatus, self._decode(self.send("GET", "/v1/statistics"), StatisticsStatus))

    def send_statistics(self, data: bytes) -> None:
        """Sends a change of this device's statistics; UpdateError if it is refused."""
        self.send("POST", "/v1/statistics", data)

    def statistics_release(self, status: StatisticsStatus, folder: Path) -> bytes:
        """The release that the aggregator serves, unchecked. folder: of unfinished downloads."""
        offer = DownloadOffer(path=f"/v1/statistics/{status.release}", size=status.size, sha256=status.sha256)
        return read_and_remove(self.fetch(offer, folder, "statistics", MESSAGE_LIMIT_BYTES))

    def report(self, report: EvaluationReport) -> None:
        """Sends this device's scores of a global version."""
        self.send("POST", "/v1/report", msgspec.json.encode(report))

    def tell_evaluation(self, counts: DeviceCounts) -> None:
        """Sends this device's counts of a global version; UpdateError if they are refused."""
        self.send("POST", "/v1/evaluation", msgspec.json.encode(counts))

    def close(self) -> None:
        """Closes the connection."""
        self._line.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        signed: bool = True,
        limit_bytes: int = RESPONSE_LIMIT_BYTES,
    ) -> bytes:
        """Sends a request and returns the response's body.

        Raises NetworkError, TrustError or UpdateError.

        method, path, body: of the request.
        signed: with this device's key.
        limit_bytes: of the response.
        """
        read = read_bounded(limit_bytes, self._line.address)
        response = self.ask(method, path, body, signed=signed, read=read)
        if (refusal := self._refusal(response)) is not None:
            raise self._error(path, response, refusal)
        return response.body

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        signed: bool = True,
        headers: Headers = dict,
        read: ReadBody | None = None,
        read_file: ReadBody | None = None,
    ) -> Response:
        """Sends a request and returns the aggregator's own answer; repeats the request where its nonce was old.

        Raises AnswerError where the aggregator's key did not sign the answer for this request; NetworkError where the
        aggregator could not tell who asked, so that its refusal says nothing about what was sent.

        method, path, body: of the request.
        signed: with this device's key.
        headers: made for each attempt.
        read: takes the body, by default into memory.
        read_file: takes the body of a file, whose hash an earlier answer named.
        """
        if path != "/v1/keys" and (self.certificate is None or not self._nonce):
            self.keys()
        signer: http_signatures.AnswerSigner | None = None

        def prepare() -> httpx.Request:
            request = self._line.request(method, path, body)
            self.sent_bytes += len(body)
            request.headers.update({**headers(), http_signatures.CHALLENGE_HEADER: secrets.token_hex(32)})
            if signed:
                http_signatures.sign_request(request, body, self.key, self._nonce, self.instance)
            return request

        def receive(answer: httpx.Response) -> bytes:
            nonlocal signer
            signer = self._signer(answer)
            if signer is None or (self.certificate is None and answer.status_code != 200):
                signer = None  # nobody vouches for the key yet
                return b""
            if read_file is not None and answer.status_code in (200, 206):
                return read_file(answer)
            received = (read or read_bounded(RESPONSE_LIMIT_BYTES, self._line.address))(answer)
            self._check_body(answer, signer, received)
            return received

        for _ in range(NONCE_ATTEMPTS):
            response = self._line.exchange(prepare, receive)
            refusal = self._refusal(response)
            if refusal is None or refusal.code != "nonce":
                break
        if signer is None or (signed and not signer.authenticated):
            raise self._error(path, response, refusal or Refusal(), heard=False)
        return response

    def _signer(self, answer: httpx.Response) -> http_signatures.AnswerSigner | None:
        """The signer of an answer; None where a busy server, or a proxy before it, answers without a signature."""
        if "signature" not in answer.headers:
            if answer.status_code in BUSY_STATUSES:
                return None
            raise AnswerError(
                "its answers are not signed: it is older than this device, or another machine in its place",
                code=Code.UNSIGNED_ANSWER,
                where=self._line.address,
                remedy="upgrade the server first; nothing was lost, and everything waits here",
            )
        try:
            signer = http_signatures.verify_answer(answer)
        except TrustError as problem:
            raise self._unverified(problem.what) from None
        if self.certificate is not None and signer.key != self.certificate.key:
            raise self._unverified("another key than the aggregator's signed the answer")
        self._nonce = answer.headers[http_signatures.NONCE_HEADER]
        return signer

    def _check_body(self, answer: httpx.Response, signer: http_signatures.AnswerSigner, body: bytes) -> None:
        """Checks a body by its signed digest; the first, of `/v1/keys`, holds the certificate of the signer's key."""
        try:
            signer.check_body(answer, body)
            if self.certificate is None:
                keys, where = self._decode(body, AggregatorKeys), self._line.address
                root = self.enrolment.root
                check_certificate(keys.certificate, role="aggregator", root_fingerprint=root, where=where)
                if keys.certificate.key != signer.key:
                    raise TrustError("another key than the certified one signed the answer")
                self.certificate = keys.certificate
        except TrustError as problem:
            raise self._unverified(problem.what, problem.remedy) from None

    def _unverified(self, what: str, remedy: str = "") -> AnswerError:
        remedy = remedy or "nothing was lost, and everything waits here; if it stays so, ask who runs the aggregator"
        return AnswerError(what, where=self._line.address, remedy=remedy)

    def _refusal(self, response: Response) -> Refusal | None:
        if response.status in (200, 206, 304):
            return None
        try:
            return msgspec.json.decode(response.body, type=Refusal)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Refusal()

    def _error(self, path: str, response: Response, refusal: Refusal, *, heard: bool = True) -> Exception:
        """The error for a refusal; `heard`: the aggregator knew that this device asked."""
        where, message, remedy = f"{self._line.address}{path}", refusal.message[:300], refusal.remedy[:300]
        if heard and refusal.code in ("bad_invitation", "bad_rotation"):
            return TrustError(message, where=where, remedy=remedy)
        if heard and refusal.code in REFUSALS:
            return UpdateError(message or REFUSALS[refusal.code], code=refusal.code, where=where, remedy=remedy)
        wait_s = transport.retry_after(response.headers)
        if wait_s is not None:
            return NetworkError(message or "it is busy", where=where, remedy=f"try again in {wait_s:.0f} s")
        return NetworkError(
            message or STATUS_MESSAGES.get(response.status, f"answered with status {response.status}"),
            where=where,
            remedy=remedy or transport.RETRY_REMEDY,
        )

    def _decode(self, body: bytes, into: type[Any]) -> Any:
        try:
            return msgspec.json.decode(body, type=into)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise NetworkError(f"an answer that cannot be read: {problem}", where=self._line.address) from None
