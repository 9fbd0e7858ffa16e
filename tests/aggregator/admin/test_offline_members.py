"""Messages on a stick whose updates do not count: of another role, a school without consent, another bundle."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from conftest import Attack
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from aggregator.admin.test_offline import deliver, district, keys, stick
from aggregator.institution import learn
from homeroom import Device
from homeroom.contract.offline_message import write_message
from homeroom.contract.signing import new_key, public_hex
from homeroom.errors import NetworkError
from homeroom_aggregator.admin.folder import invite_devices, make_invitations, open_rounds

__all__ = ["district", "keys", "stick"]  # fixtures


@pytest.mark.attack("members", "a message on a stick from a role, a school or a bundle whose updates do not count")
def test_an_auditor_sends_no_update_on_a_stick(tmp_path: Path, district: Path, stick: Path, attack: Attack) -> None:
    (invitation,) = make_invitations(district, "http://nowhere.example", [("", "auditor")])
    (tmp_path / "auditor.json").write_bytes(msgspec.json.encode(invitation))
    device = Device.open(tmp_path / "auditor", tmp_path / "bundle")
    device.join_by_hand(tmp_path / "auditor.json")
    device.carry_out(stick)
    attack.got = deliver(district, stick).joined
    with pytest.raises(NetworkError, match="not enrolled") as refused:
        device.carry_in(stick)
    attack.noticed = refused.value.what
    device.close()


@pytest.mark.attack("members", "a message on a stick from a role, a school or a bundle whose updates do not count")
def test_updates_of_a_school_without_consent_wait_on_its_devices(
    tmp_path: Path, district: Path, stick: Path, attack: Attack
) -> None:
    (invitation,) = make_invitations(district, "http://nowhere.example", [("School 1", "device")])
    (tmp_path / "school.json").write_bytes(msgspec.json.encode(invitation))
    device = Device.open(tmp_path / "school", tmp_path / "bundle")
    device.join_by_hand(tmp_path / "school.json")
    device.carry_out(stick)
    deliver(district, stick)
    assert device.carry_in(stick).joined
    learn(device, 0.25)
    device.carry_out(stick)
    taken = deliver(district, stick)
    attack.got, attack.noticed = taken.accepted, f"{taken.waits} waits for consent"
    assert taken.waits == 1
    assert device.carry_in(stick).sent == ()
    assert device.status()["updates_waiting"] == 1
    device.close()


@pytest.mark.attack("members", "a message on a stick from a role, a school or a bundle whose updates do not count")
def test_a_message_about_another_bundle_enrols_nobody(district: Path, stick: Path, attack: Attack) -> None:
    (invitation,) = invite_devices(district, "http://nowhere.example", 1)
    (receiver,) = stick.rglob("receiver.json")
    box = msgspec.json.decode(receiver.read_bytes())["key"]
    key, sealing = new_key(), X25519PrivateKey.generate()
    message = write_message(key, sealing, box, bundle_id="0" * 64, after=0, code=invitation.code)
    (receiver.parent / f"{public_hex(key)[:16]}.letter").write_bytes(message)
    taken = deliver(district, stick)
    attack.got, attack.noticed = taken.joined, "it is about another bundle"
    assert taken.messages == 1
    rounds = open_rounds(district)
    assert rounds.members.find(public_hex(key)) is None
    rounds.close()
