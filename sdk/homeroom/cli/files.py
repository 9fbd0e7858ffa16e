"""Files that commands of the exporter and the aggregator read."""

from __future__ import annotations

from pathlib import Path

from homeroom.contract.canonical_json import decode
from homeroom.contract.signing import Certificate
from homeroom.errors import HomeroomError, InputError
from homeroom.system.files import read_bounded

FILE_LIMIT_BYTES = 64 << 20
CERTIFICATE_LIMIT_BYTES = 1 << 16


def read_bytes(path: Path, error: type[HomeroomError] = InputError) -> bytes:
    """A whole file; `error` if it cannot be read, or is larger than FILE_LIMIT_BYTES."""
    try:
        data = read_bounded(path, FILE_LIMIT_BYTES)
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", where=str(path)) from None
    if len(data) > FILE_LIMIT_BYTES:
        raise error(f"is larger than {FILE_LIMIT_BYTES >> 20} MB", where=str(path))
    return data


def read_certificate(path: Path, error: type[HomeroomError] = InputError) -> Certificate:
    """A certificate as JSON; `error` if it is none."""
    data = read_bytes(path, error)
    return decode(data, Certificate, limit_bytes=CERTIFICATE_LIMIT_BYTES, where=str(path), error=error)
