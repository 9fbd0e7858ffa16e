"""Authentication: nonces, and the operator's token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import secrets
import struct
import threading
import time
from collections.abc import Callable

from homeroom_aggregator.admin.configuration import RequestLimits

LAST_NONCES_KEPT = 100_000


class _Used:
    """Numbers from `first` on, a bit each."""

    def __init__(self, first: int) -> None:
        self.first, self._bits = first, bytearray()

    def __contains__(self, number: int) -> bool:
        index, bit = divmod(number - self.first, 8)
        return index < 0 or (index < len(self._bits) and bool(self._bits[index] >> bit & 1))

    def add(self, number: int) -> None:
        index, bit = divmod(number - self.first, 8)
        self._bits.extend(bytes(max(0, index + 1 - len(self._bits))))
        self._bits[index] |= 1 << bit


class Nonces:
    """One-time nonces that prove themselves by a MAC, so that giving one out costs no memory; a used one costs a bit.

    The key is new at each start: every device is then asked to sign again with a fresh one. A nonce says to whom it was
    given, and in what order: one client always uses the last that it got, so a device that comes with an earlier one,
    not used yet, is two machines that share a key.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, life_s: float = RequestLimits().nonce_s) -> None:
        self.life_s = life_s
        self._key, self._clock, self._count = secrets.token_bytes(32), clock, itertools.count(1)
        self._lock = threading.Lock()
        self._used, self._used_before = _Used(1), _Used(1)
        self._turned_s = clock()
        self._last: dict[str, int] = {}

    def new(self, device: str = "") -> str:
        """A nonce for an answer to a device, or to somebody unknown."""
        count = next(self._count)
        if device:
            if len(self._last) >= LAST_NONCES_KEPT:
                self._last.clear()
            self._last[device] = count
        body = struct.pack(">QI8s", count, int(self._clock()) & 0xFFFFFFFF, _short(device))
        return base64.urlsafe_b64encode(body + self._mac(body)).decode()

    def use(self, nonce: str, device: str) -> bool:
        """True the first time a nonce comes back, unless it is too old."""
        with self._lock:
            if not self.unused(nonce, device):
                return False
            if self._clock() - self._turned_s > self.life_s:
                self._used_before, self._used, self._turned_s = self._used, _Used(next(self._count)), self._clock()
            opened = self._open(nonce)
            assert opened is not None  # it is unused
            (self._used if opened[0] >= self._used.first else self._used_before).add(opened[0])
        return True

    def unused(self, nonce: str, device: str) -> bool:
        """Whether a nonce was given to this device, lately, and has not come back yet."""
        opened = self._open(nonce)
        if opened is None or opened[2] not in (_short(""), _short(device)):
            return False
        if (int(self._clock()) - opened[1]) & 0xFFFFFFFF > self.life_s:
            return False
        return opened[0] not in (self._used if opened[0] >= self._used.first else self._used_before)

    def out_of_turn(self, nonce: str, device: str) -> bool:
        """Whether a nonce was given to this device before a later one: another machine got that."""
        opened = self._open(nonce)
        return opened is not None and opened[2] == _short(device) and opened[0] < self._last.get(device, 0)

    def _open(self, nonce: str) -> tuple[int, int, bytes] | None:
        try:
            raw = base64.urlsafe_b64decode(nonce.encode("ascii"))
        except (ValueError, UnicodeEncodeError):
            return None
        if len(raw) != 36 or not hmac.compare_digest(raw[20:], self._mac(raw[:20])):
            return None
        count, at_s, owner = struct.unpack(">QI8s", raw[:20])
        return count, at_s, owner

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:16]


def _short(device: str) -> bytes:
    return hashlib.sha256(device.encode()).digest()[:8] if device else bytes(8)


def is_operator(token: str | None, authorization: str | None, client: str | None) -> bool:
    """Whether a request is the operator's: from this machine, or with the token as `Authorization: Bearer …`.

    Behind a proxy every request seems to come from this machine; a token, once set, is therefore always asked for.
    """
    if token is None:
        return client in ("127.0.0.1", "::1")
    return hmac.compare_digest((authorization or "").encode(), f"Bearer {token}".encode())
