"""Sums and checkpoints of the log are whole and fit the bundle, or they are said to be damaged."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.errors import StoreError
from homeroom_aggregator.merge import checkpoint
from homeroom_aggregator.merge.round_state import RoundState
from homeroom_aggregator.state import secure_sum
from homeroom_aggregator.state.secure_sum import SecureSum, SumHeader

LAYOUT = Layout((Segment(name="a", parameters=(Parameter("w", (6,)),), meaning="x"),))
HEADER = SumHeader(
    round_id="0" * 64,
    roster_id="1" * 64,
    cohort_id="2" * 64,
    updates={},
    weights={"a": 3},
    fed={"a": []},
    signatures={},
)


@pytest.mark.parametrize(
    "numerators",
    [
        {"a": np.zeros(6, np.int32)},
        {"a": np.zeros(6, np.float64)},
        {"a": np.zeros(5, np.int64)},
        {"a": np.zeros((2, 3), np.int64)},
        {"b": np.zeros(6, np.int64)},
    ],
)
def test_a_sum_is_int64_of_the_bundles_segments(numerators: dict[str, np.ndarray]) -> None:
    whole = secure_sum.unpack(secure_sum.pack(SecureSum(HEADER, {"a": np.arange(6)})), LAYOUT)
    assert whole.numerators["a"].tolist() == list(range(6))
    with pytest.raises(StoreError, match="a secure sum is damaged"):
        secure_sum.unpack(secure_sum.pack(SecureSum(HEADER, numerators)), LAYOUT)


@pytest.mark.parametrize(
    "theta", [np.zeros(6, np.float64), np.zeros(6, np.float16), np.zeros(5, np.float32), np.zeros((6, 1), np.float32)]
)
def test_a_checkpoint_holds_a_theta_of_the_bundle(theta: np.ndarray) -> None:
    good = checkpoint.pack(RoundState(np.arange(6, dtype=np.float32)))
    assert checkpoint.unpack(good, LAYOUT).theta.tolist() == list(range(6))
    with pytest.raises(StoreError, match="a checkpoint is damaged"):
        checkpoint.unpack(checkpoint.pack(RoundState(theta)), LAYOUT)


def test_a_changed_or_cut_body_is_damaged() -> None:
    packed = secure_sum.pack(SecureSum(HEADER, {"a": np.arange(6)}))
    state = checkpoint.pack(RoundState(np.arange(6, dtype=np.float32)))
    for data in (packed[:-1] + bytes([packed[-1] ^ 1]), packed[:20], hashlib.sha256(b"").digest()):
        with pytest.raises(StoreError, match="a secure sum is damaged"):
            secure_sum.unpack(data, LAYOUT)
    with pytest.raises(StoreError, match="a checkpoint is damaged"):
        checkpoint.unpack(state[:-1] + bytes([state[-1] ^ 1]), LAYOUT)
