"""A bundle on a Hugging Face Hub, or on a server with its conventions: `hf:OWNER/NAME[@REVISION][/FILE]`.

Names, address and token are those of `huggingface_hub`. Its answers are read here: that library bounds neither an
answer nor a file, and knows other proxies' and authorities' variables than the rest of Homeroom.

Source: https://huggingface.co/docs/hub/api, /api/models/{repo}/revision/{revision}?blobs=true and /{repo}/resolve/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import msgspec

from homeroom.contract.address import in_clear, is_address
from homeroom.errors import InputError, NetworkError
from homeroom.federation.network.download import Tell
from homeroom.federation.network.transport import Response
from homeroom.pull.offer import Card, Offer, file_name, second_name
from homeroom.pull.web import WebClient, refuse_status
from homeroom.runtime.unpack import BUNDLE_SUFFIX, SECOND_SUFFIX

SCHEME = "hf:"
MAIN = "main"  # the revision that a hub has unless another is named
LISTING_LIMIT_BYTES = 8 << 20
ADDRESS = re.compile(
    r"hf:(//)?(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)"
    r"(@(?P<revision>refs/[\w.-]+/[\w.-]+|[\w][\w.-]*))?(/(?P<file>[\w./-]+\.homeroom))?",
    re.ASCII,
)
USAGE = f"{SCHEME}OWNER/NAME, {SCHEME}OWNER/NAME@REVISION, or either with /FILE{BUNDLE_SUFFIX} after it"
TOKEN_REMEDY = "where it is for members only, HF_TOKEN or `hf auth login` says who asks"


@dataclass(frozen=True)
class HubAddress:
    """Repository, revision and file of an address; `file` is "" where the repository has one bundle alone."""

    repository: str
    revision: str
    file: str


class _Lfs(msgspec.Struct):
    sha256: str
    size: int


class _File(msgspec.Struct, rename={"name": "rfilename", "git_blob": "blobId"}):
    name: str
    git_blob: str | None = None
    lfs: _Lfs | None = None


class _Listing(msgspec.Struct, rename={"card": "cardData"}):
    sha: str
    siblings: list[_File]
    tags: list[str] = []
    card: dict[str, Any] | None = None


def read_address(text: str) -> HubAddress:
    """The parts of `hf:…`; InputError where it is none."""
    match = ADDRESS.fullmatch(text)
    if match is None or ".." in text:
        raise InputError("is no address on a hub", where=text, remedy=USAGE)
    return HubAddress(match["repository"], match["revision"] or MAIN, match["file"] or "")


def endpoint_of(given: str | None) -> str:
    """The hub's address: the given one, else HF_ENDPOINT, else huggingface.co. InputError where it is none."""
    from huggingface_hub import constants

    endpoint = (given or str(constants.ENDPOINT)).rstrip("/")
    if not is_address(endpoint):
        raise InputError("is no address of a hub", where=endpoint, remedy="such as https://huggingface.co")
    if constants.HF_HUB_OFFLINE:
        raise NetworkError(
            "HF_HUB_OFFLINE is set, so no hub is asked", where=endpoint, remedy="unset it, or pull a file"
        )
    return endpoint


def hub_headers(endpoint: str) -> dict[str, str]:
    """The Authorization of whoever is logged in to the hub; none where others on the network could read it."""
    from huggingface_hub import get_token

    token = None if in_clear(endpoint) else get_token()
    return {"authorization": f"Bearer {token}"} if token else {}


class HubSource:
    """A bundle's file in a repository, at the commit that its revision is at now."""

    def __init__(self, address: HubAddress, endpoint: str, client: WebClient) -> None:
        """Asks the hub once. NetworkError where it has no such repository, revision or file."""
        self.client, self.page = client, f"{endpoint}/{address.repository}"
        self.where = f"{SCHEME}{address.repository}@{address.revision}"
        self.listing = self._listing(
            f"{endpoint}/api/models/{address.repository}/revision/{quote(address.revision, safe='')}?blobs=true"
        )
        self.revision = self.listing.sha
        self.card = _card(self.listing, f"{self.page}/blob/{self.revision}/README.md")
        self.file = address.file or self._only_bundle()

    def main(self) -> Offer:
        """The bundle's file."""
        return self._offer(self.file)

    def second(self) -> Offer:
        """Its second file; NetworkError where the repository has none."""
        return self._offer(second_name(self.file))

    def receive(self, offer: Offer, folder: Path, tell: Tell) -> Path:
        """Fetches it, resumed where it was cut."""
        return self.client.file(offer.place, offer.sha256, folder, tell)

    def _listing(self, address: str) -> _Listing:
        response = self.client.small(address, LISTING_LIMIT_BYTES)
        if response.status != 200:
            self._refuse(response)
        try:
            listing = msgspec.json.decode(response.body, type=_Listing)
        except msgspec.DecodeError as problem:
            raise NetworkError(f"does not answer as a hub does: {problem}", where=self.where) from None
        if not re.fullmatch(r"[0-9a-f]{40}", listing.sha):
            raise NetworkError("does not answer as a hub does: no commit", where=self.where)
        return listing

    def _refuse(self, response: Response) -> NoReturn:
        """NetworkError in words, by the code that the hub gives beside the status."""
        what = {
            "RepoNotFound": "the hub has no such repository, or shows it to its members only",
            "RevisionNotFound": "the repository has no such branch, tag or commit",
            "GatedRepo": "its authors must let you in first",
        }.get(response.headers.get("x-error-code", ""))
        if what is None and response.status in (401, 403, 404):
            what = "the hub has no such repository, or shows it to its members only"
        if what is None:
            refuse_status(response, self.where)
        raise NetworkError(str(what), where=self.where, remedy=f"see {self.page}; {TOKEN_REMEDY}")

    def _only_bundle(self) -> str:
        names = [file.name for file in self.listing.siblings if file.name.endswith(BUNDLE_SUFFIX)]
        names = [name for name in names if not name.endswith(SECOND_SUFFIX)]
        if len(names) == 1:
            return names[0]
        if not names:
            raise NetworkError(f"holds no bundle: no file is called *{BUNDLE_SUFFIX}", where=self.where)
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise InputError(
            f"holds {len(names)} bundles: {listed}", where=self.where, remedy=f"name one: {self.where}/FILE"
        )

    def _offer(self, name: str) -> Offer:
        file = next((file for file in self.listing.siblings if file.name == name), None)
        if file is None:
            raise NetworkError(f"holds no file {name}", where=self.where, remedy=f"see {self.page}")
        place = f"{self.page}/resolve/{self.revision}/{quote(name)}"
        publisher, kept = "the hub", file_name(name.rpartition("/")[2])
        if file.lfs is None:
            return Offer(place, kept, publisher=publisher, git_blob=file.git_blob or "")
        return Offer(place, kept, file.lfs.sha256.lower(), publisher)


def _card(listing: _Listing, address: str) -> Card | None:
    if not any(file.name == "README.md" for file in listing.siblings):
        return None
    fields = listing.card or {}
    languages = fields.get("language") or ()
    listed = (languages,) if isinstance(languages, str) else tuple(map(str, languages))
    return Card(address, str(fields.get("license") or ""), listed, tuple(listing.tags))
