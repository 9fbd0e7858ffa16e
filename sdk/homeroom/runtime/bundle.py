"""Bundles on disk: verified before use, installed once, never rewritten; as a directory or a `.homeroom` zip."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors import SafetensorError

from homeroom.contract.canonical_json import decode, digest, digest_file
from homeroom.contract.layout import Layout
from homeroom.contract.manifest import File, Graph, Hash, Manifest
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.signing import Certificate, check_certificate, sign, verify
from homeroom.data.decoder import client as decoder
from homeroom.data.tasks import check_tasks
from homeroom.errors import BundleError, TrustError
from homeroom.runtime.backend import SUFFIXES
from homeroom.runtime.external_data import check_external_data
from homeroom.runtime.unpack import (
    GET_AGAIN,
    MANIFEST_FILE,
    SIGNATURE_FILE,
    SIGNATURE_LIMIT_BYTES,
    SIGNED_LIMITS_BYTES,
    copy_signed,
    not_installed,
    read_signed_zip,
    unpack_zip,
)
from homeroom.system.files import make_directory, make_private, open_below, read_below, sync_directory, write_durable

UNPACK_LIMIT_S = 1800.0  # a memory card writes some megabytes a second
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold; fixed, for equal bytes


class BundleSignature(msgspec.Struct, frozen=True, kw_only=True):
    """The exporter's signature of a manifest; `statement` is signed."""

    bundle_id: Hash
    name: str
    version: int
    certificate: Certificate
    signature: str

    @property
    def statement(self) -> dict[str, str | int]:
        """The fields that the signature covers."""
        return {"bundle_id": self.bundle_id, "name": self.name, "version": self.version}


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in a directory. `fallback`: where files of its second file are, if not there too."""

    path: Path
    manifest: Manifest
    bundle_id: str
    certificate: Certificate
    fallback: Path | None = None

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists."""
        apart = self.fallback / name if self.fallback and name in self.manifest.fallback_files else None
        return apart if apart and apart.is_file() else self.path / name

    @cached_property
    def fallback_graphs(self) -> tuple[Graph, ...]:
        """Those backbones of the second file that are here."""
        return tuple(graph for graph in self.manifest.fallback_graphs if self.file(graph.file).is_file())

    @cached_property
    def layout(self) -> Layout:
        """The manifest's layout with the indices of its tiers; BundleError if the file is not as the manifest says."""
        manifest = self.manifest
        if not manifest.tiers or manifest.tier_index is None:
            return manifest.layout
        try:
            indices = safetensors.numpy.load_file(self.file(manifest.tier_index))
        except (SafetensorError, OSError) as problem:
            raise BundleError(f"holds no tiers: {problem}", where=manifest.tier_index) from None
        within = np.arange(manifest.layout.size, dtype=np.int32)
        for tier in reversed(manifest.tiers):
            index = indices.get(tier.name)
            if index is None or index.dtype != np.int32 or index.shape != (tier.size,) or (np.diff(index) < 1).any():
                raise BundleError(f"tier {tier.name} is not int32 [{tier.size}] and rising", where=manifest.tier_index)
            if not np.isin(index, within).all():
                raise BundleError(f"tier {tier.name} does not lie within the next", where=manifest.tier_index)
            within = index
        return Layout(manifest.segments, tuple((tier.name, indices[tier.name]) for tier in manifest.tiers))

    def theta(self) -> np.ndarray:
        """Reads the initial theta, float32 [P]; BundleError if it is not finite or has another shape."""
        where = self.manifest.theta
        try:
            theta = safetensors.numpy.load_file(self.file(where))["theta"]
        except (SafetensorError, KeyError, OSError) as problem:
            raise BundleError(f"holds no theta: {problem}", where=where) from None
        if theta.dtype != np.float32 or theta.shape != (self.manifest.layout.size,) or not np.isfinite(theta).all():
            raise BundleError(f"theta is not float32 [{self.manifest.layout.size}] and finite", where=where)
        return np.asarray(theta)


def open_bundle(path: Path, *, root: str | None) -> Bundle:
    """Opens a bundle's directory after checking its signature and the hash of every file.

    root: fingerprint of the trusted root key; None trusts the root that the bundle names (the caller pins it then).
    Raises BundleError where it is damaged or of another format, TrustError where it is not signed as it should be.
    """
    manifest, bundle_id, certificate = verify_signed(*_read_signed(path), root=root)
    for graph in manifest.every_graph:  # a runtime chooses its reader by the name
        if not graph.file.endswith(SUFFIXES[graph.runtime]):
            what = f"is a graph of {graph.runtime}, but is not called *{SUFFIXES[graph.runtime]}"
            raise BundleError(what, where=graph.file, remedy="do not use it")
    for name, entry in manifest.every_file.items():
        try:
            with open_below(path, name) as file:
                size_bytes, sha256 = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            if name in manifest.fallback_files:
                continue
            raise BundleError("is missing", where=name, remedy=GET_AGAIN) from None
        except OSError as problem:
            raise BundleError(f"cannot be read: {problem.strerror}", where=name, remedy=GET_AGAIN) from None
        if (size_bytes, sha256) != (entry.bytes, entry.sha256):
            raise BundleError("is not the file that was signed: damaged or altered", where=name, remedy=GET_AGAIN)
        if name.endswith(SUFFIXES["onnx"]):
            check_external_data(path / name, name, manifest.every_file)
    return Bundle(path, manifest, bundle_id, certificate)


