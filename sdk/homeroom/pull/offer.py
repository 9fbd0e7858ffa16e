"""A bundle's file as its source offers it, and the check that what came is what was published."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from homeroom.contract.canonical_json import digest_file
from homeroom.errors import BundleError, InputError
from homeroom.federation.network.download import Tell
from homeroom.runtime.unpack import BUNDLE_SUFFIX, GET_AGAIN, SECOND_SUFFIX

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
SHA256 = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{64}(?![0-9A-Za-z])")
HASH_FILE_SUFFIX = ".sha256"
HASH_FILE_LIMIT_BYTES = 1 << 16


@dataclass(frozen=True)
class Offer:
    """One file of a source.

    place: its path or address.
    name: of the file; "" where the address has none that a file could have here.
    sha256: that was published for it; "" where none was.
    publisher: what published the hash, for people.
    git_blob: SHA-1 by which git names the file's content, where the source has only that; "" otherwise.
    """

    place: str
    name: str
    sha256: str = ""
    publisher: str = ""
    git_blob: str = ""


@dataclass(frozen=True)
class Card:
    """What a hub says of a bundle beside it. Its author wrote it; nothing of it is verified."""

    address: str
    licence: str = ""
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class Source(Protocol):
    """Where a bundle comes from."""

    revision: str  # the commit that a hub's branch or tag was at; "" elsewhere
    card: Card | None

    def main(self) -> Offer:
        """The bundle's file."""
        ...

    def second(self) -> Offer:
        """The bundle's second file, beside it; InputError or NetworkError where there is none."""
        ...

    def receive(self, offer: Offer, folder: Path, tell: Tell) -> Path:
        """Writes an offered file into a folder, under a name of its own, and returns its path."""
        ...


@dataclass
class Unfinished:
    """Files that are not in place yet. A finished or refused one is removed, one that was cut is kept."""

    paths: list[Path] = field(default_factory=list)

    def remove(self) -> None:
        """Removes them."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def file_name(text: str) -> str:
    """The name of a bundle's file, or "" where it could be none here: a separator, a blank, a sign, another ending."""
    return text if FILE_NAME.fullmatch(text) and text.endswith(BUNDLE_SUFFIX) else ""


def second_name(name: str) -> str:
    """The name of a bundle's second file."""
    return name.removesuffix(BUNDLE_SUFFIX) + SECOND_SUFFIX


def read_hash(text: str, name: str, where: str) -> str:
    """The SHA-256 of a file named `name` in a file as `sha256sum` writes it; InputError where it has none or several.

    where: the file of hashes, for the error.
    """
    lines = [line for line in text.splitlines() if SHA256.search(line)]
    named = [line for line in lines if re.search(rf"(^|[\s*(/\\]){re.escape(name)}($|[\s)])", line)]
    hashes = {match[0].lower() for line in named or lines for match in SHA256.finditer(line)}
    if len(hashes) != 1:
        what = f"does not say one SHA-256 for {name}, so the file cannot be compared with it"
        raise InputError(what, where=where, remedy="give the hash that you trust: --sha256")
    return hashes.pop()


def check_hash(path: Path, offer: Offer) -> str:
    """The SHA-256 of a file that came; BundleError where another was published for it."""
    sha256 = digest_file(path)
    if offer.sha256 and sha256 != offer.sha256:
        what = f"its SHA-256 is {sha256}, but {offer.publisher} says {offer.sha256}"
        raise BundleError(what, where=offer.place, remedy=GET_AGAIN)
    if offer.git_blob and git_blob(path) != offer.git_blob:
        what = f"is not the file that {offer.publisher} names by {offer.git_blob}"
        raise BundleError(what, where=offer.place, remedy=GET_AGAIN)
    return sha256


def git_blob(path: Path) -> str:
    """The SHA-1 by which git names a file's content."""
    hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()
