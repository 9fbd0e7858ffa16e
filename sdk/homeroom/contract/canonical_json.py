"""Canonical JSON (RFC 8785): bytes, identities, and reading with a size limit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import rfc8785

from homeroom.errors import HomeroomError
from homeroom.system.files import open_regular

D = TypeVar("D")
GET_AGAIN = "it may be cut short; get it again from whoever made it"


def canonical(document: Any) -> bytes:
    """RFC 8785 bytes of a JSON document or a msgspec structure."""
    return bytes(rfc8785.dumps(msgspec.to_builtins(document)))


def digest(data: bytes) -> str:
    """SHA-256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits; read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(document: Any) -> str:
    """SHA-256 of the canonical bytes of a document, 64 hexadecimal digits."""
    return digest(canonical(document))


def decode(data: bytes, into: type[D], *, limit_bytes: int, where: str, error: type[HomeroomError]) -> D:
    """Reads a JSON document as the structure `into`; raises `error` if it is too large or does not fit.

    Unknown fields are ignored: a minor version may add some.
    """
    if len(data) > limit_bytes:
        raise error(f"{len(data):,} bytes are more than the {limit_bytes:,} allowed", where=where)
    if not data.strip():
        raise error("is empty", where=where, remedy=GET_AGAIN)
    try:
        return msgspec.json.decode(data, type=into)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
        raise error(f"not a valid document: {problem}", where=where, remedy=GET_AGAIN) from None
