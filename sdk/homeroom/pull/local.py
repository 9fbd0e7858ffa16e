"""A bundle on this machine: its file, a folder that holds it, or an unpacked bundle, which becomes a file again."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from homeroom.errors import BundleError, InputError
from homeroom.federation.network.download import SPARE_BYTES, Tell
from homeroom.pull.offer import HASH_FILE_LIMIT_BYTES, HASH_FILE_SUFFIX, Card, Offer, file_name, read_hash
from homeroom.runtime.bundle import Bundle, open_bundle, zip_bundle
from homeroom.runtime.fallback import second_file, zip_second
from homeroom.runtime.unpack import BUNDLE_SUFFIX, MANIFEST_FILE, SECOND_SUFFIX, SIGNATURE_FILE, SIZE_LIMIT_BYTES
from homeroom.system.files import open_private, open_regular, read_bounded, refusal

COPY_BYTES = 1 << 20


class LocalSource:
    """A bundle's file, or a folder with one or unpacked to one."""

    revision = ""
    card: Card | None = None

    def __init__(self, path: Path, root: str | None) -> None:
        """InputError where there is none, or more than one. root: of `open_bundle`, for an unpacked one."""
        self.opened: Bundle | None = None
        if path.is_dir() and (path / MANIFEST_FILE).is_file():
            self.opened = open_bundle(path, root=root)
        self.path = _only_bundle(path) if path.is_dir() and self.opened is None else path
        if not self.path.exists():
            remedy = "give a file, a folder, an http address, or hf:OWNER/NAME"
            raise InputError("there is no such bundle", where=str(path), remedy=remedy)

    def main(self) -> Offer:
        """The bundle's file."""
        if self.opened is not None:
            return Offer(str(self.path), f"{self.opened.manifest.name}{BUNDLE_SUFFIX}")
        return _offer(self.path)

    def second(self) -> Offer:
        """Its second file; InputError where it does not lie beside it, or in an unpacked bundle."""
        if self.opened is not None and len(self.opened.fallback_graphs):
            return Offer(str(self.path), f"{self.opened.manifest.name}{SECOND_SUFFIX}")
        path = second_file(self.path)
        if not path.is_file():
            raise InputError("there is no second file", where=str(path), remedy="leave out --float32, or put it there")
        return _offer(path)

    def receive(self, offer: Offer, folder: Path, tell: Tell) -> Path:
        """Copies the file, or packs the folder."""
        target = folder / f".homeroom-{secrets.token_hex(8)}.part"
        try:
            if self.opened is None or offer.place != str(self.path):
                _copy(Path(offer.place), target, tell)
            elif offer.name.endswith(SECOND_SUFFIX):
                zip_second(self.opened, target)
            else:
                files = {path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()}
                wanted = {*self.opened.manifest.files, MANIFEST_FILE, SIGNATURE_FILE}
                zip_bundle(self.path, target, leave_out=files - wanted)
        except OSError as problem:
            target.unlink(missing_ok=True)
            raise refusal(problem, folder) from None
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target


def _only_bundle(folder: Path) -> Path:
    names = sorted(path for path in folder.glob(f"*{BUNDLE_SUFFIX}") if not path.name.endswith(SECOND_SUFFIX))
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError(f"holds no bundle: neither {MANIFEST_FILE} nor *{BUNDLE_SUFFIX}", where=str(folder))
    listed = ", ".join(path.name for path in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise InputError(f"holds {len(names)} bundles: {listed}", where=str(folder), remedy="name the file")


def _offer(path: Path) -> Offer:
    beside = path.with_name(path.name + HASH_FILE_SUFFIX)
    if not beside.is_file():
        return Offer(str(path), file_name(path.name))
    try:
        text = read_bounded(beside, HASH_FILE_LIMIT_BYTES).decode(errors="replace")
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(beside)) from None
    return Offer(str(path), file_name(path.name), read_hash(text, path.name, str(beside)), beside.name)


def _copy(source: Path, target: Path, tell: Tell) -> None:
    """Copies a regular file, of at most SIZE_LIMIT_BYTES; InputError, BundleError, OSError of the target."""
    try:
        file = open_regular(source)
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(source)) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > SIZE_LIMIT_BYTES:
            raise BundleError(f"is larger than {SIZE_LIMIT_BYTES:,} bytes", where=str(source))
        if shutil.disk_usage(target.parent).free < size + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with open_private(target, exclusive=True) as copy:
            left = size
            while left and (piece := file.read(min(COPY_BYTES, left))):
                copy.write(piece)
                left -= len(piece)
                tell(size - left)
            copy.flush()
            os.fsync(copy.fileno())
