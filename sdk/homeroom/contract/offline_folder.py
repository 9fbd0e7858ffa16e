"""Files of offline exchange on a removable folder (a USB stick) that people carry between a school and its district.

    homeroom/<first 16 digits of the root's fingerprint>/receiver.json      key that messages are sealed to, signed
                                                        /<device>.letter    message to the aggregator
                                                        /<device>.answer    answer to the device

<device> is the first 16 digits of its public key. A file is written under another name, then renamed: one that was cut
short (the stick was pulled out) has no such name or does not open. Other files in the folder are ignored.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from homeroom.contract.canonical_json import decode
from homeroom.contract.sealed_box import SealingKey
from homeroom.errors import InputError, StoreError
from homeroom.system.files import read_bounded, refusal, sync_directory, write_durable

OFFLINE_FOLDER_NAME = "homeroom"
RECEIVER_FILE = "receiver.json"
RECEIVER_LIMIT_BYTES = 1 << 16
MESSAGE_FILE = re.compile(r"[0-9a-f]{16}\.letter")
MOST_MESSAGES = 10_000


class OfflineFolder:
    """The part of a removable folder that belongs to the institution with this root key.

    Raises InputError where `path`, the removable folder, does not exist.
    """

    def __init__(self, path: Path, root_fingerprint: str) -> None:
        if not path.is_dir():
            raise InputError("there is no such folder", where=str(path), remedy="is the stick plugged in?")
        self.folder = path / OFFLINE_FOLDER_NAME / root_fingerprint[:16]

    def message(self, device: str) -> Path:
        """Path of a device's message; `device` is its public key, hexadecimal."""
        return self.folder / f"{device[:16]}.letter"

    def answer(self, device: str) -> Path:
        """Path of the answer to a device; `device` is its public key, hexadecimal."""
        return self.folder / f"{device[:16]}.answer"

    def messages(self) -> list[Path]:
        """Paths of the messages to the aggregator, sorted by name, at most MOST_MESSAGES."""
        if not self.folder.is_dir():
            return []
        paths = (path for path in self.folder.iterdir() if MESSAGE_FILE.fullmatch(path.name))
        return sorted(path for path in paths if path.is_file() and not path.is_symlink())[:MOST_MESSAGES]

    def receiver(self) -> SealingKey:
        """The key that messages are sealed to, from the aggregator; the caller checks its signature."""
        path = self.folder / RECEIVER_FILE
        if not path.is_file():
            raise InputError(
                "this folder has not been at the aggregator yet",
                where=str(path),
                remedy="`homeroom district offline in FOLDER STICK` there prepares it",
            )
        data, limit = read(path, RECEIVER_LIMIT_BYTES), RECEIVER_LIMIT_BYTES
        return decode(data, SealingKey, limit_bytes=limit, where=str(path), error=InputError)

    def put_receiver(self, key: SealingKey) -> None:
        """Writes the key that messages are sealed to."""
        write_durable(self.folder / RECEIVER_FILE, msgspec.json.format(msgspec.json.encode(key), indent=1))


def read(path: Path, limit_bytes: int) -> bytes:
    """A file's content; InputError if it is larger than `limit_bytes`, StoreError if it cannot be read."""
    try:
        data = read_bounded(path, limit_bytes)
    except OSError as problem:
        raise StoreError(
            f"cannot be read: {problem.strerror}", where=str(path), remedy="check the disk or stick"
        ) from None
    if len(data) > limit_bytes:
        raise InputError(f"is larger than {limit_bytes:,} bytes", where=str(path), remedy="it is none of ours")
    return data


def remove(path: Path) -> None:
    """Removes a file durably; no error where it is gone already."""
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as problem:
        raise refusal(problem, path) from None
