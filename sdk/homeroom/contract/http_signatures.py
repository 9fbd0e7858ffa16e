"""HTTP message signatures (RFC 9421) of requests, for both ends.

The device's Ed25519 signature covers the method, the authority (a proxy in front must keep Host), the path and the
body's digest. A request is fresh if it carries a nonce that the server issued and has not seen since. `created` is
always 0: a device's clock proves nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, HTTPSignatureKeyResolver
from http_message_signatures.algorithms import ED25519
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from homeroom.errors import TrustError

NONCE_HEADER = "homeroom-nonce"
CHALLENGE_HEADER = "homeroom-challenge"  # 64 hexadecimal digits, for the aggregator to sign
SIGNATURE_TAG = "homeroom"
INSTANCE_HEADER = "homeroom-instance"
INVITATION_HEADER = "homeroom-invitation"  # its code, from a device that fetches a bundle before it is enrolled
COVERED_COMPONENTS = ("@method", "@authority", "@path", "content-digest")
NO_CLOCK = datetime.datetime.fromtimestamp(0, tz=datetime.UTC)


class HttpRequest(Protocol):
    """The attributes that a request of any HTTP library has."""

    method: str
    url: Any
    headers: Any


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
