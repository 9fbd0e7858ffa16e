"""Signatures as we call them, against the RFCs' own vectors: Ed25519 (RFC 8032) and HTTP messages (RFC 9421)."""

from __future__ import annotations

import datetime
import http.client
import io
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier
from http_message_signatures.algorithms import ED25519

from homeroom.contract import http_signatures as ours
from homeroom.contract.signing import public_hex
from homeroom.errors import TrustError

RFC_8032 = {  # section 7.1: secret, public, message, signature
    "test 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "test 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "test 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
}


@pytest.mark.parametrize("vector", RFC_8032.values(), ids=RFC_8032.keys())
def test_a_key_signs_as_rfc_8032_says(vector: tuple[str, str, str, str]) -> None:
    secret, public, message, signature = map(bytes.fromhex, vector)
    key = Ed25519PrivateKey.from_private_bytes(secret)
    assert public_hex(key) == public.hex()
    assert key.sign(message) == signature
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    for wrong in (message + b"x", b"x" + message):
        with pytest.raises(InvalidSignature):
            Ed25519PublicKey.from_public_bytes(public).verify(signature, wrong)


# RFC 9421, appendix B: the test request, its key (B.1.4) and its signature with Ed25519 (B.2.6)
KEY = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
-----END PRIVATE KEY-----
"""
HEADERS = {  # without Content-Digest, which this signature does not cover
    "Host": "example.com",
    "Date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "Content-Type": "application/json",
    "Content-Length": "18",
}
COVERED = ("date", "@method", "@path", "@authority", "content-type", "content-length")
CREATED = datetime.datetime.fromtimestamp(1618884473, tz=datetime.UTC)
INPUT = (
    'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length")'
    ';created=1618884473;keyid="test-key-ed25519"'
)
SIGNATURE = "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:"


class Resolver(ours._KeyResolver):
    """The RFC names its key in words."""

    def resolve_public_key(self, key_id: str) -> Any:
        assert key_id == "test-key-ed25519"
        assert self.key
        return self.key.public_key()


def rfc_key() -> Ed25519PrivateKey:
    key = load_pem_private_key(KEY, None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def rfc_request(**more: str) -> ours.Request:
    fields = "".join(f"{name}: {value}\r\n" for name, value in (HEADERS | more).items())
    headers = http.client.parse_headers(io.BytesIO(f"{fields}\r\n".encode()))
    return ours.Request("POST", "https://example.com/foo?param=Value&Pet=dog", headers)  # type: ignore[arg-type]


def test_a_message_is_signed_as_rfc_9421_says() -> None:
    request = rfc_request()
    signer = HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=Resolver(rfc_key()))
    signer.sign(
        request,
        key_id="test-key-ed25519",
        created=CREATED,
        label="sig-b26",
        include_alg=False,
        covered_component_ids=COVERED,
    )
    assert request.headers["Signature"] == SIGNATURE
    assert request.headers["Signature-Input"] == INPUT


def test_the_signature_of_rfc_9421_holds_and_is_still_none_of_a_device() -> None:
    signed = {"Signature-Input": INPUT, "Signature": SIGNATURE}
    verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=Resolver(rfc_key()))
    (found,) = verifier.verify(rfc_request(**signed), max_age=None)
    assert found.parameters["keyid"] == "test-key-ed25519"
    with pytest.raises(TrustError):  # it covers no body and no nonce, and is not for us
        ours.verify_request(rfc_request(**signed), b'{"hello": "world"}')
