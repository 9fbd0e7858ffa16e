"""Addresses of an aggregator: URLs in one strict form, and the pin of the server's TLS key.

A pin is the SHA-256 of the certificate's SubjectPublicKeyInfo, as in RFC 7469 but hexadecimal: a certificate that is
renewed for the same key keeps it. The server proves the key in every TLS handshake, whatever the certificate's dates.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from homeroom.contract.canonical_json import digest

ADDRESS_PATTERN = r"^https?://[^\s/?#@\\]+(/[A-Za-z0-9._~-]+)*/?\Z"
Address = Annotated[str, msgspec.Meta(pattern=ADDRESS_PATTERN)]  # http or https, a host, perhaps a port and a path
Pin = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]  # or "" where none is known


def is_address(text: str) -> bool:
    """Whether a text is an address, with a port from 1 to 65535."""
    try:
        return re.match(ADDRESS_PATTERN, text) is not None and urlsplit(text).port != 0
    except ValueError:
        return False


def authority_of(address: str) -> str:
    """The authority that a request to an address is signed for: host and port, in lower case, without a usual port."""
    return bare_authority(urlsplit(address).netloc)


def bare_authority(host: str) -> str:
    """A Host header as signatures cover it (RFC 9421, section 2.2.3), whichever of the usual ports it may name."""
    return host.strip().lower().removesuffix(":443").removesuffix(":80")


def is_secure(address: str) -> bool:
    """Whether requests to an address travel in TLS."""
    return urlsplit(address).scheme == "https"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, so that nothing leaves it."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def in_clear(address: str) -> bool:
    """Whether others on the network can read what is sent to an address."""
    return not is_secure(address) and not is_loopback(urlsplit(address).hostname or "")


def pin_of(certificate: bytes) -> str:
    """The pin of a certificate in DER; ValueError where it is none."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_der_x509_certificate

    key = load_der_x509_certificate(certificate).public_key()
    return digest(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
