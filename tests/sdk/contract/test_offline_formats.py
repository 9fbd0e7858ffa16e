"""What earlier releases put on a stick, or sent as a difference, is read by this one.

`carried/N` holds what format N looked like. These files are never rewritten.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.delta import apply_delta, make_delta
from homeroom.contract.offline_message import (
    OFFLINE_FORMAT,
    AnswerHeader,
    Receipt,
    read_answer,
    read_message,
    write_answer,
    write_message,
)
from homeroom.contract.sealed_box import SealingKey, check_sealing_key, public_hex, sealing_key
from homeroom.contract.signing import certify, fingerprint
from homeroom.contract.signing import public_hex as signing_hex
from homeroom.contract.version import make_version

FORMATS = Path(__file__).with_name("carried")


def seed(name: str) -> bytes:
    return f"golden {name} key".encode().ljust(32, b".")


ROOT, AGGREGATOR, DEVICE = (Ed25519PrivateKey.from_private_bytes(seed(n)) for n in ("root", "aggregator", "device"))
HERE, THERE = (X25519PrivateKey.from_private_bytes(seed(n)) for n in ("sealing device", "sealing aggregator"))
WORD = certify(ROOT, "aggregator", AGGREGATOR, "golden")
OLD = np.arange(50, dtype=np.float32)
VERSION = make_version(AGGREGATOR, WORD, "b" * 64, 4, OLD + np.float32(0.125), {"head.grade": 3})


@pytest.mark.parametrize("folder", sorted(FORMATS.glob("*")), ids=lambda folder: f"format {folder.name}")
def test_letters_answers_and_differences_of_an_earlier_release_are_read_as_they_were_meant(folder: Path) -> None:
    root, device = fingerprint(signing_hex(ROOT)), signing_hex(DEVICE)
    receiver = msgspec.json.decode((folder / "receiver.json").read_bytes(), type=SealingKey)
    assert check_sealing_key(receiver, root_fingerprint=root, where="receiver") == public_hex(THERE)

    letter, updates, change = read_message((folder / "letter").read_bytes(), THERE, where="letter")
    assert (letter.device, letter.sealing, letter.bundle_id) == (device, public_hex(HERE), "b" * 64)
    assert (letter.after, letter.code, letter.unlearn) == (3, "golden-golden-golden", ("c" * 32,))
    assert (updates, change, letter.release) == ([b"first update", b"second"], b"", msgspec.UNSET)

    answer, version, release = read_answer(
        (folder / "answer").read_bytes(), HERE, device=device, root_fingerprint=root, where="answer"
    )
    assert (version, release, answer.statistics) == (VERSION, b"", None)
    assert answer.round == {"bundle_id": "b" * 64}
    assert (answer.refused, answer.unlearned) == ("", ("c" * 32,))
    assert [receipt.status for receipt in answer.receipts] == ["accepted", "refused"]
    assert answer.receipts[1].message == "too old"
    assert apply_delta(OLD, (folder / "delta").read_bytes()) == VERSION


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    letter = write_message(
        DEVICE,
        HERE,
        public_hex(THERE),
        bundle_id="b" * 64,
        after=3,
        code="golden-golden-golden",
        updates=[b"first update", b"second"],
        unlearn=["c" * 32],
    )
    receipts = (
        Receipt(update=digest(b"first update"), status="accepted"),
        Receipt(update=digest(b"second"), status="refused", code="too_stale", message="too old", remedy="sync"),
    )
    answer = AnswerHeader(
        device=signing_hex(DEVICE),
        bundle_id="b" * 64,
        certificate=WORD,
        receipts=receipts,
        unlearned=("c" * 32,),
        round={"bundle_id": "b" * 64},
        round_signature="00",
        payload_sha256="0" * 64,
    )
    (folder / "receiver.json").write_bytes(msgspec.json.encode(sealing_key(THERE, AGGREGATOR, WORD)))
    (folder / "letter").write_bytes(letter)
    (folder / "answer").write_bytes(write_answer(AGGREGATOR, answer, VERSION, public_hex(HERE)))
    (folder / "delta").write_bytes(make_delta(OLD, VERSION))


if __name__ == "__main__":
    write(FORMATS / str(OFFLINE_FORMAT))
