"""The device's state: named records in the table `secrets`, each with one type and one encoding.

A record stands in the module that owns it, which alone reads and writes it. `docs/device.md` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from homeroom.errors import Code, StoreError

IDENTITY, RESIDUAL, SECURE = "identity.", "residual.", "secure."  # how names of records begin that are deleted together

JUDGED_RECORD = "judged"  # what validation samples say of a global version; it goes with what their subjects taught

TAKEN_IN_RECORD = "taken_in"  # what the receipts of the inbox say, people's names too: it goes whenever samples go

T = TypeVar("T")


class RecordStore(Protocol):
    """A store of the sealed bytes of records, by name."""

    directory: Path

    def get_secret(self, name: str) -> bytes | None: ...

    def put_secret(self, name: str, body: bytes | None) -> None: ...


@dataclass(frozen=True)
class StateRecord(Generic[T]):
    """A record of the device's state.

    name: under which it is stored; where there are several of a kind, an update's id follows.
    encode, decode: its bytes; `decode` raises ValueError where they are not the record's.
    made_again: an unreadable one counts as none, since it is made again.
    """

    name: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T | None]
    made_again: bool = False

    def read(self, store: RecordStore, update_id: str = "") -> T | None:
        """The record, or None; StoreError where it cannot be read, as one of a newer version may be."""
        body = store.get_secret(self.name + update_id)
        if body is None:
            return None
        try:
            return self.decode(body)
        except (ValueError, msgspec.DecodeError) as problem:
            if self.made_again:
                return None
            raise StoreError(
                f"its record {self.name!r} cannot be read ({problem}): a newer homeroom wrote it",
                code=Code.UNREADABLE_RECORD,
                where=str(store.directory),
                remedy="update homeroom",
            ) from None

    def write(self, store: RecordStore, value: T | None, update_id: str = "") -> None:
        """Stores the record in place of the one before; None removes it."""
        store.put_secret(self.name + update_id, None if value is None else self.encode(value))

    def exists(self, store: RecordStore) -> bool:
        """Whether there is one."""
        return store.get_secret(self.name) is not None


def json_record(name: str, type_: type[T], *, made_again: bool = False) -> StateRecord[T]:
    """A record of a msgspec type in JSON; fields that a newer version added are passed over."""
    return StateRecord(name, msgspec.json.encode, partial(msgspec.json.decode, type=type_), made_again)


def msgpack_record(name: str, type_: type[T], *, made_again: bool = False) -> StateRecord[T]:
    """A record of a msgspec type in MessagePack; fields that a newer version added are passed over."""
    return StateRecord(name, msgspec.msgpack.encode, partial(msgspec.msgpack.decode, type=type_), made_again)


def text_record(name: str) -> StateRecord[str]:
    """A record of a text in UTF-8."""
    return StateRecord(name, str.encode, bytes.decode)


def bytes_record(name: str) -> StateRecord[bytes]:
    """A record of bytes as they are."""
    return StateRecord(name, bytes, bytes)


def condition(*families: str) -> str:
    """The SQL condition that holds for the records of families such as SECURE."""
    return " OR ".join(f"name LIKE '{family}%'" for family in families)


def deletion(*families: str) -> str:
    """The SQL statement that deletes the records of families."""
    return f"DELETE FROM secrets WHERE {condition(*families)}"
