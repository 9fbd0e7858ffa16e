"""Offline answers that are old, for another device, or by another key: nothing on the device changes by them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Attack

from aggregator.admin.test_offline import deliver, district, joined, keys, stick
from aggregator.institution import learn
from homeroom import Device
from homeroom.contract.canonical_json import digest
from homeroom.contract.offline_message import AnswerHeader, Receipt, write_answer
from homeroom.contract.sealed_box import public_hex
from homeroom.contract.signing import new_key, sign
from homeroom.errors import AnswerError, TrustError
from homeroom.federation import agreement, offline
from homeroom.federation.enrolment import device_key
from homeroom_aggregator.admin.folder import open_rounds

__all__ = ["district", "keys", "stick"]  # fixtures


@pytest.mark.attack("who is speaking", "an old answer, or another device's, put on the stick")
def test_an_old_answer_and_another_devices_change_nothing(
    tmp_path: Path, stick: Path, district: Path, attack: Attack
) -> None:
    one, two = joined(tmp_path, district, stick, "one", "two")

    def carried(device: Device) -> tuple[Path, bytes]:
        device.carry_out(stick)
        deliver(district, stick)
        path = next(path for path in stick.rglob("*.answer"))
        return path, path.read_bytes()

    path, old = carried(one)
    one.carry_in(stick)
    _, foreign = carried(two)
    two.carry_in(stick)
    _, newer = carried(one)
    one.carry_in(stick)
    path.write_bytes(newer)  # a power cut before it was removed
    one.carry_in(stick)
    learn(one, 0.5)
    one.carry_out(stick)
    before = {name: one.store.get_secret(name) for name in ("identity.round", "identity.school", "identity.aggregator")}
    for answer, error in ((old, AnswerError), (foreign, TrustError)):
        path.write_bytes(answer)
        with pytest.raises(error) as caught:
            one.carry_in(stick)
        attack.noticed = caught.value.what
        attack.got += 1 - len(one.store.outbox.pending())
    attack.got += sum(one.store.get_secret(name) != value for name, value in before.items())
    deliver(district, stick)
    assert len(one.carry_in(stick).sent) == 1
    for device in (one, two):
        device.close()


@pytest.mark.attack("who is speaking", "an old answer, or another device's, put on the stick")
@pytest.mark.parametrize("wrong", ["receiver", "signer"])
def test_an_answer_for_another_device_or_by_another_key_changes_nothing(
    tmp_path: Path, stick: Path, district: Path, attack: Attack, wrong: str
) -> None:
    (device,) = joined(tmp_path, district, stick, "one")
    learn(device, 0.5)
    path = device.carry_out(stick).path.with_suffix(".answer")
    key, sealing = device_key(device.store), offline.SEALING_KEY.read(device.store)
    (update,) = device.store.outbox.pending()
    assert key is not None
    assert sealing is not None
    rounds = open_rounds(district)
    own, terms = key.public_key().public_bytes_raw().hex(), rounds.configuration.document
    header = AnswerHeader(
        device="0" * 64 if wrong == "receiver" else own,
        bundle_id=rounds.bundle.bundle_id,
        certificate=rounds.certificate,
        receipts=(Receipt(update=digest(update.data), status="accepted"),),
        round=terms,
        round_signature=sign(rounds.key, "round", terms),
        payload_sha256=digest(b""),
        message_id=(agreement.OFFLINE_MESSAGES.read(device.store) or [])[-1],
    )
    signer = new_key() if wrong == "signer" else rounds.key
    path.write_bytes(write_answer(signer, header, b"", public_hex(sealing)))
    rounds.close()
    with pytest.raises(TrustError) as caught:
        device.carry_in(stick)
    attack.noticed = caught.value.what
    attack.got = 1 - len(device.store.outbox.pending())
    device.close()
