"""The running server's TLS certificate: its own is renewed in time, and any is taken anew once its files change.

The context is the one in use: connections go on as they are, and the next handshake shows the newer certificate.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from pathlib import Path

import msgspec

from homeroom.contract.canonical_json import digest
from homeroom.errors import HomeroomError, InputError
from homeroom.system.files import read_small
from homeroom_aggregator.admin.certificate import end_of_file, pin_of_file, tls_files
from homeroom_aggregator.admin.folder import TLS_CERTIFICATE_FILE
from homeroom_aggregator.server.metrics import LOGGER
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state import audit

LOOK_S = 60  # between two looks


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """The context of TLS by a certificate chain and its key, PEM files; None without them."""
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as problem:  # ssl.SSLError is one
        where = f"{certificate}, {key}"
        raise InputError(f"no TLS certificate and key: {problem}", where=where, remedy="give two PEM files") from None
    return context


class CertificateWatch:
    """Looks after the certificate of a server that runs."""

    def __init__(self, service: Service, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        self._service, self._context, self._files = service, context, (certificate, key)
        self._folder = service.rounds.log.database.path.parent
        self._is_own = certificate == self._folder / TLS_CERTIFICATE_FILE
        self._note()

    def _note(self) -> None:
        certificate, _ = self._files
        self._loaded = self._content()
        self._service.tls_pin, self._service.tls_end = pin_of_file(certificate), end_of_file(certificate)

    def _content(self) -> str:
        return digest(b"".join(map(read_small, self._files)))

    def _take(self) -> bool:
        """Renew the own certificate if it is time, and use what the files hold now; whether it is another."""
        if self._is_own:
            server = self._service.configuration.server
            tls_files(self._folder, msgspec.structs.replace(server, tls_cert=None, tls_key=None))
        if self._content() == self._loaded:
            return False
        tls_context(*self._files)  # a pair that does not fit would spoil the context in use
        self._context.load_cert_chain(*self._files)
        self._note()
        return True

    async def look(self) -> None:
        """Take a newer certificate; where that fails, the one in use goes on, and the next look tries again."""
        try:
            if not await asyncio.to_thread(self._take):
                return
        except (OSError, HomeroomError) as problem:
            LOGGER.warning("the TLS certificate cannot be renewed: %s", problem)
            return
        database, until = self._service.rounds.log.database, f"{self._service.tls_end:%Y-%m-%d}"
        await self._service.writer.do(partial(audit.record, database, "certificate renewed", until=until))
