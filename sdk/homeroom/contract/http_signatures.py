"""HTTP message signatures (RFC 9421) of requests and answers, for both ends.

The device's Ed25519 signature covers the method, the authority (a proxy in front must keep Host), the path and the
body's digest. A request is fresh if it carries a nonce that the server issued and has not seen since. `created` is
always 0: a device's clock proves nothing.

The aggregator's key signs every answer (section 2.4 there): the status, the body's digest, the next nonce, and of the
request the method, authority and path with the challenge that the device drew for it. Only an answer to a request whose
own signature held covers that signature too; so nobody who alters a request on its way gets a refusal that counts.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver
from http_message_signatures.algorithms import ED25519
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from http_message_signatures.structures import VerifyResult

from homeroom.errors import TrustError

NONCE_HEADER = "homeroom-nonce"
CHALLENGE_HEADER = "homeroom-challenge"  # 64 hexadecimal digits that the sender drew for one request
SIGNATURE_TAG, ANSWER_TAG = "homeroom", "homeroom-answer"
INSTANCE_HEADER = "homeroom-instance"
INVITATION_HEADER = "homeroom-invitation"  # its code, from a device that fetches a bundle before it is enrolled
COVERED_COMPONENTS = ("@method", "@authority", "@path", "content-digest")
DIGEST, REQUEST_DIGEST, REQUEST_SIGNATURE = '"content-digest"', '"content-digest";req', '"signature";req'
ANSWER_COMPONENTS = (
    *('"@status"', f'"{NONCE_HEADER}"', '"@method";req', '"@authority";req', '"@path";req'),
    f'"{CHALLENGE_HEADER}";req',
)
_LABEL = r"(?P<label>[a-z][a-z0-9]{0,15})="
_SIGNED_HERE = re.compile(
    _LABEL + r'(?P<params>\("@method" "@authority" "@path" "content-digest"(?P<instance> "homeroom-instance")?\)'
    r';created=0;keyid="(?P<key>[0-9a-f]{64})";alg="ed25519";nonce="(?P<nonce>[A-Za-z0-9_=-]{1,64})";tag="homeroom")'
)
_SIGNATURE_HERE = re.compile(_LABEL + r":(?P<signature>[A-Za-z0-9+/]{86}==):")
_PLAIN_URL = re.compile(r"https?://(?P<authority>[a-z0-9.-]+(?::[1-9][0-9]{0,4})?)(?P<path>(?:/[A-Za-z0-9_-]+)+)")
_PLAIN_VALUE = re.compile(r"[!-~]+")
NO_CLOCK = datetime.datetime.fromtimestamp(0, tz=datetime.UTC)


class HttpRequest(Protocol):
    """The attributes that a request of any HTTP library has."""

    method: str
    url: Any
    headers: Any


class HttpResponse(Protocol):
    """The attributes that an answer of any HTTP library has; `request`: as it was sent."""

    status_code: int
    headers: Any

    @property
    def request(self) -> HttpRequest: ...


@dataclass
class Request:
    """A request for the verifier: `url` absolute, `headers` in lower case."""

    method: str
    url: str
    headers: MutableMapping[str, str]


@dataclass(frozen=True)
class RequestSigner:
    """The signer of a request.

    key: its public key, hexadecimal.
    nonce: the server's nonce that it signed.
    instance: the machine that it says it runs on, or "".
    """

    key: str
    nonce: str
    instance: str = ""


class _KeyResolver(HTTPSignatureKeyResolver):  # type: ignore[misc]
    """Resolves a `keyid`, which is the public key itself, 64 hexadecimal digits."""

    def __init__(self, key: Ed25519PrivateKey | None = None) -> None:
        self.key = key

    def resolve_private_key(self, key_id: str) -> Any:
        return self.key

    def resolve_public_key(self, key_id: str) -> Any:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id))


def sign_request(message: HttpRequest, body: bytes, key: Ed25519PrivateKey, nonce: str, instance: str = "") -> None:
    """Adds Content-Digest, Signature-Input and Signature headers; the machine's `instance` too, unless empty."""
    if instance:
        message.headers[INSTANCE_HEADER] = instance
    signer = HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=_KeyResolver(key))
    signer.sign(
        message,
        key_id=key.public_key().public_bytes_raw().hex(),
        created=NO_CLOCK,
        nonce=nonce,
        tag=SIGNATURE_TAG,
        covered_component_ids=(*COVERED_COMPONENTS, INSTANCE_HEADER) if instance else COVERED_COMPONENTS,
        body=body,
    )


def verify_request(message: Request, body: bytes | None) -> RequestSigner:
    """The request's signer; TrustError unless the signature covers COVERED_COMPONENTS and holds.

    body: None before it has arrived: its signed digest is then not compared.
    The caller checks that the key is enrolled and the nonce fresh.
    """
    if body is None and (signer := _as_signed_here(message)):
        return signer
    verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=_KeyResolver())
    try:
        (result,) = verifier.verify(
            message, max_age=None, expect_tag=SIGNATURE_TAG, require_components=COVERED_COMPONENTS, body=body
        )
        key, nonce = result.parameters["keyid"], result.parameters["nonce"]
    except (HTTPMessageSignaturesException, KeyError, ValueError, TypeError):
        raise TrustError("the request's signature does not hold", where="request") from None
    if not isinstance(key, str) or not isinstance(nonce, str) or key != key.lower():
        raise TrustError("the request's signature names no key or nonce", where="request")
    has_instance = f'"{INSTANCE_HEADER}"' in result.covered_components
    return RequestSigner(key, nonce, message.headers.get(INSTANCE_HEADER, "")[:64] if has_instance else "")


