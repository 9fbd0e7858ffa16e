"""Files that the aggregator's commands read."""

from __future__ import annotations

from pathlib import Path

from homeroom.contract.canonical_json import decode
from homeroom.contract.signing import Certificate
from homeroom.errors import InputError

CERTIFICATE_LIMIT_BYTES = 1 << 16


def read_bytes(path: Path) -> bytes:
    """A whole file; InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None


def read_certificate(path: Path) -> Certificate:
    """A certificate as JSON; InputError if it is none."""
    data = read_bytes(path)
    return decode(data, Certificate, limit_bytes=CERTIFICATE_LIMIT_BYTES, where=str(path), error=InputError)
