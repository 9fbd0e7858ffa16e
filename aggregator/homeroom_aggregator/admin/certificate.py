"""The server's TLS certificate: two files of the configuration, or one of its own for a network without a name.

The own one is self-signed: devices know its public key by the pin in their invitation, so no authority is needed, and a
renewed certificate for the same key is the same server to them. The key is made once.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from homeroom.contract.address import is_loopback, pin_of
from homeroom.errors import InputError
from homeroom.system.clock import now
from homeroom.system.files import read_bounded, write_durable
from homeroom_aggregator.admin.configuration import ServerSection
from homeroom_aggregator.admin.folder import LOG_FILE, TLS_CERTIFICATE_FILE, TLS_KEY_FILE, open_log
from homeroom_aggregator.state.members import Members

PEM_LIMIT_BYTES = 1 << 20
LIFE_DAYS, RENEWED_DAYS_BEFORE = 820, 410  # browsers take no longer one; half of it is left when it is renewed
PLAIN_BEFORE = "devices joined this district when it was served by plain http, and would not find it by TLS"
PLAIN_REMEDY = (
    "--insecure goes on as before: who is on the network can read updates and codes; --no-insecure serves TLS: devices "
    "of this version follow by themselves, older ones need `homeroom device network DIR --address https://…`"
)


def is_plain(server: ServerSection) -> bool:
    """Whether it is served by plain http: to this machine alone, or since `insecure` says so."""
    return server.tls_cert is None and (is_loopback(server.host) or server.insecure is True)


def tls_files(folder: Path, server: ServerSection) -> tuple[Path, Path] | None:
    """Files of the certificate chain and key to serve TLS with, None for plain http.

    Its own key and certificate are made where they are missing, and the certificate renewed where half of its life is
    over or the machine has other names and addresses. InputError where devices joined by plain http, and nothing says
    whether that goes on.
    """
    if server.tls_cert and server.tls_key:
        return server.tls_cert, server.tls_key
    if is_plain(server):
        return None
    certificate, key = folder / TLS_CERTIFICATE_FILE, folder / TLS_KEY_FILE
    if not key.exists():
        if server.insecure is None and _has_devices(folder):
            raise InputError(PLAIN_BEFORE, where=str(folder), remedy=PLAIN_REMEDY)
        new = ec.generate_private_key(ec.SECP256R1())
        encoding, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        write_durable(key, new.private_bytes(serialization.Encoding.PEM, encoding, no_password))
    names = {*local_hosts(server.host), *(urlsplit(address).hostname or "" for address in server.addresses or ())}
    if not _is_good(certificate, key, names):
        write_durable(certificate, _self_signed(_read_key(key), names))
    return certificate, key


def pin_of_file(certificate: Path) -> str:
    """The pin of the first certificate in a PEM file; InputError where there is none."""
    return pin_of(_first(certificate).public_bytes(serialization.Encoding.DER))


def _first(certificate: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(read_bounded(certificate, PEM_LIMIT_BYTES))[0]
    except (OSError, ValueError) as problem:
        raise InputError(f"no TLS certificate: {problem}", where=str(certificate), remedy="give a PEM file") from None


def end_of_file(certificate: Path) -> datetime.datetime:
    """When the first certificate in a PEM file ends; InputError where there is none."""
    return _first(certificate).not_valid_after_utc


def local_hosts(host: str) -> list[str]:
    """Names and addresses by which a server that listens on `host` is reached without a proxy."""
    loopback = ["localhost", "127.0.0.1", "::1"]
    if is_loopback(host):
        return loopback
    if host not in ("", "0.0.0.0", "::"):
        return [host, *loopback]
    name = socket.gethostname()
    internet = (socket.AF_INET, socket.AF_INET6)
    every = [ip for ips in psutil.net_if_addrs().values() for ip in ips if ip.family in internet]
    addresses = [ip.address.partition("%")[0] for ip in every]
    return list(dict.fromkeys([name, f"{name.partition('.')[0]}.local", *loopback, *addresses]))


def lan_host(host: str) -> str:
    """The address by which others on the local network reach a server that listens on `host`."""
    if host not in ("", "0.0.0.0", "::"):
        return host
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: the system only chooses the interface (RFC 5737's address)
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def _has_devices(folder: Path) -> bool:
    if not (folder / LOG_FILE).exists():
        return False
    with contextlib.closing(open_log(folder)) as log:
        return Members(log.database).count() > 0


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(read_bounded(path, PEM_LIMIT_BYTES), None)
    except (OSError, ValueError, TypeError) as problem:
        raise InputError(f"no TLS key: {problem}", where=str(path), remedy="restore it from a backup") from None
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # this module made it
    return key


def _is_good(certificate: Path, key: Path, names: Iterable[str]) -> bool:
    try:
        (present, *_) = x509.load_pem_x509_certificates(read_bounded(certificate, PEM_LIMIT_BYTES))
        alternative = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    held = {str(name.value).lower() for name in alternative}
    in_time = present.not_valid_before_utc <= now() <= present.not_valid_after_utc - _days(RENEWED_DAYS_BEFORE)
    return in_time and present.public_key() == _read_key(key).public_key() and {n.lower() for n in names} <= held


def _self_signed(key: ec.EllipticCurvePrivateKey, names: Iterable[str]) -> bytes:
    """A certificate of the key for these names and addresses, as PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Homeroom aggregator")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now() - _days(1)).not_valid_after(now() + _days(LIFE_DAYS))
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    for extension in (x509.SubjectAlternativeName([_general_name(name) for name in names if name]), server):
        builder = builder.add_extension(extension, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name.encode("idna").decode() if not name.isascii() else name)


def _days(count: int) -> datetime.timedelta:
    return datetime.timedelta(days=count)
