"""The update: what is signed is what is merged, and everything else is refused with its reason."""

import struct

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from homeroom.contract import envelope, update
from homeroom.contract.canonical_json import canonical, digest
from homeroom.contract.codecs import ENCODED_LIMIT, encode_fixed
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key, public_hex, sign
from homeroom.contract.update import SegmentEntry, UpdateHeader, make_update
from homeroom.contract.update_checks import read_update
from homeroom.errors import HomeroomError, UpdateError

KEY = new_key()
LAYOUT = Layout(
    (
        Segment(name="ladder.text", parameters=(Parameter("w", (4, 3)),), meaning="ladder", modality="text"),
        Segment(name="head.a", parameters=(Parameter("w", (5,)),), meaning="linear", task="a"),
        Segment(name="head.own", parameters=(Parameter("w", (2,)),), meaning="linear", scope="personal"),
    )
)
ROUND = RoundConfiguration(bundle_id="0" * 64)
DELTA = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)


def made(**changes) -> bytes:
    """An update of segment head.a, with parts of its header or payload replaced."""
    values = changes.pop("values", np.arange(5, dtype=np.int32))
    payload = safetensors.numpy.save({changes.pop("tensor", LAYOUT["head.a"].segment_id): values})
    fields = {
        "update_id": "a" * 32,
        "device": public_hex(KEY),
        "bundle_id": ROUND.bundle_id,
        "base_version": 0,
        "scale_bits": ROUND.scale_bits,
        "segments": (SegmentEntry(LAYOUT["head.a"].segment_id, "head.a", 1),),
        "payload_sha256": digest(payload),
    } | changes
    return envelope.pack(update.UPDATE_MAGIC, "update", UpdateHeader(**fields), payload, KEY)


def refusal(data: bytes) -> str:
    with pytest.raises(UpdateError) as caught:
        read_update(data, ROUND, LAYOUT)
    assert caught.value.code in update.REFUSALS
    return caught.value.code


def test_what_was_trained_arrives_and_what_is_personal_or_untaught_stays() -> None:
    data = make_update(KEY, ROUND, LAYOUT, DELTA, {"head.a": 7, "ladder.text": 0, "head.own": 9}, base_version=3)
    read = read_update(data, ROUND, LAYOUT)
    assert set(read.values) == {"head.a"}
    assert read.header.segments[0].examples == 7
    assert read.header.base_version == 3
    assert np.allclose(read.values["head.a"] * 2.0**-ROUND.scale_bits, LAYOUT.split(DELTA)["head.a"], atol=1e-6)


def test_nothing_trained_is_no_update() -> None:
    with pytest.raises(UpdateError) as caught:
        make_update(KEY, ROUND, LAYOUT, DELTA, {"head.own": 9}, base_version=0)
    assert caught.value.code == "empty"


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=50), st.integers(0, 20))
def test_fixed_point_is_within_half_a_step(values: list[float], bits: int) -> None:
    array = np.array(values, np.float32)
    assert np.abs(encode_fixed(array, bits) * 2.0**-bits - array).max() <= 0.5 * 2.0**-bits


@pytest.mark.parametrize(("value", "code"), [(np.nan, "not_finite"), (np.inf, "not_finite"), (1e6, "too_large")])
def test_a_value_that_cannot_be_sent_is_refused_on_the_device(value: float, code: str) -> None:
    with pytest.raises(UpdateError) as caught:
        encode_fixed(np.array([value], np.float32), 20)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"format": 99}, "old_format"),
        ({"bundle_id": "1" * 64}, "other_bundle"),
        ({"scale_bits": 3}, "malformed"),
        ({"segments": ()}, "empty"),
        ({"device": public_hex(new_key())}, "bad_signature"),
        ({"values": np.arange(4, dtype=np.int32)}, "wrong_shape"),
        ({"values": np.arange(5, dtype=np.int64)}, "wrong_shape"),
        ({"values": np.arange(5, dtype=np.float32)}, "wrong_shape"),
        ({"values": np.array([ENCODED_LIMIT + 1, 0, 0, 0, 0], np.int32)}, "too_large"),
        ({"values": np.array([-(2**31), 0, 0, 0, 0], np.int32)}, "too_large"),
        ({"tensor": "e" * 64, "segments": (SegmentEntry("e" * 64, "x", 1),)}, "unknown_segment"),
        ({"tensor": "e" * 64}, "malformed"),
        (
            {
                "tensor": LAYOUT["head.own"].segment_id,
                "segments": (SegmentEntry(LAYOUT["head.own"].segment_id, "head.own", 1),),
                "values": np.zeros(2, np.int32),
            },
            "personal_segment",
        ),
    ],
)
def test_a_bad_update_is_refused_with_its_reason(changes: dict, code: str) -> None:
    assert refusal(made(**changes)) == code


def test_an_outrageous_norm_is_refused_even_where_each_value_fits() -> None:
    big = RoundConfiguration(bundle_id="0" * 64, max_norm=1.0)
    with pytest.raises(UpdateError) as caught:
        read_update(made(values=np.full(5, 1 << 20, np.int32)), big, LAYOUT)
    assert caught.value.code == "too_large"


def test_too_many_bytes_are_refused_before_they_are_read() -> None:
    small = RoundConfiguration(bundle_id="0" * 64, update_limit_bytes=1024)
    with pytest.raises(UpdateError) as caught:
        read_update(made() + b"\0" * 2048, small, LAYOUT)
    assert caught.value.code == "too_long"


@given(st.integers(0, len(made()) - 1), st.integers(1, 255))
@settings(max_examples=200)
def test_any_changed_byte_is_noticed(where: int, flip: int) -> None:
    data = bytearray(made())
    data[where] ^= flip
    refusal(bytes(data))


@given(st.integers(0, len(made()) - 1))
def test_any_truncation_is_noticed(length: int) -> None:
    refusal(made()[:length])


@given(st.binary(max_size=300))
def test_noise_is_never_an_update(noise: bytes) -> None:
    refusal(noise)
    refusal(update.UPDATE_MAGIC + noise)


def test_a_header_that_claims_a_huge_length_costs_nothing() -> None:
    assert refusal(update.UPDATE_MAGIC + struct.pack("<I", 2**32 - 1) + b"{}") == "malformed"


def test_an_unknown_field_of_a_minor_version_is_read_and_its_signature_holds() -> None:
    payload = safetensors.numpy.save({LAYOUT["head.a"].segment_id: np.arange(5, dtype=np.int32)})
    data = made()
    (length,) = struct.unpack("<I", data[8:12])
    header = msgspec.json.decode(data[12 : 12 + length]) | {"payload_sha256": digest(payload), "new_field": 1}
    head = canonical(header)
    newer = (
        update.UPDATE_MAGIC + struct.pack("<I", len(head)) + head + bytes.fromhex(sign(KEY, "update", header)) + payload
    )
    assert read_update(newer, ROUND, LAYOUT).header.update_id == "a" * 32


def test_every_refusal_is_a_homeroom_error() -> None:
    with pytest.raises(HomeroomError):
        read_update(b"", ROUND, LAYOUT)
