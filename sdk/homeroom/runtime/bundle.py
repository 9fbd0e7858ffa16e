"""Bundles on disk: verified before use, installed once, never rewritten; as a directory or a `.homeroom` zip."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors import SafetensorError

from homeroom.contract.canonical_json import decode, digest, digest_file
from homeroom.contract.layout import Layout
from homeroom.contract.manifest import Hash, Manifest
from homeroom.contract.manifest_checks import MANIFEST_LIMIT_BYTES, read_manifest
from homeroom.contract.signing import Certificate, check_certificate, sign, verify
from homeroom.data.tasks import check_tasks
from homeroom.errors import BundleError, DiskFullError, StoreError
from homeroom.system.files import open_regular, read_bounded, sync_directory

MANIFEST_FILE, SIGNATURE_FILE = "manifest.json", "signature.json"
SIGNATURE_LIMIT_BYTES = 64 << 10
ENTRY_LIMIT = 4096
SIZE_LIMIT_BYTES = 8 << 30
READ_BYTES = 1 << 20
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
    """A verified bundle in a directory."""

    path: Path
    manifest: Manifest
    bundle_id: str
    certificate: Certificate

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists."""
        return self.path / name

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
    raw = _read_limited(path, MANIFEST_FILE, MANIFEST_LIMIT_BYTES)
    manifest, bundle_id = read_manifest(raw), digest(raw)
    check_tasks(manifest)
    signature = decode(
        _read_limited(path, SIGNATURE_FILE, SIGNATURE_LIMIT_BYTES),
        BundleSignature,
        limit_bytes=SIGNATURE_LIMIT_BYTES,
        where=SIGNATURE_FILE,
        error=BundleError,
    )
    check_certificate(signature.certificate, role="exporter", root_fingerprint=root, where=SIGNATURE_FILE)
    verify(signature.certificate.key, "bundle", signature.statement, signature.signature, where=SIGNATURE_FILE)
    if signature.statement != {"bundle_id": bundle_id, "name": manifest.name, "version": manifest.version}:
        raise BundleError("is not the manifest that was signed", where=MANIFEST_FILE, remedy=GET_AGAIN)
    for name, entry in manifest.files.items():
        file = path / name
        try:
            if file.is_symlink() or not file.is_file():
                raise BundleError("is missing", where=name, remedy=GET_AGAIN)
            if file.stat().st_size != entry.bytes or digest_file(file) != entry.sha256:
                raise BundleError("is not the file that was signed: damaged or altered", where=name, remedy=GET_AGAIN)
        except OSError as problem:
            raise BundleError(f"cannot be read: {problem.strerror}", where=name, remedy=GET_AGAIN) from None
    return Bundle(path, manifest, bundle_id, signature.certificate)


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

    An installed bundle is verified and left as it is, whatever else the source holds; a damaged one is replaced.
    root: as of `open_bundle`. Raises BundleError, TrustError, DiskFullError, StoreError.
    """
    if installed := _find_installed(source, into, root):
        return installed
    scratch = into / f".incoming-{uuid.uuid4().hex}"
    try:
        into.mkdir(parents=True, exist_ok=True)
        for stale in into.glob(".incoming-*"):
            shutil.rmtree(stale, ignore_errors=True)
        if source.is_dir():
            _copy_listed(source, scratch)
        elif source.is_file():
            _unzip(source, scratch)
        else:
            raise BundleError("there is no such bundle", where=str(source), remedy="check the path")
        bundle = open_bundle(scratch, root=root)
        target = into / bundle.bundle_id
        if target.exists():
            try:
                return open_bundle(target, root=root)
            except BundleError:
                shutil.rmtree(target)
        _flush_files(scratch)
        scratch.rename(target)
        sync_directory(into)
        return open_bundle(target, root=root)
    except OSError as problem:
        if problem.errno == 28:  # ENOSPC, on every platform
            raise DiskFullError("no space left to install the bundle", where=str(into)) from None
        raise StoreError(f"cannot install: {problem.strerror}", where=str(into)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def zip_bundle(folder: Path, out: Path) -> None:
    """Writes a bundle as one `.homeroom` file: a zip with fixed order and times, so that its bytes are reproducible."""
    partial = out.with_name(f".{out.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    partial.replace(out)


ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,  # of a compression that zipfile lacks
    EOFError,
    RuntimeError,
    ValueError,
)
GET_AGAIN = "get the bundle again from its source"


def _read_limited(folder: Path, name: str, limit_bytes: int) -> bytes:
    path = folder / name
    try:
        data = read_bounded(path, limit_bytes)
    except FileNotFoundError:
        raise BundleError(f"has no {name}: not a bundle, or cut short", where=str(folder), remedy=GET_AGAIN) from None
    except OSError as problem:
        raise BundleError(f"cannot be read: {problem.strerror}", where=name, remedy=GET_AGAIN) from None
    if len(data) > limit_bytes:
        raise BundleError(f"is larger than {limit_bytes:,} bytes", where=name, remedy=GET_AGAIN)
    return data


def read_bundle_id(source: Path) -> str:
    """The bundle_id that a directory or .homeroom zip names, nothing verified; BundleError if there is none."""
    try:
        return digest(_read_signed(source)[0])
    except (KeyError, OSError, *ZIP_ERRORS):
        raise BundleError("is no bundle", where=str(source), remedy="check the path") from None


def _read_signed(source: Path) -> tuple[bytes, bytes]:
    """Manifest and signature of a directory or zip, as they stand."""
    limits = {MANIFEST_FILE: MANIFEST_LIMIT_BYTES, SIGNATURE_FILE: SIGNATURE_LIMIT_BYTES}
    if source.is_dir():
        manifest, signature = (_read_limited(source, name, limit) for name, limit in limits.items())
    else:
        with open_regular(source) as file, zipfile.ZipFile(file) as archive:
            manifest, signature = (archive.open(name).read(limit) for name, limit in limits.items())
    return manifest, signature


def _find_installed(source: Path, into: Path, root: str | None) -> Bundle | None:
    """Finds the installed, undamaged bundle with the manifest and signature of the source; raises TrustError."""
    try:
        manifest, signature = _read_signed(source)
        target = into / digest(manifest)
        same = signature == _read_limited(target, SIGNATURE_FILE, SIGNATURE_LIMIT_BYTES)
        return open_bundle(target, root=root) if same else None
    except (BundleError, KeyError, OSError, *ZIP_ERRORS):
        return None  # a fault of the source is raised when it is copied


def _copy_listed(source: Path, into: Path) -> None:
    """Copies only the files that the manifest lists."""
    manifest = read_manifest(_read_limited(source, MANIFEST_FILE, MANIFEST_LIMIT_BYTES))
    for name in (MANIFEST_FILE, SIGNATURE_FILE, *manifest.files):
        file, target = source / name, into / name
        if not file.is_file():
            raise BundleError("is missing", where=name, remedy=GET_AGAIN)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _unzip(source: Path, into: Path) -> None:
    try:
        with open_regular(source) as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_entries(entries, source)
            names = {entry.filename: entry for entry in entries}
            if MANIFEST_FILE not in names or SIGNATURE_FILE not in names:
                raise BundleError("is a zip, but not of a bundle", where=str(source), remedy=GET_AGAIN)
            _extract(archive, names[MANIFEST_FILE], into, MANIFEST_LIMIT_BYTES)
            manifest = read_manifest(_read_limited(into, MANIFEST_FILE, MANIFEST_LIMIT_BYTES))
            _extract(archive, names[SIGNATURE_FILE], into, SIGNATURE_LIMIT_BYTES)
            for name, listed in manifest.files.items():
                if name not in names:
                    raise BundleError("is missing from the zip", where=name, remedy=GET_AGAIN)
                _extract(archive, names[name], into, listed.bytes)
    except ZIP_ERRORS as problem:
        raise BundleError(f"is not a readable bundle: {problem}", where=str(source), remedy=GET_AGAIN) from None


def _check_entries(entries: list[zipfile.ZipInfo], source: Path) -> None:
    where = str(source)
    if len(entries) > ENTRY_LIMIT or sum(entry.file_size for entry in entries) > SIZE_LIMIT_BYTES:
        raise BundleError("the zip holds more than any bundle does", where=where, remedy="do not use it")
    if len({entry.filename.casefold() for entry in entries}) != len(entries):
        raise BundleError("the zip holds one name twice", where=where, remedy="do not use it")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
            raise BundleError(f"{entry.filename!r} leads outside the bundle", where=where, remedy="do not use it")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleError(f"{entry.filename!r} is a link", where=where, remedy="do not use it")


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, into: Path, limit_bytes: int) -> None:
    """Writes one entry, never more than `limit_bytes` of it, since a zip may lie about its sizes."""
    target = into / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    remaining_bytes = limit_bytes
    with archive.open(entry) as packed, target.open("wb") as file:
        while piece := packed.read(READ_BYTES):
            remaining_bytes -= len(piece)
            if remaining_bytes < 0:
                raise BundleError("is larger than the manifest says", where=entry.filename, remedy="do not use it")
            file.write(piece)


def _flush_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
