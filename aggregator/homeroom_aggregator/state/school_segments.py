"""The segments that schools own, where rounds merge them by school: the values by version; imports the contracts
and the store's database.

A version in `versions` holds the bundle's values in their place. What a device gets is put together for its school and
signed when it is asked for: the same bytes each time, and another school's values are in nobody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.layout import Layout
from homeroom.contract.signing import Certificate, fingerprint
from homeroom.contract.version import make_version, read_version
from homeroom.system.sqlite import Database

TABLE = """CREATE TABLE IF NOT EXISTS owned (
    school TEXT NOT NULL, version INTEGER NOT NULL, devices TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (school, version))"""


@dataclass(frozen=True)
class Owned:
    """A school's own segments, float32 [size] by name, as of `version`, which moved those in `devices`, by how many."""

    version: int
    devices: dict[str, int]
    segments: dict[str, np.ndarray]


@dataclass(frozen=True)
class Signer:
    """Who signs versions, of which bundle."""

    key: Ed25519PrivateKey
    certificate: Certificate
    bundle_id: str
    layout: Layout


def put(database: Database, version: int, school: str, devices: Mapping[str, int], own: dict[str, np.ndarray]) -> None:
    """Keep all of a school's own segments as a release left them."""
    row = (school, version, msgspec.json.encode(devices).decode(), safetensors.numpy.save(own))
    database.write("INSERT INTO owned (school, version, devices, body) VALUES (?, ?, ?, ?)", row)


def at(database: Database, version: int, school: str) -> Owned | None:
    """What a school owns at a version; None where nothing of it was released so far."""
    sql = """SELECT version, devices, body FROM owned WHERE school = ? AND version <= ?
             ORDER BY version DESC LIMIT 1"""
    found = database.one(sql, (school, version))
    if found is None:
        return None
    return Owned(found[0], msgspec.json.decode(found[1], type=dict[str, int]), dict(safetensors.numpy.load(found[2])))


def assembled(signer: Signer, shared: bytes, owned: Owned) -> bytes:
    """A version as one school's devices get it: the shared one's file, with the school's own segments in place."""
    root = fingerprint(signer.certificate.root)
    header, theta = read_version(shared, signer.layout, bundle_id=signer.bundle_id, root_fingerprint=root)
    devices = header.devices | (owned.devices if owned.version == header.version else {})
    whole = signer.layout.join(owned.segments, theta)
    return make_version(signer.key, signer.certificate, signer.bundle_id, header.version, whole, devices)


def prune(database: Database, version: int, most: int) -> None:
    """Delete at most so many of the rows that no version from `version` on needs."""
    sql = """DELETE FROM owned WHERE rowid IN (SELECT rowid FROM owned AS old WHERE version < ?1 AND EXISTS
             (SELECT 1 FROM owned AS new WHERE new.school = old.school AND new.version > old.version
              AND new.version <= ?1) LIMIT ?2)"""
    database.write(sql, (version, most))
