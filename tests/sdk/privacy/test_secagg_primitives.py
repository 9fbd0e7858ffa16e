"""The primitives as we call them, against the RFCs' own vectors, and the masks against plain arithmetic."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from homeroom.errors import MissingExtraError, TrustError, UpdateError
from homeroom.privacy.secagg import masks
from homeroom.privacy.secagg.primitives import agree, combine, derive, private_key, seal, split, unseal

ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOTH = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_both_ends_agree_on_the_secret_of_rfc_7748_section_6_1() -> None:
    alice, bob = (X25519PrivateKey.from_private_bytes(bytes.fromhex(key)) for key in (ALICE, BOB))
    expected = derive(bytes.fromhex(BOTH), b"purpose", 32)
    assert agree(alice, bob.public_key().public_bytes_raw(), b"purpose", 32) == expected
    assert agree(bob, alice.public_key().public_bytes_raw(), b"purpose", 32) == expected
    assert agree(bob, alice.public_key().public_bytes_raw(), b"another", 32) != expected


@pytest.mark.parametrize(
    ("secret", "salt", "info", "expected"),
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            "0b" * 22,
            "",
            "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
    ids=["case 1", "case 3"],
)
def test_derive_is_rfc_5869_with_sha_256(secret: str, salt: str, info: str, expected: str) -> None:
    found = derive(bytes.fromhex(secret), bytes.fromhex(info), 42, salt=bytes.fromhex(salt) or None)
    assert found.hex() == expected


@pytest.mark.parametrize("point", [0, 1, 2**255 - 20], ids=["zero", "one", "minus one"])
def test_a_public_key_of_low_order_is_refused(point: int) -> None:
    with pytest.raises(TrustError):
        agree(private_key(bytes(16), b"x"), point.to_bytes(32, "little"), b"x", 16)


@settings(max_examples=20)
@given(st.binary(min_size=16, max_size=16), st.integers(2, 6), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_opens_a_secret(secret: bytes, threshold: int, more: int, shuffle) -> None:  # type: ignore[no-untyped-def]
    numbered = list(enumerate(split(secret, threshold, threshold + more), 1))
    shuffle.shuffle(numbered)
    assert combine(numbered[:threshold]) == secret
    if threshold > 2:
        assert combine(numbered[: threshold - 1]) != secret


def test_a_sealed_share_opens_only_where_it_belongs() -> None:
    key = bytes(32)
    sealed = seal(key, b"share", b"round 1, from 2 to 3")
    assert unseal(key, sealed, b"round 1, from 2 to 3") == b"share"
    for wrong in (
        lambda: unseal(key, sealed, b"round 2, from 2 to 3"),
        lambda: unseal(bytes(31) + b"x", sealed, b"round 1, from 2 to 3"),
        lambda: unseal(key, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"round 1, from 2 to 3"),
    ):
        with pytest.raises(TrustError):
            wrong()
    assert seal(key, b"share", b"") != seal(key, b"share", b""), "a fresh nonce each time"


def test_the_keystream_is_aes_ctr_of_nist_sp_800_38a() -> None:
    """F.5.1 gives ciphertext for another first counter: what must hold is that block 0 is AES of zero (FIPS 197)."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    counters = b"".join(i.to_bytes(16, "big") for i in range(4))
    blocks = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(counters)
    assert masks.keystream(key).update(bytes(64)) == blocks


@pytest.mark.parametrize("width", [3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("count", [0, 1, 1000, masks.CHUNK_BYTES // 8 + 7])
def test_masks_go_on_and_come_off(width: int, count: int) -> None:
    rng = np.random.default_rng(count + width)
    plain = rng.integers(-(1 << 8 * width - 2), 1 << 8 * width - 2, count)
    vector = plain.astype(np.int64).view(np.uint64).astype(masks.ring_dtype(width))
    added, taken = [b"a" * 16, b"b" * 16], [b"c" * 16]
    masks.add_masks(vector, added, taken)
    sent = masks.pack(vector, width)
    assert len(sent) == count * width
    back = masks.unpack(sent, count, width)
    masks.add_masks(back, taken, added)
    np.testing.assert_array_equal(masks.signed(back, width), plain)
    if count > 100:
        assert np.abs(np.corrcoef(vector.astype(float), plain.astype(float))[0, 1]) < 0.2


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(UpdateError):
        masks.unpack(bytes(17), 3, 6)


def test_a_device_without_the_extra_is_told_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Crypto.Protocol.SecretSharing", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[secure\]"):
        split(bytes(16), 2, 3)
