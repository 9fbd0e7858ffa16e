"""Members against others, over HTTP and against the true process: withdrawals, revoked keys, consent, codes, roles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Attack

from aggregator.institution import SEGMENTS, START, School, make_folder
from aggregator.server.test_kill import kill, start
from homeroom.cli.main import homeroom
from homeroom.contract.layout import Layout
from homeroom.contract.signing import public_hex
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import read_version
from homeroom.errors import UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import make_invitations, open_folder_bundle, open_log, open_rounds, read_facts
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

    def run(self, *words: object) -> None:
        done = CliRunner().invoke(homeroom, ["district", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output

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


@pytest.fixture
def district(tmp_path: Path) -> Iterator[District]:
    folder = make_folder(tmp_path, buffer_size=3, min_devices=2)
    process, address = start(folder)
    try:
        yield District(folder, address)
        process.terminate()
        process.wait(20)
        with contextlib.closing(open_rounds(folder)) as rounds:
            assert rounds.verify() == []
    finally:
        kill(process)


def made(client: Client, delta: float = 0.5, base: int = 0) -> tuple[str, bytes]:
    """An update's id and its bytes."""
    configuration = client.round()
    data = School(client.key).update(configuration, delta, base)
    return read_update(data, configuration, Layout(SEGMENTS)).header.update_id, data


def payload(data: bytes) -> bytes:
    """Some bytes of an update's signature, which are in no other place."""
    return data[-32:]


@pytest.mark.attack("member", "withdrawing another's update, before it comes and while it waits")
def test_nobody_withdraws_anothers_update(district: District, attack: Attack) -> None:
    thief, victim, third = district.enrol(), district.enrol(), district.enrol()
    update_id, data = made(victim)
    thief.unlearn(update_id)  # its answer says nothing of whether there is such an update
    attack.got += victim.update(data) != "accepted"
    thief.unlearn(update_id)
    attack.got += victim.update(data) != "already"
    for client in (thief, third):
        assert client.update(made(client)[1]) == "accepted"
    assert district.moved(victim) == pytest.approx(0.5), "of three updates, none is missing"
    with contextlib.closing(open_log(district.folder)) as log:
        attack.got += log.count("withdraw")
    attack.noticed = "the victim's update is in the version"


def test_what_its_own_maker_withdraws_before_it_comes_stays_out(district: District) -> None:
    client = district.enrol()
    update_id, data = made(client)
    client.unlearn(update_id)
    assert client.update(data) == "already"
    with contextlib.closing(open_log(district.folder)) as log:
        assert log.count("update") == 0


@pytest.mark.attack("member", "an update that was withdrawn while it waits: read it on disk, or in the next version")
def test_what_is_withdrawn_while_it_waits_is_erased_and_never_enters_a_version(
    district: District, attack: Attack
) -> None:
    client, *others = (district.enrol() for _ in range(4))
    update_id, data = made(client, 8.0)
    assert client.update(data) == "accepted"
    assert payload(data) in district.files()
    client.unlearn(update_id)
    attack.got += payload(data) in district.files()
    for other in others:
        other.update(made(other)[1])
    assert district.moved(client) == pytest.approx(0.5)
    attack.noticed = "nothing; the three others make the version"


@pytest.mark.attack("member", "a revoked key's waiting update, which another process revokes while the server runs")
def test_a_waiting_update_goes_at_once_with_its_key(district: District, attack: Attack) -> None:
    thief, *others = (district.enrol() for _ in range(4))
    data = made(thief, 8.0)[1]
    assert thief.update(data) == "accepted"
    district.run("revoke", district.folder, public_hex(thief.key)[:12])
    assert others[0].update(made(others[0])[1]) == "accepted"
    attack.got += payload(data) in district.files()
    for other in others[1:]:
        other.update(made(other)[1])
    attack.got += district.moved(others[0]) != pytest.approx(0.5)
    with pytest.raises(UpdateError, match="not enrolled"):
        thief.update(data)
    attack.noticed = "nothing; three others make the version"


@pytest.mark.attack("member", "a waiting update of a school that has taken its consent back")
def test_a_waiting_update_goes_at_once_with_its_schools_consent(district: District, attack: Attack) -> None:
    pupil_side, office = district.enrol("Hill School"), district.enrol("Hill School", "school")
    others = [district.enrol() for _ in range(3)]
    data = made(pupil_side, 8.0)[1]
    assert pupil_side.update(data) == "accepted"
    office.send("POST", "/v1/consent", b'{"school": "Hill School", "by": "head", "action": "withdraw"}')
    attack.got += payload(data) in district.files()
    for other in others:
        other.update(made(other)[1])
    attack.got += district.moved(pupil_side) != pytest.approx(0.5)
    attack.noticed = "the school still gets the version"
