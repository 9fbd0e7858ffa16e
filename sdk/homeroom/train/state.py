"""The state of a training: enough to resume it at any step, bit for bit."""

from __future__ import annotations

import msgspec
import numpy as np


class Epoch(msgspec.Struct, frozen=True):
    """Result of one epoch.

    loss: mean over its batches
    value: mean over tasks of `Score.value` on validation data; the epoch's number where there is none
    moved: Euclidean distance that the shared layers moved
    log_loss: mean over the tasks with labels of the log-loss on validation data; infinite where it is not known
    """

    loss: float
    value: float
    moved: float = 0.0
    log_loss: float = float("inf")

    @property
    def rank(self) -> tuple[float, float]:
        """The greater the better: the value, and of equal ones the log-loss."""
        return self.value, -self.log_loss


class TrainState(msgspec.Struct, kw_only=True):
    """A training between two steps; arrays are float32 [P], P the size of the tier.

    theta: now; began: as the epoch began, empty in the states of older versions
    first, second: moments of AdamW
    steps: done in the training; epoch: number of the current one; batch: how many of its batches are done
    loss: sum over these batches
    best, best_epoch: theta and number of the best epoch, -1 before the first has ended
    """

    theta: np.ndarray
    first: np.ndarray
    second: np.ndarray
    steps: int = 0
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    best: np.ndarray
    best_epoch: int = -1
    history: list[Epoch] = []
    began: np.ndarray = msgspec.field(default_factory=lambda: np.empty(0, np.float32))

    def encode(self) -> bytes:
        """MessagePack, an array as the bytes of its values."""
        return msgspec.msgpack.encode(self, enc_hook=lambda array: array.tobytes())

    @classmethod
    def decode(cls, data: bytes) -> TrainState:
        """The state that `encode` wrote."""
        return msgspec.msgpack.decode(data, type=cls, dec_hook=lambda _, raw: np.frombuffer(raw, np.float32).copy())

    @classmethod
    def initial(cls, theta0: np.ndarray) -> TrainState:
        """The state before the first step from theta0 [P], which is copied."""
        theta = np.array(theta0, np.float32)
        zeros = np.zeros_like(theta)
        return cls(theta=theta, first=zeros, second=zeros.copy(), best=theta.copy(), began=theta.copy())
