"""Attackers of benchmarks/robustness.py: devices of a simulated federation that know all honest updates and send lies.

Each attack is one short function from the honest updates of a round to the vector that every attacker sends. They claim
500 examples, the most that a round counts, and sign with keys of their own.

- flipped: the mean update turned round, at norm 49, just under the largest that a round admits
- alie: "a little is enough", Baruch et al. 2019: the mean less 1.5 standard deviations, coordinate by coordinate
- ipm: inner product manipulation, Xie et al. 2020: three times the mean, turned round
- adaptive: the mean turned round, as long as the longest honest update of each segment, 5 % longer every round
- labels, backdoor: attackers train on changed data; a backdoor is boosted to replace the mean (Bagdasaryan et al. 2020)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from homeroom.contract.layout import Layout
from homeroom.contract.update import make_update
from homeroom.contract.update_checks import read_admitted
from homeroom.runtime.graphs import Graphs
from homeroom_aggregator.simulation.engine import LocalEngine, SchoolData, Scores, TrainedUpdate, TrainingTask

CLAIMED, LONGEST, RISE, ALIE_Z, IPM = 500, 49.0, 1.05, 1.5, 3.0
ON_DATA = ("labels", "backdoor")


@dataclass(frozen=True)
class Round:
    """What the attackers know: honest updates float64 [n, P], the round's number, and how many they are themselves."""

    honest: np.ndarray
    layout: Layout
    number: int
    attackers: int


def flipped(known: Round) -> np.ndarray:
    mean = known.honest.mean(0)
    return -mean * (LONGEST / np.linalg.norm(mean))


def alie(known: Round) -> np.ndarray:
    return np.asarray(known.honest.mean(0) - ALIE_Z * known.honest.std(0))


def ipm(known: Round) -> np.ndarray:
    return np.asarray(-IPM * known.honest.mean(0))


def adaptive(known: Round) -> np.ndarray:
    sent = -known.honest.mean(0)
    for where in known.layout.slices.values():
        longest = np.linalg.norm(known.honest[:, where], axis=1).max()
        sent[where] *= longest * RISE**known.number / max(np.linalg.norm(sent[where]), 1e-12)
    return sent * min(1.0, LONGEST / np.linalg.norm(sent))


CRAFTED: Mapping[str, Callable[[Round], np.ndarray]] = {
    "flipped": flipped,
    "alie": alie,
    "ipm": ipm,
    "adaptive": adaptive,
}
ATTACKS = (*CRAFTED, *ON_DATA)


def boosted(own: np.ndarray, known: Round) -> np.ndarray:
    """An attacker's own update, long enough to replace the mean of all."""
    sent = own * ((len(known.honest) + known.attackers) / known.attackers)
    return np.asarray(sent * min(1.0, LONGEST / np.linalg.norm(sent)))


@dataclass
class AttackedEngine:
    """Trains every school, and lets the attackers, by their indexes, send another update than they trained.

    lengths: by round, what the attackers sent; longest_honest: the longest honest update of all rounds.
    """

    schools: Sequence[SchoolData]
    graphs: Graphs
    attack: str
    attackers: frozenset[int]
    round: int = 0
    lengths: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inner = LocalEngine(self.schools, self.graphs)

    def train(self, tasks: Sequence[TrainingTask], thetas: Sequence[np.ndarray]) -> Iterator[TrainedUpdate]:
        layout, trained = self.graphs.bundle.layout, list(self.inner.train(tasks, thetas))
        deltas = {one.index: _delta(one.update, layout) for one in trained if not one.problem}
        honest = np.array([delta for index, delta in deltas.items() if index not in self.attackers])
        known, self.round = Round(honest, layout, self.round, len(self.attackers)), self.round + 1
        crafted = CRAFTED[self.attack](known) if self.attack in CRAFTED and self.attackers else None
        for task, one in zip(tasks, trained, strict=True):
            if one.index not in self.attackers or one.problem:
                yield one
                continue
            sent = crafted if crafted is not None else deltas[one.index]
            sent = boosted(sent, known) if self.attack == "backdoor" else sent
            self.lengths.append(float(np.linalg.norm(sent)))
            yield self._signed(task, one, sent)

    def _signed(self, task: TrainingTask, one: TrainedUpdate, sent: np.ndarray) -> TrainedUpdate:
        layout, key = self.graphs.bundle.layout, self.inner.devices[one.index].key
        claimed = {segment.name: CLAIMED for segment in layout}
        data = make_update(key, task.configuration, layout, sent.astype(np.float32), claimed, task.base)
        return TrainedUpdate(one.index, one.device, data)

    def score(self, theta: np.ndarray) -> dict[str, Scores]:
        return self.inner.score(theta)


def _delta(data: bytes, layout: Layout) -> np.ndarray:
    """float64 [P] of an update; zeros for segments that it lacks."""
    update, delta = read_admitted(data, layout), np.zeros(layout.size)
    for name, values in update.values.items():
        delta[layout.slices[name]] = values * 2.0**-update.header.scale_bits
    return delta
