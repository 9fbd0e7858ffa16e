"""Encryption at rest and where the master key lives; imports errors, durable and machine.

Everything is sealed with ChaCha20-Poly1305 (RFC 8439; a Raspberry Pi has no AES instructions) under a random nonce,
with the place it belongs to as associated data, so that rows cannot be swapped. The master key stays outside the
device's directory, in a *ring* that can hold the next key beside the present one while a `forget` is under way.
"""

from __future__ import annotations

import hmac
import os
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from homeroom.errors import StoreError
from homeroom.system.files import sync_directory, write_durable
from homeroom.system.identity import disk_identity, machine_identity

KEY_BYTES, NONCE_BYTES = 32, 12
KeyPlace = Literal["folder", "keyring", "user"]


class BrokenSealError(StoreError):
    """A sealed value was altered, moved, or sealed with another key; the next opening repairs it."""

    def __init__(self, place: str) -> None:
        super().__init__(f"{place} does not open: it was altered", remedy="open the directory again to repair it")


class Cipher:
    """One data key. `place` names table, column and row; a value opens only where it was sealed."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._aead = ChaCha20Poly1305(key)
        self._index_key = hmac.digest(key, b"homeroom/index", "sha256")

    def seal(self, plain: bytes, *place: str | int) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, _place(place))

    def open(self, sealed: bytes, *place: str | int) -> bytes:
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _place(place))
        except (InvalidTag, ValueError, TypeError):
            raise BrokenSealError("|".join(map(str, place))) from None

    def holds(self, sealed: bytes | None, *place: str | int) -> bool:
        """Whether a value was sealed here, for this place, and not altered since; nothing (None) holds."""
        try:
            if sealed is not None:
                self.open(sealed, *place)
        except BrokenSealError:
            return False
        return True

    def index(self, *parts: str | bytes) -> bytes:
        """A keyed digest, 16 bytes, by which a value can be found again without being readable."""
        message = b"\0".join(sha256(p.encode() if isinstance(p, str) else p).digest() for p in parts)
        return hmac.digest(self._index_key, message, "sha256")[:16]


def seal_twice(outer: Cipher, inner: Cipher, plain: bytes, *place: str | int) -> bytes:
    """Readable only with both keys: destroying either destroys the value."""
    return outer.seal(inner.seal(plain, *place), *place)


def open_twice(outer: Cipher, inner: Cipher, sealed: bytes, *place: str | int) -> bytes:
    return inner.open(outer.open(sealed, *place), *place)


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def _place(parts: tuple[str | int, ...]) -> bytes:
    return "|".join(map(str, ("homeroom", *parts))).encode()


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """The master keys of one device directory, outside it; `keys` by generation, hexadecimal.

    Two keys only while a rotation is under way: `forgetting` then holds the keyed indexes of the subjects to remove, so
    that the next opening finishes what was begun. `nonce` keys the digest by which a moved directory is noticed.
    `begun`: by bundle, the newest base whose update was begun to be sent, and that update's id; an older copy of the
    directory does not know it. `charged`: by noise multiplier, how many private updates were begun, and the last one.
    """

    keys: dict[int, str]
    nonce: str
    forgetting: tuple[str, ...] = ()
    begun: dict[str, tuple[int, str]] = {}
    charged: dict[str, tuple[int, str]] = {}

    @property
    def newest(self) -> int:
        return max(self.keys)

    def cipher(self, generation: int) -> Cipher | None:
        key = self.keys.get(generation)
        return None if key is None else Cipher(bytes.fromhex(key))

    @property
    def machine(self) -> bytes:
        """A keyed digest of the machine that this runs on."""
        return hmac.new(self.nonce.encode(), machine_identity().encode(), sha256).digest()

    def disk(self, directory: Path) -> bytes:
        """A keyed digest of the disk that a directory lies on; empty where the system does not tell."""
        found = disk_identity(directory)
        return hmac.new(self.nonce.encode(), b"disk\0" + found.encode(), sha256).digest() if found else b""

    def with_begun(self, bundle_id: str, base: int, update_id: str) -> Ring:
        return msgspec.structs.replace(self, begun={**self.begun, bundle_id: (base, update_id)})

    def next(self, forgetting: tuple[str, ...] = ()) -> Ring:
        """This ring with one more key, to be stored before anything is sealed with it."""
        keys = {**self.keys, self.newest + 1: new_key().hex()}
        return msgspec.structs.replace(self, keys=keys, forgetting=self.forgetting + forgetting)

    def only(self, generation: int) -> Ring:
        """This ring with one key alone: storing it destroys the others."""
        return msgspec.structs.replace(self, keys={generation: self.keys[generation]}, forgetting=())


def new_ring() -> Ring:
    return Ring(keys={1: new_key().hex()}, nonce=secrets.token_hex(16))


class Keys(Protocol):
    """Where rings are kept, by the id of the store they belong to."""

    place: KeyPlace

    def read(self, store_id: str) -> Ring | None: ...
    def write(self, store_id: str, ring: Ring) -> None: ...
    def delete(self, store_id: str) -> None: ...


class FolderKeys:
    """One file a ring, for this user's eyes only: an administrator's credential folder, or the user's configuration."""

    def __init__(self, folder: Path, place: KeyPlace = "folder") -> None:
        self.folder, self.place = folder, place

    def _path(self, store_id: str) -> Path:
        return self.folder / f"{store_id}.json"

    def read(self, store_id: str) -> Ring | None:
        try:
            return _decode(self._path(store_id).read_bytes(), str(self._path(store_id)))
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise StoreError(f"the master key cannot be read: {problem.strerror}", where=str(self.folder)) from None

    def write(self, store_id: str, ring: Ring) -> None:
        write_durable(self._path(store_id), msgspec.json.encode(ring))
        for leftover in self.folder.glob(f"{store_id}.json.*.new"):
            leftover.unlink(missing_ok=True)

    def delete(self, store_id: str) -> None:
        self._path(store_id).unlink(missing_ok=True)
        if self.folder.is_dir():
            sync_directory(self.folder)