def verify_signed(raw: bytes, signature_file: bytes, *, root: str | None) -> tuple[Manifest, str, Certificate]:
    """Checks a manifest against its signature; returns it, its bundle_id and who signed. Raises as `open_bundle`."""
    manifest, bundle_id = read_manifest(raw), digest(raw)
    check_tasks(manifest)
    signature = decode(
        signature_file, BundleSignature, limit_bytes=SIGNATURE_LIMIT_BYTES, where=SIGNATURE_FILE, error=BundleError
    )
    check_certificate(signature.certificate, role="exporter", root_fingerprint=root, where=SIGNATURE_FILE)
    verify(signature.certificate.key, "bundle", signature.statement, signature.signature, where=SIGNATURE_FILE)
    if signature.statement != {"bundle_id": bundle_id, "name": manifest.name, "version": manifest.version}:
        raise BundleError("is not the manifest that was signed", where=MANIFEST_FILE, remedy=GET_AGAIN)
    return manifest, bundle_id, signature.certificate


def write_signature(path: Path, manifest: Manifest, certificate: Certificate, key: Ed25519PrivateKey) -> str:
    """Signs the manifest in the directory `path` with the exporter's key; returns the bundle_id."""
    unsigned = BundleSignature(
        bundle_id=digest_file(path / MANIFEST_FILE),
        name=manifest.name,
        version=manifest.version,
        certificate=certificate,
        signature="",
    )
    signed = msgspec.structs.replace(unsigned, signature=sign(key, "bundle", unsigned.statement))
    (path / SIGNATURE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n")
    return unsigned.bundle_id


def install(source: Path, into: Path, *, root: str | None) -> Bundle:
    """Copies a bundle (a directory or a .homeroom zip) to `into`/<bundle_id>, verified, whole or not at all.

    The signature is checked before any file is written, each file while it is; a zip is read in the decoder. An
    installed bundle is verified and left as it is, whatever else the source holds; a damaged one is replaced.
    root: as of `open_bundle`. Raises BundleError, TrustError, DiskFullError, StoreError.
    """
    if not source.is_dir() and not source.is_file():
        raise BundleError("there is no such bundle", where=str(source), remedy="check the path")
    raw, signature = _read_signed(source)
    manifest, bundle_id, _ = verify_signed(raw, signature, root=root)
    target, scratch = into / bundle_id, into / f".incoming-{uuid.uuid4().hex}"
    with contextlib.suppress(BundleError, TrustError):
        if target.is_dir() and _read_signed(target) == (raw, signature):
            return open_bundle(target, root=root)
    try:
        make_directory(scratch)
        for stale in into.glob(".incoming-*"):
            if stale != scratch:
                shutil.rmtree(stale, ignore_errors=True)
        if source.is_dir():
            copy_signed_files(source, scratch, manifest.files)
        else:
            decoder.run(unpack_zip, source, scratch, dict(manifest.files), limit_s=UNPACK_LIMIT_S, error=BundleError)
        write_durable(scratch / MANIFEST_FILE, raw)
        write_durable(scratch / SIGNATURE_FILE, signature)
        bundle = open_bundle(scratch, root=root)
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        sync_directory(into)
        return replace(bundle, path=target)
    except OSError as problem:
        raise not_installed(problem, into) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def copy_signed_files(source: Path, into: Path, files: Mapping[str, File]) -> None:
    """Writes the signed files of a folder into another, as `copy_signed`; BundleError where one is missing."""
    for name, signed in files.items():
        try:
            file = open_below(source, name)
        except FileNotFoundError:
            raise BundleError("is missing", where=name, remedy=GET_AGAIN) from None
        except OSError as problem:
            raise BundleError(f"cannot be read: {problem.strerror}", where=name, remedy=GET_AGAIN) from None
        with file:
            copy_signed(file, into, name, signed)


def zip_bundle(folder: Path, out: Path, *, leave_out: Collection[str] = (), private: bool = False) -> None:
    """Writes a bundle as one `.homeroom` file: a zip with fixed order and times, so that its bytes are reproducible.

    leave_out: files by name. private: for this user alone.
    """
    partial = out.with_name(f".{out.name}.partial")
    if private:
        make_private(partial)
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                name = path.relative_to(folder).as_posix()
                if name in leave_out:
                    continue
                entry = zipfile.ZipInfo(name, ZIP_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())
        partial.replace(out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_bundle_id(source: Path) -> str:
    """The bundle_id that a directory or .homeroom zip names, nothing verified; BundleError if there is none."""
    return digest(_read_signed(source)[0])


def _read_signed(source: Path) -> tuple[bytes, bytes]:
    """Manifest and signature of a directory or zip, as they stand."""
    if not source.is_dir():
        return decoder.run(read_signed_zip, source, where=str(source), error=BundleError)
    manifest, signature = (_read_limited(source, name, limit) for name, limit in SIGNED_LIMITS_BYTES.items())
    return manifest, signature


def _read_limited(folder: Path, name: str, limit_bytes: int) -> bytes:
    try:
        data = read_below(folder, name, limit_bytes)
    except FileNotFoundError:
        raise BundleError(f"has no {name}: not a bundle, or cut short", where=str(folder), remedy=GET_AGAIN) from None
    except OSError as problem:
        raise BundleError(f"cannot be read: {problem.strerror}", where=name, remedy=GET_AGAIN) from None
    if len(data) > limit_bytes:
        raise BundleError(f"is larger than {limit_bytes:,} bytes", where=name, remedy=GET_AGAIN)
    return data
