"""A bundle at an http or https address, with the hash that may lie beside it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from homeroom.errors import InputError
from homeroom.federation.network.download import Tell
from homeroom.pull.offer import (
    HASH_FILE_LIMIT_BYTES,
    HASH_FILE_SUFFIX,
    Card,
    Offer,
    file_name,
    read_hash,
    second_name,
)
from homeroom.pull.web import WebClient, refuse_status, shown
from homeroom.runtime.unpack import BUNDLE_SUFFIX

ABSENT_STATUSES = (403, 404, 410)  # stores say 403 for what is not there


class AddressSource:
    """A bundle's file at an address."""

    revision = ""
    card: Card | None = None

    def __init__(self, address: str, client: WebClient) -> None:
        """Asks nothing yet."""
        self.address, self.client = address, client

    def main(self) -> Offer:
        """The bundle's file, and the hash beside it."""
        return self._offer(self.address)

    def second(self) -> Offer:
        """Its second file, at the address beside it; InputError where the address ends in another way."""
        parts = urlsplit(self.address)
        if not parts.path.endswith(BUNDLE_SUFFIX):
            what = f"does not end in {BUNDLE_SUFFIX}, so nobody knows where the second file is"
            raise InputError(what, where=shown(self.address), remedy="leave out --float32")
        return self._offer(urlunsplit(parts._replace(path=second_name(parts.path))))

    def receive(self, offer: Offer, folder: Path, tell: Tell) -> Path:
        """Fetches it, resumed where it was cut."""
        return self.client.file(offer.place, offer.sha256, folder, tell)

    def _offer(self, address: str) -> Offer:
        parts = urlsplit(address)
        name = unquote(parts.path.rpartition("/")[2])
        beside = urlunsplit(parts._replace(path=parts.path + HASH_FILE_SUFFIX))
        response = self.client.small(beside, HASH_FILE_LIMIT_BYTES)
        is_page = response.headers.get("content-type", "").lower().startswith("text/html")
        if response.status in ABSENT_STATUSES or is_page:
            return Offer(address, file_name(name))
        refuse_status(response, shown(beside))
        sha256 = read_hash(response.body.decode(errors="replace"), name, shown(beside))
        return Offer(address, file_name(name), sha256, shown(beside))
