"""A district that is served by its own process, and what members and strangers do there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from click.testing import CliRunner

from aggregator.institution import SEGMENTS, START, School
from homeroom.cli.main import homeroom
from homeroom.contract.invitation import Invitation
from homeroom.contract.layout import Layout
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import read_version
from homeroom.errors import TrustError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import (
    make_invitations,
    open_folder_bundle,
    read_facts,
)
from homeroom_aggregator.state.members import Role


@dataclass
class District:
    """`homeroom district serve` in its own process. `clients`: as they joined."""

    folder: Path
    address: str

    def enrol(self, school: str = "", role: Role = "device") -> Client:
        consents = {school: "letter"} if school else None
        (invitation,) = make_invitations(self.folder, self.address, [(school, role)], consents=consents)
        key = School().key
        return Client(join(invitation, key), key)

    def run(self, *words: object) -> str:
        done = CliRunner().invoke(homeroom, ["district", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    def files(self) -> bytes:
        """Every byte of the log on disk, its write-ahead log included."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("log.db*")))

    def moved(self, client: Client) -> float:
        """How far the newest version is from the bundle's theta, at one shared value."""
        facts = read_facts(self.folder)
        layout = open_folder_bundle(self.folder, facts).manifest.layout
        body = client.send("GET", "/v1/versions/latest")
        _, theta = read_version(body, layout, bundle_id=facts.bundle_id, root_fingerprint=facts.root)
        return float(theta[0] - START[0])


def made(client: Client, delta: float = 0.5, base: int = 0) -> tuple[str, bytes]:
    """An update's id and its bytes."""
    configuration = client.round()
    data = School(client.key).update(configuration, delta, base)
    return read_update(data, configuration, Layout(SEGMENTS)).header.update_id, data


def payload(data: bytes) -> bytes:
    """The last bytes of an update, its values; updates of another delta do not have them."""
    return data[-32:]


def knock(client_key: School, invitation: Invitation, code: str) -> bool:
    """Whether a key gets in with a code, as it is spelled."""
    try:
        join(msgspec.structs.replace(invitation, code=code), client_key.key)
    except TrustError:
        return False
    return True
