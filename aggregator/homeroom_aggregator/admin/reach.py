"""How devices reach the server: the address and the pin that invitations name, and the addresses that it answers to."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from homeroom.contract.address import authority_of, is_address, is_secure
from homeroom.contract.canonical_json import decode
from homeroom.errors import InputError, StoreError
from homeroom.system.files import read_small, write_durable
from homeroom_aggregator.admin.certificate import is_plain, lan_host, local_hosts, pin_of_file, tls_files
from homeroom_aggregator.admin.configuration import ServerSection
from homeroom_aggregator.admin.configuration_file import CONFIGURATION_FILE, read_configuration, read_file, write_file
from homeroom_aggregator.admin.folder import LISTENING_FILE, read_facts

EVERY_HOST = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # hosts that are no address, and one that is


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """listening.json: how the folder was last served, which options of one start may have said.

    pin: of its TLS key, where devices speak with it and no proxy between.
    """

    host: str
    port: int
    secure: bool
    pin: str = ""


def note_listening(folder: Path, server: ServerSection, port: int, certificate: Path | None) -> None:
    """Write down how the folder is served. certificate: of the TLS that it speaks, None for plain http."""
    own = certificate is not None and certificate.parent == folder and not server.trusted_proxies
    pin = pin_of_file(certificate) if certificate and own else ""
    now = Listening(host=server.host, port=port, secure=certificate is not None, pin=pin)
    write_durable(folder / LISTENING_FILE, msgspec.json.encode(now))


def read_server(folder: Path) -> ServerSection:
    """How the folder's file says that it is served."""
    facts, path = read_facts(folder), folder / CONFIGURATION_FILE
    return read_file(path, facts.bundle_id).server if path.exists() else ServerSection()


def _listening(folder: Path) -> Listening:
    """How the folder was last served, or else will be."""
    try:
        data = read_small(folder / LISTENING_FILE)
    except FileNotFoundError:
        server = read_server(folder)
        files = None if is_plain(server) else tls_files(folder, server)
        own = files is not None and server.tls_cert is None and not server.trusted_proxies
        pin = pin_of_file(files[0]) if files and own else ""
        return Listening(host=server.host, port=server.port, secure=files is not None, pin=pin)
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(folder / LISTENING_FILE)) from None
    return decode(data, Listening, limit_bytes=1 << 16, where=str(folder / LISTENING_FILE), error=StoreError)


def local_address(folder: Path, *, leaves: bool) -> str:
    """The first of the configured addresses, else that at which the folder was last served, or will be.

    leaves: it is for other machines too. InputError where each start takes another port.
    """
    server = read_server(folder)
    if server.addresses:
        return server.addresses[0].rstrip("/")
    there = _listening(folder)
    if there.port == 0:
        where, remedy = str(folder / CONFIGURATION_FILE), "give --address, like https://homeroom.district.example"
        raise InputError("[server] port is 0: each start takes a free one", where=where, remedy=remedy)
    host = lan_host(there.host) if leaves else EVERY_HOST.get(there.host, there.host)
    return f"{'https' if there.secure else 'http'}://{_url_host(host)}:{there.port}"


def reached(folder: Path, address: str) -> str:
    """How devices reach a folder that is served, in words; where it listens elsewhere, somebody has to pass them on."""
    there = _listening(folder)
    own = {authority_of(f"http://{_url_host(host)}:{there.port}") for host in local_hosts(there.host)}
    if authority_of(address) in own:
        return f"it is reached at {address}"
    return f"it listens on {there.host} port {there.port}, to which a proxy of yours has to pass on {address}"


def invited(folder: Path, address: str) -> str:
    """The pin for invitations to an address, which is added to those that the server answers to; one under way sees it.

    InputError for what is no address.
    """
    if not is_address(address):
        raise InputError("is not an address", where=address, remedy="https://name or http://name:port")
    server, there = read_server(folder), _listening(folder)
    own = {authority_of(f"http://{_url_host(host)}:{there.port}") for host in local_hosts(there.host)}
    known = {*own, *map(authority_of, server.addresses or ())}
    if server.addresses is not None and (authority_of(address) not in known or urlsplit(address).path.strip("/")):
        section = msgspec.structs.replace(server, addresses=tuple(dict.fromkeys((*server.addresses, address))))
        write_file(folder, msgspec.structs.replace(read_configuration(folder), server=section))
    return there.pin if is_secure(address) else ""


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
