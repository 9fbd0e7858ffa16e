"""An invitation: where the aggregator is, whom to trust, and a code that enrols one device once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from homeroom.contract.canonical import decode
from homeroom.contract.manifest import Hash
from homeroom.errors import InputError

FORMAT = 1


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """`address` is the aggregator's base URL; `root` the fingerprint of the institution's root key."""

    format: int = FORMAT
    address: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s/]+$")]
    root: Hash
    code: Annotated[str, msgspec.Meta(min_length=16, max_length=128)]
    institution: str
    bundle_id: Hash


def read_invitation(path: Path) -> Invitation:
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    return decode(data, Invitation, limit_bytes=1 << 16, where=str(path), error=InputError)
