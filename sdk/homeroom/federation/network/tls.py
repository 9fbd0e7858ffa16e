"""TLS to an aggregator: by its pinned key alone, or by the system's authorities; the one gate for addresses.

A device that joined by https speaks plain http to nobody again, whoever names an address: `gate` is asked for every
connection. A pinned server is known by its public key, whose proof is part of the handshake, so that no byte of a
request leaves before it; authorities, names and dates say nothing more then.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Any

import httpx

from homeroom.contract.address import is_secure, pin_of
from homeroom.errors import Code, TrustError
from homeroom.federation.network.settings import NetworkSettings

NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME
OTHER_KEY = "has another TLS key than the aggregator that this device was invited to: nothing was sent"
NEVER_DOWN = "this device joined by https and never goes back to http: nothing was sent"


def gate(address: str, pin: str, network: NetworkSettings) -> tuple[str, str]:
    """The address to speak to and the pin of its TLS key, "" for the system's authorities.

    Raises TrustError where the settings lead from TLS down to plain http.

    address, pin: of the enrolment.
    network: settings, which may name another address.
    """
    if network.address and is_secure(address) and not is_secure(network.address):
        remedy = "`homeroom device network DIR --address ''`, or an https address"
        raise TrustError(NEVER_DOWN, code=Code.TLS_ONLY, where=network.address, remedy=remedy)
    return network.address or address, network.pin or pin


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check_key(self)


class _PinnedObject(ssl.SSLObject):  # TLS inside the TLS of a proxy
    def do_handshake(self) -> None:
        super().do_handshake()
        _check_key(self)


class _PinnedContext(ssl.SSLContext):
    pin = ""
    sslsocket_class, sslobject_class = _PinnedSocket, _PinnedObject


def _check_key(connection: Any) -> None:
    """Raises SSLCertVerificationError, before anything is sent, unless the server has the pinned key."""
    certificate, pin = connection.getpeercert(binary_form=True), connection.context.pin
    with contextlib.suppress(ValueError):
        if certificate and pin_of(certificate) == pin:
            return
    refused = ssl.SSLCertVerificationError(1, OTHER_KEY)
    refused.verify_code, refused.verify_message = 0, OTHER_KEY
    raise refused


def tls_context(pin: str, ignore_dates: bool = False) -> ssl.SSLContext:
    """Accepts the server with the pinned key and no other; without a pin, whom the system's authorities vouch for.

    ignore_dates: of the certificates.
    """
    if pin:
        context = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.pin, context.check_hostname, context.verify_mode = pin, False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context
    usual = httpx.create_ssl_context()
    if ignore_dates:
        usual.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    return usual