class KeyringKeys:
    """The system's own key store: Secret Service, Windows Credential Manager, macOS Keychain."""

    place: KeyPlace = "keyring"
    service = "homeroom"

    def read(self, store_id: str) -> Ring | None:
        import keyring
        from keyring.errors import KeyringError

        try:
            secret = keyring.get_password(self.service, store_id)
        except KeyringError as problem:
            raise _locked(problem) from None
        return None if secret is None else _decode(secret.encode(), f"keyring entry {store_id}")

    def write(self, store_id: str, ring: Ring) -> None:
        import keyring
        from keyring.errors import KeyringError

        try:
            keyring.set_password(self.service, store_id, msgspec.json.encode(ring).decode())
        except KeyringError as problem:
            raise _locked(problem) from None

    def delete(self, store_id: str) -> None:
        import keyring
        from keyring.errors import KeyringError, PasswordDeleteError

        try:
            keyring.delete_password(self.service, store_id)
        except PasswordDeleteError:
            return
        except KeyringError as problem:
            raise _locked(problem) from None


def _locked(problem: Exception) -> StoreError:
    return StoreError(
        f"the system's keyring refused: {problem}", remedy="unlock it, or set HOMEROOM_KEYS to a folder for keys"
    )


def _decode(data: bytes, where: str) -> Ring:
    try:
        return msgspec.json.decode(data, type=Ring)
    except msgspec.DecodeError:
        raise StoreError("the master key is damaged", where=where, remedy="restore this file from a copy") from None


def find_keys(place: KeyPlace | None = None) -> Keys:
    """The place of keys on this machine: HOMEROOM_KEYS if set, else `place`, else a real keyring, else a user file."""
    if folder := os.environ.get("HOMEROOM_KEYS"):
        return FolderKeys(Path(folder))
    if place == "keyring" or (place is None and _has_keyring()):
        return KeyringKeys()
    if place == "folder":
        raise StoreError(
            "this directory's master key is in a credential folder", remedy="set HOMEROOM_KEYS to that folder"
        )
    import platformdirs

    return FolderKeys(Path(platformdirs.user_config_dir("homeroom", appauthor=False)) / "keys", "user")


def _has_keyring() -> bool:
    """Whether a backend that really stores secrets is there; it may take the system a moment to say."""
    try:
        import keyring
        from keyring.backends import chainer, fail, null

        backend = keyring.get_keyring()
    except Exception:
        return False
    if isinstance(backend, chainer.ChainerBackend):
        return bool(backend.backends)
    return not isinstance(backend, (fail.Keyring, null.Keyring))
