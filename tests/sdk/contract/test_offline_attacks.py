"""Whoever has a stick can seal to its receivers, but speak for nobody: what lies there is signed and addressed."""

from __future__ import annotations

import msgspec
import pytest
from conftest import Attack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract import envelope, offline_message
from homeroom.contract.canonical_json import digest
from homeroom.contract.offline_message import AnswerHeader, MessageHeader
from homeroom.contract.sealed_box import public_hex, seal
from homeroom.contract.signing import certify, fingerprint
from homeroom.contract.signing import public_hex as signing_hex
from homeroom.errors import TrustError

ROOT, AGGREGATOR, VICTIM, THIEF = (Ed25519PrivateKey.generate() for _ in range(4))
DEVICE_BOX, DISTRICT_BOX = X25519PrivateKey.generate(), X25519PrivateKey.generate()
UPDATE = b"an update"


@pytest.mark.attack("who is speaking", "a message on a stick in another device's name")
def test_a_message_speaks_for_the_device_that_signed_it(attack: Attack) -> None:
    header = MessageHeader(
        device=signing_hex(VICTIM),
        sealing=public_hex(DEVICE_BOX),
        bundle_id="b" * 64,
        after=0,
        updates=(len(UPDATE),),
        unlearn=("c" * 32,),
        payload_sha256=digest(UPDATE),
    )
    magic = offline_message.MESSAGE_MAGIC
    for key in (THIEF, VICTIM):
        data = seal(envelope.pack(magic, "letter", header, UPDATE, key), public_hex(DISTRICT_BOX), "letter")
        if key is VICTIM:  # the same, signed by whom it names, is read
            assert offline_message.read_message(data, DISTRICT_BOX, where="stick")[1] == [UPDATE]
            continue
        with pytest.raises(TrustError) as refused:
            attack.got = len(offline_message.read_message(data, DISTRICT_BOX, where="stick")[1])
        attack.noticed = refused.value.what


@pytest.mark.attack("who is speaking", "an answer on a stick that the aggregator did not sign, or for another device")
@pytest.mark.parametrize("forged", ["signature", "receiver"])
def test_an_answer_is_the_aggregators_and_for_this_device(forged: str, attack: Attack) -> None:
    header = AnswerHeader(
        device=signing_hex(VICTIM),
        bundle_id="b" * 64,
        certificate=certify(ROOT, "aggregator", AGGREGATOR, "District 7"),
        unlearned=("c" * 32,),
        payload_sha256="0" * 64,
    )
    trusted = {"device": signing_hex(VICTIM), "root_fingerprint": fingerprint(signing_hex(ROOT)), "where": "stick"}
    real = offline_message.write_answer(AGGREGATOR, header, b"", public_hex(DEVICE_BOX))
    assert offline_message.read_answer(real, DEVICE_BOX, **trusted)[0].unlearned == header.unlearned
    if forged == "signature":
        data = offline_message.write_answer(THIEF, header, b"", public_hex(DEVICE_BOX))
    else:
        other = msgspec.structs.replace(header, device=signing_hex(THIEF))
        data = offline_message.write_answer(AGGREGATOR, other, b"", public_hex(DEVICE_BOX))
    with pytest.raises(TrustError) as refused:
        attack.got = len(offline_message.read_answer(data, DEVICE_BOX, **trusted)[0].unlearned)
    attack.noticed = refused.value.what
