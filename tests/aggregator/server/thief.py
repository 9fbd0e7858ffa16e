"""Servers of an attacker: in the clear, with a TLS key of their own, or with one that passes questions on."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from homeroom_aggregator.admin.certificate import tls_files
from homeroom_aggregator.admin.configuration import ServerSection

WORTH = (b"signature-input", b"homeroom-invitation", b'"code"')
Reply = Callable[[bytes], bytes]
NOTHING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Thief:
    """Listens on this machine and keeps what it is sent, deciphered. `reply` makes the answer of a request."""

    def __init__(self, reply: Reply, tls: ssl.SSLContext | None, port: int) -> None:
        self.heard, self.connections, self._reply, self._tls = bytearray(), 0, reply, tls
        self.listening = socket.create_server(("127.0.0.1", port))
        self.port = self.listening.getsockname()[1]

    @property
    def got(self) -> int:
        """Bytes of requests with a code, a signature or an update in them; the others say nothing of worth."""
        return len(self.heard) if any(word in bytes(self.heard).lower() for word in WORTH) else 0

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self.listening.accept()
                self.connections += 1
                threading.Thread(target=self._answer, args=(taken,), daemon=True).start()

    def _answer(self, taken: socket.socket) -> None:
        with contextlib.suppress(OSError), taken:
            taken.settimeout(60)
            connection = self._tls.wrap_socket(taken, server_side=True) if self._tls else taken
            request = b""
            while b"\r\n\r\n" not in request and (part := connection.recv(1 << 16)):
                request += part
            self.heard += request
            connection.sendall(self._reply(request))
            connection.close()


@contextlib.contextmanager
def thief(reply: Reply = lambda _: NOTHING, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Thief]:
    made = Thief(reply, tls, port)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.listening.shutdown(socket.SHUT_RDWR)
        made.listening.close()
        thread.join(60)


def other_key(folder: Path) -> ssl.SSLContext:
    """TLS by a new key, or by the one in `folder` if there is one."""
    folder.mkdir(exist_ok=True)
    files = tls_files(folder, ServerSection(host="0.0.0.0", insecure=False))
    assert files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context
