"""Codecs: what arrives is what the sender knows it to be, whatever bytes come; feedback brings the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from homeroom.contract.codecs import BLOCK_VALUES, ENCODED_LIMIT, Codec, decode, encode
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.residual import make_residual, unpack_residual
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key
from homeroom.contract.update import make_update
from homeroom.contract.update_checks import read_update
from homeroom.errors import UpdateError

BITS = 20
LOSSY: tuple[Codec, ...] = ("int8", "int4", "topk")
LAYOUT = Layout((Segment(name="ladder.text", parameters=(Parameter("w", (70, 10)),), meaning="ladder"),))
KEY = new_key()


def real(values: np.ndarray, codec: Codec, keep: int = 32) -> np.ndarray:
    return decode(encode(values, codec, BITS, keep), codec, len(values), BITS) * 2.0**-BITS


@pytest.mark.parametrize("codec", LOSSY)
@given(arrays(np.float32, st.integers(1, 700), elements=st.floats(-15, 15, width=32)))
def test_every_value_is_within_half_a_step_of_its_block_or_was_left_out(codec: Codec, values: np.ndarray) -> None:
    found = real(values, codec)
    for start in range(0, len(values), BLOCK_VALUES[codec]):
        part, got = values[start : start + BLOCK_VALUES[codec]], found[start : start + BLOCK_VALUES[codec]]
        step = np.abs(part).max() / (127 if codec == "int8" else 7)
        sent = got != 0 if codec == "topk" else np.ones(len(part), bool)
        assert (np.abs(part - got)[sent] <= step * 0.5001 + 2.0**-BITS).all()


def test_topk_sends_the_largest_of_each_block_and_no_more_bytes_than_they_need() -> None:
    values = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    found = real(values, "topk", keep=8)
    for block, got in zip(values.reshape(-1, 256), found.reshape(-1, 256), strict=True):
        assert set(np.flatnonzero(got)) == set(np.argsort(-np.abs(block))[:8])
    assert len(encode(values, "topk", BITS, 8)) == 16 * (4 + 32 + 4)


@pytest.mark.parametrize("codec", LOSSY)
@given(arrays(np.uint8, st.integers(0, 800)), st.integers(1, 700))
def test_any_bytes_are_so_many_bounded_values_or_refused(codec: Codec, data: np.ndarray, size: int) -> None:
    try:
        found = decode(data, codec, size, BITS)
    except UpdateError:
        return
    assert found.dtype == np.int32
    assert found.shape == (size,)
    assert np.abs(found.astype(np.int64)).max() <= ENCODED_LIMIT


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("codec", ["fixed32", *LOSSY])
def test_a_member_cannot_send_a_value_beyond_the_scale(codec: Codec, sign: int) -> None:
    """Neither as an integer nor through a block's step: it would count for more than the round allows."""
    if codec == "fixed32":
        data = np.array([0, sign * (ENCODED_LIMIT + 1), 0], np.int32)
    else:
        data = encode(np.full(3, 1.0, np.float32), codec, BITS, 24)
        data[:4] = np.frombuffer(np.float32(sign * 3 * ENCODED_LIMIT / 2**BITS).tobytes(), np.uint8)
    with pytest.raises(UpdateError, match="beyond the scale") as caught:
        decode(data, codec, 3, BITS)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("step", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", LOSSY)
def test_a_member_cannot_send_a_step_that_is_not_finite(codec: Codec, step: float) -> None:
    data = encode(np.full(3, 1.0, np.float32), codec, BITS, 24)
    data[:4] = np.frombuffer(np.float32(step).tobytes(), np.uint8)
    with pytest.raises(UpdateError, match="not finite") as caught:
        decode(data, codec, 3, BITS)
    assert caught.value.code == "not_finite"


@pytest.mark.parametrize("codec", LOSSY)
def test_the_largest_value_that_fits_arrives_and_a_larger_one_is_refused_by_its_sender(codec: Codec) -> None:
    largest = ENCODED_LIMIT / 2.0**BITS
    assert real(np.full(3, largest, np.float32), codec) == pytest.approx(largest)
    with pytest.raises(UpdateError) as caught:
        encode(np.full(3, 1.1 * largest, np.float32), codec, BITS, 24)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("codec", LOSSY)
def test_with_feedback_the_sum_of_many_updates_is_the_sum_of_what_was_learned(codec: Codec) -> None:
    asked = RoundConfiguration(bundle_id="0" * 64, codec=codec)
    rng = np.random.default_rng(1)
    learned, arrived, residual = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size), b""
    steady = rng.standard_normal(LAYOUT.size) * 0.01
    for _ in range(60):
        delta = (steady + rng.standard_normal(LAYOUT.size) * 0.005).astype(np.float32)
        learned += delta
        wanted = delta + unpack_residual(residual, LAYOUT)
        data = make_update(KEY, asked, LAYOUT, wanted, {"ladder.text": 5}, base_version=0)
        residual = make_residual(data, asked, LAYOUT, wanted)
        arrived += read_update(data, asked, LAYOUT).values["ladder.text"] * 2.0**-BITS
    assert np.abs(learned - arrived - unpack_residual(residual, LAYOUT)).max() < 1e-4
    assert np.linalg.norm(learned - arrived) < 0.2 * np.linalg.norm(learned)


def test_a_round_takes_its_own_codec_and_exact_integers_and_no_other() -> None:
    def made(codec: Codec) -> bytes:
        asked = RoundConfiguration(bundle_id="0" * 64, codec=codec)
        return make_update(KEY, asked, LAYOUT, np.ones(LAYOUT.size, np.float32), {"ladder.text": 1}, 0)

    topk = RoundConfiguration(bundle_id="0" * 64, codec="topk")
    for codec in ("topk", "fixed32"):
        assert set(read_update(made(codec), topk, LAYOUT).values["ladder.text"]) <= {0, 1 << BITS}
    with pytest.raises(UpdateError, match="int8 is not the round's topk"):
        read_update(made("int8"), topk, LAYOUT)
