"""Master keys of a store, kept outside its directory: in the system's keyring, or in a file.

A key ring can hold the next master key beside the present one while a `forget` is under way.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from homeroom.errors import StoreError
from homeroom.store.encryption import Cipher, new_key
from homeroom.system.files import close_to_others, read_small, sync_directory, write_durable
from homeroom.system.identity import disk_identity, machine_identity

KeyLocation = Literal["folder", "keyring", "user"]


class KeyRing(msgspec.Struct, frozen=True, kw_only=True):
    """The master keys of one device directory.

    keys: by generation, hexadecimal; two of them only while a rotation is under way.
    nonce: keys the digests by which a moved directory is noticed.
    forgetting: keyed indexes of the subjects to remove, so that the next opening finishes a rotation.
    begun: by bundle, the newest base whose update was begun to be sent, and that update's id; an older copy of the
    directory does not know it.
    charged: by noise multiplier, how many private updates were begun, and the last one's id.
    digest_key: of the digests of the rows, hexadecimal; empty for a store from before there were any.
    digest_state: of the digests, at the last close or before the session of writing under way.
    session: counts sessions of writing; `writing`: whether one is under way, or was cut short.
    edited: edits that were noticed and not accepted, in words.
    kept: names of records that may not go by themselves.
    """

    keys: dict[int, str]
    nonce: str
    forgetting: tuple[str, ...] = ()
    begun: dict[str, tuple[int, str]] = {}
    charged: dict[str, tuple[int, str]] = {}
    digest_key: str = ""
    digest_state: str = ""
    session: int = 0
    writing: bool = False
    edited: str = ""
    kept: tuple[str, ...] = ()

    @property
    def newest(self) -> int:
        """The newest generation."""
        return max(self.keys)

    @property
    def newest_cipher(self) -> Cipher:
        """The newest master key."""
        return Cipher(bytes.fromhex(self.keys[self.newest]))

    def cipher(self, generation: int) -> Cipher | None:
        """The master key of a generation, if it is still there."""
        key = self.keys.get(generation)
        return None if key is None else Cipher(bytes.fromhex(key))

    @property
    def machine(self) -> bytes:
        """A keyed digest of this machine's identity."""
        return hmac.new(self.nonce.encode(), machine_identity().encode(), sha256).digest()

    def disk(self, directory: Path) -> bytes:
        """A keyed digest of the disk that a directory lies on; empty where the system does not tell."""
        disk = disk_identity(directory)
        return hmac.new(self.nonce.encode(), b"disk\0" + disk.encode(), sha256).digest() if disk else b""

    def with_begun(self, bundle_id: str, base: int, update_id: str) -> KeyRing:
        """This ring, with a note that an update on a base of a bundle was begun to be sent."""
        return msgspec.structs.replace(self, begun={**self.begun, bundle_id: (base, update_id)})

    def without_digests(self) -> KeyRing:
        """This ring before there were digests of the rows."""
        return msgspec.structs.replace(self, digest_key="", digest_state="", session=0, writing=False)

    def next(self, forgetting: tuple[str, ...] = ()) -> KeyRing:
        """This ring with one more key, to be stored before anything is sealed with it."""
        keys = {**self.keys, self.newest + 1: new_key().hex()}
        return msgspec.structs.replace(self, keys=keys, forgetting=self.forgetting + forgetting)

    def only(self, generation: int) -> KeyRing:
        """This ring with one key alone: storing it destroys the others."""
        return msgspec.structs.replace(self, keys={generation: self.keys[generation]}, forgetting=())


def new_key_ring() -> KeyRing:
    """A ring with one new master key."""
    return KeyRing(keys={1: new_key().hex()}, nonce=secrets.token_hex(16), digest_key=new_key().hex())


class MasterKeys(Protocol):
    """Where key rings are kept, by store_id; StoreError where that is locked or cannot be read."""

    location: KeyLocation

    def read(self, store_id: str) -> KeyRing | None:
        """The ring of a store, or None."""

    def write(self, store_id: str, key_ring: KeyRing) -> None:
        """Stores the ring of a store, durably."""

    def delete(self, store_id: str) -> None:
        """Destroys the ring of a store."""


class FolderKeys:
    """One file a ring, for this user's eyes only: an administrator's credential folder, or the user's configuration."""

    def __init__(self, folder: Path, location: KeyLocation = "folder") -> None:
        self.folder, self.location = folder, location

    def _path(self, store_id: str) -> Path:
        return self.folder / f"{store_id}.json"

    def read(self, store_id: str) -> KeyRing | None:
        try:
            close_to_others(self._path(store_id))
            return _decode(read_small(self._path(store_id)), str(self._path(store_id)))
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise StoreError(f"the master key cannot be read: {problem.strerror}", where=str(self.folder)) from None

    def write(self, store_id: str, key_ring: KeyRing) -> None:
        write_durable(self._path(store_id), msgspec.json.encode(key_ring))
        for leftover in self.folder.glob(f"{store_id}.json.*.new"):
            leftover.unlink(missing_ok=True)

    def delete(self, store_id: str) -> None:
        self._path(store_id).unlink(missing_ok=True)
        if self.folder.is_dir():
            sync_directory(self.folder)


class KeyringKeys:
    """The system's own key store: Secret Service, Windows Credential Manager, macOS Keychain."""

    location: KeyLocation = "keyring"
    service = "homeroom"

    def read(self, store_id: str) -> KeyRing | None:
        with _keyring() as keyring:
            secret = keyring.get_password(self.service, store_id)
        return None if secret is None else _decode(secret.encode(), f"keyring entry {store_id}")

    def write(self, store_id: str, key_ring: KeyRing) -> None:
        with _keyring() as keyring:
            keyring.set_password(self.service, store_id, msgspec.json.encode(key_ring).decode())

    def delete(self, store_id: str) -> None:
        with _keyring() as keyring, contextlib.suppress(keyring.errors.PasswordDeleteError):
            keyring.delete_password(self.service, store_id)


@contextlib.contextmanager
def _keyring() -> Iterator[Any]:
    """The library `keyring`, its errors as StoreErrors."""
    import keyring
    import keyring.errors

    try:
        yield keyring
    except keyring.errors.KeyringError as problem:
        raise StoreError(
            f"the system's keyring refused: {problem}", remedy="unlock it, or set HOMEROOM_KEYS to a folder for keys"
        ) from None


def _decode(data: bytes, where: str) -> KeyRing:
    try:
        return msgspec.json.decode(data, type=KeyRing)
    except msgspec.DecodeError:
        raise StoreError("the master key is damaged", where=where, remedy="restore this file from a copy") from None


def find_master_keys(location: KeyLocation | None = None) -> MasterKeys:
    """Where keys are kept on this machine: HOMEROOM_KEYS if set, else `location`, else a keyring, else a user file."""
    if folder := os.environ.get("HOMEROOM_KEYS"):
        return FolderKeys(Path(folder))
    if location == "keyring" or (location is None and _has_keyring()):
        return KeyringKeys()
    if location == "folder":
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