def _as_signed_here(message: Request) -> RequestSigner | None:
    """The signer of a request in the very form that `sign_request` gives it, where its signature holds, else None.

    Written out (RFC 9421, section 2.5), since `http_message_signatures` takes thrice as long, and decides all others.
    """
    given, headers = _SIGNED_HERE.fullmatch(message.headers.get("signature-input", "")), message.headers
    url, value = _PLAIN_URL.fullmatch(message.url), _SIGNATURE_HERE.fullmatch(headers.get("signature", ""))
    if not given or not value or given["label"] != value["label"]:
        return None
    if not url or url["authority"].endswith((":80", ":443")) or not message.method.isupper():
        return None
    covered = {"@method": message.method, "@authority": url["authority"], "@path": url["path"]}
    for name in ("content-digest", *((INSTANCE_HEADER,) if given["instance"] else ())):
        if not _PLAIN_VALUE.fullmatch(headers.get(name, "")):
            return None
        covered[name] = headers[name]
    base = "".join(f'"{name}": {text}\n' for name, text in covered.items()) + f'"@signature-params": {given["params"]}'
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(given["key"]))
        key.verify(base64.b64decode(value["signature"]), base.encode("ascii"))
    except (InvalidSignature, ValueError):
        return None
    return RequestSigner(given["key"], given["nonce"], covered.get(INSTANCE_HEADER, "")[:64])


@dataclass(frozen=True)
class AnswerSigner:
    """The signer of an answer.

    key: its public key, hexadecimal.
    authenticated: whether the request's own signature had held.
    """

    key: str
    authenticated: bool
    result: VerifyResult

    def check_body(self, answer: HttpResponse, body: bytes) -> None:
        """Raises TrustError unless the signed digest is this body's."""
        verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=None)
        try:
            (result,) = verifier.verify_body(answer, [self.result], body)
            if result.body is None:
                raise ValueError("no digest was signed")
        except (HTTPMessageSignaturesException, ValueError):
            raise TrustError("the body is not the one that the answer's signature names", where="answer") from None


def content_digest(body: bytes) -> str:
    """The header Content-Digest (RFC 9530) of a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sign_answer(
    key: Ed25519PrivateKey, request: Request, status: int, nonce: str, digest: str, *, authenticated: bool
) -> dict[str, str]:
    """The headers Signature-Input and Signature of an answer.

    Written out, since its form never changes: `http_message_signatures` takes ten times as long for each answer.

    key: the aggregator's.
    request: that is answered, its headers in lower case.
    nonce: in the answer's NONCE_HEADER.
    digest: the answer's Content-Digest; "" for a file, whose hash an earlier answer named.
    authenticated: whether the request's own signature has held.
    """
    url = urlsplit(request.url)
    authority = url.netloc.lower().removesuffix({"http": ":80", "https": ":443"}.get(url.scheme, ""))
    parts = (str(status), nonce, request.method, authority, url.path or "/")
    covered = dict(zip(ANSWER_COMPONENTS, (*parts, request.headers.get(CHALLENGE_HEADER)), strict=True))
    covered |= {DIGEST: digest or None}
    if authenticated:
        covered |= {REQUEST_DIGEST: request.headers["content-digest"], REQUEST_SIGNATURE: request.headers["signature"]}
    lines = [f"{name}: {value}" for name, value in covered.items() if value is not None]
    names = " ".join(name for name, value in covered.items() if value is not None)
    keyid = key.public_key().public_bytes_raw().hex()
    parameters = f'({names});created=0;keyid="{keyid}";alg="ed25519";tag="{ANSWER_TAG}"'
    base = "\n".join([*lines, f'"@signature-params": {parameters}'])
    signature = base64.b64encode(key.sign(base.encode("latin-1"))).decode()
    return {"signature-input": f"homeroom={parameters}", "signature": f"homeroom=:{signature}:"}


def verify_answer(answer: HttpResponse) -> AnswerSigner:
    """The answer's signer; TrustError unless its signature covers ANSWER_COMPONENTS and holds for the request sent.

    Its body need not be here yet: see `AnswerSigner.check_body`. The caller checks whose key it is.
    """
    verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=_KeyResolver())
    try:
        (result,) = verifier.verify(answer, max_age=None, expect_tag=ANSWER_TAG, require_components=ANSWER_COMPONENTS)
    except (HTTPMessageSignaturesException, ValueError, TypeError):
        raise TrustError("the answer's signature does not hold, or is for another request", where="answer") from None
    return AnswerSigner(str(result.parameters["keyid"]), REQUEST_SIGNATURE in result.covered_components, result)
