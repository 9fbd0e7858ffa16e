"""The running server's certificate: renewed before it ends, without a connection or a request that is lost."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography import x509

from aggregator.institution import make_folder, running
from homeroom_aggregator.admin import certificate
from homeroom_aggregator.admin.certificate import pin_of_file, tls_files
from homeroom_aggregator.admin.configuration import ServerSection
from homeroom_aggregator.admin.configuration_file import read_configuration
from homeroom_aggregator.server import serve
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state import audit

UNCHECKED = ssl.create_default_context()
UNCHECKED.check_hostname, UNCHECKED.verify_mode = False, ssl.CERT_NONE


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, str]]:
    """A server with a certificate of its own that is half over, which looks after it every moment."""
    monkeypatch.setattr(serve, "LOOK_S", 0)
    folder = make_folder(tmp_path)
    section = ServerSection(host="0.0.0.0")
    with monkeypatch.context() as short:
        short.setattr(certificate, "LIFE_DAYS", 3)
        short.setattr(certificate, "RENEWED_DAYS_BEFORE", 2)
        files = tls_files(folder, section)
    assert files
    monkeypatch.setattr(certificate, "RENEWED_DAYS_BEFORE", 0)  # until a test says that it is time
    configuration = msgspec.structs.replace(read_configuration(folder), server=section)
    service = open_service(folder, None, configuration)
    with running(service, *files) as address:
        yield service, address.replace("http:", "https:")
    service.close()


def shown(address: str) -> x509.Certificate:
    host, port = address.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), 10) as raw, UNCHECKED.wrap_socket(raw) as line:
        return x509.load_der_x509_certificate(line.getpeercert(binary_form=True) or b"")


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not holds() and time.monotonic() < end_s:
        time.sleep(0.1)
    assert holds()


def events(service: Service) -> list[str]:
    return [entry.event for entry in audit.records(service.reader.database)]


def test_a_certificate_that_is_half_over_is_renewed_while_it_serves(
    served: tuple[Service, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, address = served
    before, pin = shown(address), service.tls_pin
    with httpx.Client(verify=UNCHECKED) as open_before:
        answer = open_before.get(f"{address}/v1/health")
        stream = answer.extensions["network_stream"]
        monkeypatch.setattr(certificate, "RENEWED_DAYS_BEFORE", 410)
        until(lambda: shown(address).not_valid_after_utc > before.not_valid_after_utc + datetime.timedelta(days=700))
        answer = open_before.get(f"{address}/v1/health")
        assert (answer.status_code, answer.extensions["network_stream"]) == (200, stream), "the connection goes on"
    assert shown(address).public_key() == before.public_key()
    assert service.tls_pin == pin, "devices know it as before"
    until(lambda: events(service).count("certificate renewed") == 1)


def test_a_certificate_that_was_replaced_is_taken_and_one_that_does_not_fit_is_not(
    served: tuple[Service, str], tmp_path: Path
) -> None:
    service, address = served
    folder = service.rounds.log.database.path.parent
    (tmp_path / "other").mkdir()
    other = tls_files(make_folder(tmp_path / "other"), ServerSection(host="0.0.0.0"))
    assert other
    before = shown(address)
    with contextlib.suppress(OSError):  # of another key: it is never shown, and the own one is made anew
        (folder / "tls-cert.pem").write_bytes(other[0].read_bytes())
    until(lambda: events(service).count("certificate renewed") == 1)
    assert shown(address).public_key() == before.public_key()
    (folder / "tls-key.pem").write_bytes(other[1].read_bytes())
    (folder / "tls-cert.pem").write_bytes(other[0].read_bytes())
    until(lambda: pin_of_file(other[0]) == service.tls_pin)
    assert shown(address).public_key() != before.public_key()
