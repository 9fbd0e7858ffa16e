"""Segments that schools own, where rounds merge them by school: their values by version.

A version in `versions` holds the bundle's values in their place. A device's download is assembled for its school and
signed when it is requested: the same bytes each time, without another school's values.
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

OWNED_TABLE = """CREATE TABLE IF NOT EXISTS owned (
    school TEXT NOT NULL, version INTEGER NOT NULL, devices TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (school, version))"""


@dataclass(frozen=True)
class OwnedSegments:
    """A school's own segments, float32 [size] by name, as of `version`.

    devices: by segment that this version moved, the number of devices in it.
    """

    version: int
    devices: dict[str, int]
    segments: dict[str, np.ndarray]


@dataclass(frozen=True)
class VersionSigner:
    """The key that signs versions, with its certificate, and their bundle."""

    key: Ed25519PrivateKey
    certificate: Certificate
    bundle_id: str
    layout: Layout


def put(database: Database, version: int, school: str, devices: Mapping[str, int], own: dict[str, np.ndarray]) -> None:
    """Stores all of a school's own segments as a release left them; see `OwnedSegments`."""
    row = (school, version, msgspec.json.encode(devices).decode(), safetensors.numpy.save(own))
    database.write("INSERT INTO owned (school, version, devices, body) VALUES (?, ?, ?, ?)", row)


def at(database: Database, version: int, school: str) -> OwnedSegments | None:
    """A school's own segments at a version; None where none was released so far."""
    sql = """SELECT version, devices, body FROM owned WHERE school = ? AND version <= ?
             ORDER BY version DESC LIMIT 1"""
    row = database.one(sql, (school, version))
    if row is None:
        return None
    return OwnedSegments(row[0], msgspec.json.decode(row[1], type=dict[str, int]), dict(safetensors.numpy.load(row[2])))


def assemble_version(signer: VersionSigner, shared: bytes, owned: OwnedSegments) -> bytes:
    """A version's file for one school's devices: the shared file with the school's own segments in place."""
    root = fingerprint(signer.certificate.root)
    header, theta = read_version(shared, signer.layout, bundle_id=signer.bundle_id, root_fingerprint=root)
    devices = header.devices | (owned.devices if owned.version == header.version else {})
    theta = signer.layout.join(owned.segments, theta)
    void = header.void or ()
    return make_version(signer.key, signer.certificate, signer.bundle_id, header.version, theta, devices, void=void)


def prune(database: Database, version: int, most: int) -> None:
    """Deletes at most `most` of the rows that no version from `version` on needs."""
    sql = """DELETE FROM owned WHERE rowid IN (SELECT rowid FROM owned AS old WHERE version < ?1 AND EXISTS
             (SELECT 1 FROM owned AS new WHERE new.school = old.school AND new.version > old.version
              AND new.version <= ?1) LIMIT ?2)"""
    database.write(sql, (version, most))
