"""`bundle pull`: a bundle from its source to a file here, verified before it is put in place, whole or not at all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from homeroom.contract.manifest import Manifest
from homeroom.contract.signing import fingerprint
from homeroom.data.decoder import client as decoder
from homeroom.errors import BundleError, InputError
from homeroom.federation.network.download import Tell
from homeroom.pull.address import AddressSource
from homeroom.pull.hub import SCHEME, HubSource, endpoint_of, hub_headers, read_address
from homeroom.pull.local import LocalSource
from homeroom.pull.offer import Card, Offer, Source, Unfinished, check_hash, second_name
from homeroom.pull.web import web_client
from homeroom.runtime.bundle import UNPACK_LIMIT_S, Bundle, install
from homeroom.runtime.unpack import BUNDLE_SUFFIX, SECOND_SUFFIX, unpack_zip
from homeroom.system.files import check_folder_of, make_directory, refusal, replace_durable

PUBLIC_FILE_MODE = 0o644  # a bundle is handed out


@dataclass(frozen=True)
class PulledFile:
    """A file that is in place. `compared_with`: what published its hash, "" where nothing did; `was_here`: the same."""

    path: Path
    bytes: int
    sha256: str
    compared_with: str
    was_here: bool


@dataclass(frozen=True)
class Pulled:
    """A bundle that was pulled. revision, card: of a hub. second: its second file, where that was asked for."""

    source: str
    revision: str
    bundle_id: str
    root: str
    signed_by: str
    manifest: Manifest
    file: PulledFile
    second: PulledFile | None
    card: Card | None


def pull(
    source: str,
    out: Path,
    *,
    root: str | None = None,
    sha256: str = "",
    endpoint: str | None = None,
    float32: bool = False,
    tell: Tell = lambda _: None,
) -> Pulled:
    """Fetches a bundle and puts it in place once its hash, its signature and every file of it are right.

    Raises InputError, BundleError, TrustError, NetworkError, DiskFullError, StoreError; then nothing is in place, and
    what came of a download that was cut is kept beside for the next time.

    source: a file, a folder, an http or https address, or `hf:OWNER/NAME[@REVISION][/FILE]`.
    out: a folder that is there, for a file of the source's name, or the file to write.
    root: fingerprint of the root key that must vouch for it; None takes the one that it names.
    sha256: that the file must have, in hexadecimal; "" for the one that its source publishes.
    endpoint: of the hub; None for that of the environment.
    float32: whether its second file is pulled too, beside it.
    tell: is called with the bytes of a file that are here.
    """
    folder, name = (out, "") if out.is_dir() else (out.absolute().parent, out.name)
    check_folder_of(folder / (name or "bundle"))
    if name and (not name.endswith(BUNDLE_SUFFIX) or name.endswith(SECOND_SUFFIX)):
        raise InputError(f"a bundle's file is called *{BUNDLE_SUFFIX}", where=str(out), remedy="name it so")
    order, unfinished = _Order(folder, name, root, sha256.lower(), float32, tell), Unfinished()
    with _opened(source, root, endpoint) as opened:
        try:
            return _pull(opened, source, order, unfinished)
        except OSError as problem:
            raise refusal(problem, folder) from None
        finally:
            unfinished.remove()


@dataclass(frozen=True)
class _Order:
    """What is asked for; name: of the file to write, "" for that of the source. The rest as of `pull`."""

    folder: Path
    name: str
    root: str | None
    sha256: str
    float32: bool
    tell: Tell

    def target(self, offer: Offer) -> Path | None:
        """Where a file goes; None as long as only its manifest names it."""
        name = self.name or offer.name
        return self.folder / name if name else None


def _pull(opened: Source, source: str, order: _Order, unfinished: Unfinished) -> Pulled:
    offer = _expecting(opened.main(), order.sha256)
    if offer.name.endswith(SECOND_SUFFIX):
        remedy = f"pull *{BUNDLE_SUFFIX} beside it, with --float32 for both"
        raise InputError("is the second file of a bundle, and nothing alone", where=offer.place, remedy=remedy)
    part, sha256 = _received(opened, offer, order, unfinished)
    with tempfile.TemporaryDirectory() as scratch, _said_of(offer, part):
        bundle = install(part, Path(scratch), root=order.root)
        target = order.target(offer) or order.folder / f"{bundle.manifest.name}{BUNDLE_SUFFIX}"
        coming = [(part, target, offer, sha256)]
        if order.float32:
            part, offer, sha256 = _second(opened, bundle, Path(scratch), order, unfinished)
            coming.append((part, target.with_name(second_name(target.name)), offer, sha256))
    are_here = [_is_here(there, hashed) for _, there, _, hashed in coming]
    files = [_place(*each, here) for each, here in zip(coming, are_here, strict=True)]
    return Pulled(
        source=source,
        revision=opened.revision,
        bundle_id=bundle.bundle_id,
        root=fingerprint(bundle.certificate.root),
        signed_by=bundle.certificate.name,
        manifest=bundle.manifest,
        file=files[0],
        second=files[1] if order.float32 else None,
        card=opened.card,
    )


def _received(opened: Source, offer: Offer, order: _Order, unfinished: Unfinished) -> tuple[Path, str]:
    """The offered file and its SHA-256; nothing is fetched where one with the published hash is in place."""
    target = order.target(offer)
    if target is not None and offer.sha256 and _is_here(target, offer.sha256):
        return target, offer.sha256
    part = opened.receive(offer, order.folder, order.tell)
    unfinished.paths.append(part)
    return part, check_hash(part, offer)


@contextmanager
def _said_of(offer: Offer, part: Path) -> Iterator[None]:
    """Errors of the unfinished file are said of the place that it came from."""
    try:
        yield
    except BundleError as problem:
        if problem.where != str(part):
            raise
        raise BundleError(problem.what, code=problem.code, where=offer.place, remedy=problem.remedy) from None


@contextmanager
def _opened(source: str, root: str | None, endpoint: str | None) -> Iterator[Source]:
    """The source that a text names; InputError where it names none, or with an endpoint that is none of a hub."""
    is_hub = source.startswith(SCHEME)
    if endpoint is not None and not is_hub:
        raise InputError(f"--endpoint says nothing without {SCHEME}…", where="options", remedy="leave it out")
    if is_hub:
        address, at = read_address(source), endpoint_of(endpoint)
        with web_client(hub_headers(at)) as client:
            yield HubSource(address, at, client)
    elif re.match(r"https?://", source, re.IGNORECASE):
        with web_client() as client:
            yield AddressSource(source, client)
    elif scheme := re.match(r"([a-z][a-z0-9+.-]+)://", source, re.IGNORECASE):
        remedy = "give a file, a folder, an http address, or hf:OWNER/NAME"
        raise InputError(f"{scheme[1]} is no way to pull a bundle", where=source, remedy=remedy)
    else:
        yield LocalSource(Path(source), root)


def _expecting(offer: Offer, sha256: str) -> Offer:
    """The offer with the hash that the person gave, if any; BundleError where its source publishes another."""
    if not sha256:
        return offer
    if offer.sha256 and offer.sha256 != sha256:
        what = f"{offer.publisher} says {offer.sha256}, but {sha256} was given"
        raise BundleError(what, where=offer.place, remedy="ask whoever gave you the hash")
    return Offer(offer.place, offer.name, sha256, "--sha256", offer.git_blob)


def _second(
    opened: Source, bundle: Bundle, scratch: Path, order: _Order, unfinished: Unfinished
) -> tuple[Path, Offer, str]:
    """The second file, fetched and compared with the manifest; errors as of `pull`."""
    if not bundle.manifest.fallback_files:
        what = "the bundle has no second file"
        raise InputError(what, where=bundle.manifest.name, remedy="leave out --float32")
    offer = opened.second()
    part = opened.receive(offer, order.folder, order.tell)
    unfinished.paths.append(part)
    sha256, into = check_hash(part, offer), scratch / "second"
    make_directory(into)
    with _said_of(offer, part):
        files = dict(bundle.manifest.fallback_files)
        decoder.run(unpack_zip, part, into, files, limit_s=UNPACK_LIMIT_S, error=BundleError)
    return part, offer, sha256


def _is_here(target: Path, sha256: str) -> bool:
    """Whether the same file is in place; InputError where another is."""
    if not target.exists():
        return False
    if target.is_file() and check_hash(target, Offer(str(target), "")) == sha256:
        return True
    remedy = "remove it, or name another file after the source"
    raise InputError("is there already, and is another; nothing was changed", where=str(target), remedy=remedy)


def _place(part: Path, target: Path, offer: Offer, sha256: str, was_here: bool) -> PulledFile:
    if not was_here:
        part.chmod(PUBLIC_FILE_MODE)
        replace_durable(part, target)
    compared = offer.publisher if offer.sha256 or offer.git_blob else ""
    return PulledFile(target, target.stat().st_size, sha256, compared, was_here)
