"""The state of a training, kept so that it can go on at any step."""

from __future__ import annotations

import msgspec
import numpy as np


class Epoch(msgspec.Struct, frozen=True):
    """`value`: mean over tasks of `Score.value` on validation data; the epoch's number where there is none.

    `moved`: how far the trunk went, the norm of its difference.
    """

    loss: float
    value: float
    moved: float = 0.0


class TrainState(msgspec.Struct, kw_only=True):
    """All that is needed to go on exactly where training stopped; arrays are float32, as many as the tier has."""

    theta: np.ndarray
    first: np.ndarray
    second: np.ndarray
    steps: int = 0
    epoch: int = 0
    batch: int = 0  # batches of `epoch` that are done
    loss: float = 0.0  # their sum
    best: np.ndarray
    best_epoch: int = -1
    history: list[Epoch] = []
    began: np.ndarray = msgspec.field(default_factory=lambda: np.empty(0, np.float32))  # theta as `epoch` began

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self, enc_hook=lambda array: array.tobytes())

    @classmethod
    def decode(cls, data: bytes) -> TrainState:
        return msgspec.msgpack.decode(data, type=cls, dec_hook=lambda _, raw: np.frombuffer(raw, np.float32).copy())
