"""A personal profile in a file for another device of the same institution, sealed with a passphrase.

    8 bytes    HRPROFL1
    4 bytes    length of the header, little-endian, at most 64 KiB
    header     JSON: format, root (fingerprint), institution, scrypt's salt and cost
    12 bytes   nonce
    rest       ChaCha20-Poly1305 (RFC 8439) of the profile as MessagePack, the header as associated data

The key is scrypt (RFC 7914) of the passphrase. The profile names its owner and, since forgetting must reach it there
too, whoever entered it; both are sealed.
"""

from __future__ import annotations

import secrets
import struct
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from homeroom.contract.canonical_json import decode
from homeroom.contract.manifest import THETA_LIMIT, Hash
from homeroom.errors import InputError, TrustError
from homeroom.federation.policy import policy_in_force
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.system.files import check_folder_of, read_bounded, write_durable

PROFILE_MAGIC = b"HRPROFL1"
PROFILE_FORMAT = 1
PROFILE_HEADER_LIMIT_BYTES = 64 << 10
PROFILE_LIMIT_BYTES = 5 * THETA_LIMIT
SCRYPT_LOG2_COST = 15  # log2 of scrypt's N; with r = 8 it takes 32 MiB
NONCE_BYTES = 12
LEAST_PASSPHRASE_CHARACTERS = 12


class ProfileHeader(msgspec.Struct, frozen=True, kw_only=True):
    """`cost` is bounded, so that a file cannot ask for the device's whole memory."""

    format: int = PROFILE_FORMAT
    root: Hash
    institution: str = ""
    salt: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    cost: Annotated[int, msgspec.Meta(ge=14, le=17)] = SCRYPT_LOG2_COST


class ProfileContent(msgspec.Struct, frozen=True, kw_only=True):
    """`segments`: float32, little-endian, by segment_id."""

    subject: str
    facts: dict[str, msgspec.Raw]
    segments: dict[str, bytes]
    subjects: tuple[str, ...]


def pack_profile(store: Store, subject: str, path: Path, passphrase: str, root: str) -> None:
    """Writes a person's profile to a new file, sealed with a passphrase.

    Raises InputError if there is no profile, the passphrase is short, the file exists, or its
    folder does not.

    store: of this device.
    subject: the person.
    path: of the new file.
    passphrase: at least LEAST_PASSPHRASE_CHARACTERS long.
    root: fingerprint of the trusted root key.
    """
    stored = store.profile(subject)
    if stored is None:
        raise InputError(f"there is no profile of {subject!r}", remedy="train one first")
    if len(passphrase) < LEAST_PASSPHRASE_CHARACTERS:
        raise InputError(
            f"the passphrase needs {LEAST_PASSPHRASE_CHARACTERS} characters", remedy="four or five words, say"
        )
    check_folder_of(path)
    if path.exists():
        raise InputError("is there already", where=str(path), remedy="choose another name")
    policy = policy_in_force(store)
    header = ProfileHeader(root=root, institution=policy.institution if policy else "", salt=secrets.token_hex(16))
    content = ProfileContent(
        subject=subject,
        facts={name: msgspec.Raw(msgspec.msgpack.encode(value)) for name, value in stored.facts.items()},
        segments={name: values.astype("<f4").tobytes() for name, values in stored.segments.items()},
        subjects=stored.subjects,
    )
    header_bytes, nonce = msgspec.json.encode(header), secrets.token_bytes(NONCE_BYTES)
    sealed = _cipher(header, passphrase).encrypt(nonce, msgspec.msgpack.encode(content), header_bytes)
    write_durable(path, PROFILE_MAGIC + struct.pack("<I", len(header_bytes)) + header_bytes + nonce + sealed)


def import_profile(store: Store, bundle: Bundle, path: Path, passphrase: str, root: str) -> str:
    """Stores a profile that another device of this institution packed; returns whose it is.

    Raises TrustError for another institution's, a wrong passphrase or an altered file, InputError for a file that is
    no profile or does not fit the bundle. Nothing is stored then.

    store: of this device.
    bundle: in use.
    path: of the file.
    passphrase: that sealed it.
    root: fingerprint of the trusted root key.
    """
    where = str(path)
    try:
        data = read_bounded(path, PROFILE_LIMIT_BYTES)
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=where) from None
    length = struct.unpack("<I", data[8:12])[0] if len(data) >= 12 else 0
    if (
        data[:8] != PROFILE_MAGIC
        or length > PROFILE_HEADER_LIMIT_BYTES
        or not 12 + length < len(data) <= PROFILE_LIMIT_BYTES
    ):
        raise InputError("is not a profile", where=where)
    header_bytes, rest = data[12 : 12 + length], data[12 + length :]
    header = decode(header_bytes, ProfileHeader, limit_bytes=PROFILE_HEADER_LIMIT_BYTES, where=where, error=InputError)
    if header.format != PROFILE_FORMAT:
        raise InputError("a profile of another format", where=where, remedy="update homeroom")
    policy = policy_in_force(store)
    if header.root != root or header.institution != (policy.institution if policy else ""):
        raise TrustError("comes from another institution", where=where, remedy="profiles move inside one school only")
    try:
        plain = _cipher(header, passphrase).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], header_bytes)
    except (InvalidTag, ValueError):
        raise TrustError("the passphrase is wrong, or the file was altered", where=where) from None
    content = _content(plain, where)
    sizes = {segment.segment_id: segment.size for segment in bundle.manifest.layout}
    segments = {name: np.frombuffer(values, "<f4") for name, values in content.segments.items() if name in sizes}
    if content.segments and not segments:
        raise InputError("fits no segment of this device's bundle", where=where, remedy="install the bundle first")
    if any(len(v) != sizes[n] or not np.isfinite(v).all() for n, v in segments.items()):
        raise InputError("holds segments of another length, or not finite", where=where)
    facts = {name: msgspec.msgpack.decode(value) for name, value in content.facts.items()}
    store.put_profile(content.subject, facts, segments, content.subjects)
    store.back_up()
    return content.subject


def _content(plain: bytes, where: str) -> ProfileContent:
    try:
        return msgspec.msgpack.decode(plain, type=ProfileContent)
    except msgspec.DecodeError as problem:
        raise InputError(f"is not a profile: {problem}", where=where) from None


def _cipher(header: ProfileHeader, passphrase: str) -> ChaCha20Poly1305:
    kdf = Scrypt(salt=bytes.fromhex(header.salt), length=32, n=1 << header.cost, r=8, p=1)
    return ChaCha20Poly1305(kdf.derive(passphrase.encode()))
