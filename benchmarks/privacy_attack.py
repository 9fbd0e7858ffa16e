"""The attack of benchmarks/privacy.py: decides from the releases whether one update is in them, knowing all others.

The canary is a device (by subject: a pupil) with wrong labels. The attacker knows every other update and the canary's
own, sees the aggregator's whole log, and projects on the one direction in which the two cases differ: the best test
against Gaussian noise (Neyman, Pearson).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import privacy_digits as digits
from homeroom.contract import envelope
from homeroom.contract.banded_matrix import coefficients
from homeroom.contract.layout import Layout
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key
from homeroom.contract.update import make_private, make_update
from homeroom.contract.update_checks import read_update
from homeroom.errors import StoreError
from homeroom.federation.subject_updates import subject_updates
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.system.sqlite import Database
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom_aggregator.merge import correlated_noise, private_release
from homeroom_aggregator.merge.segment_sums import SegmentSums
from privacy_plan import ATTACKED, BANDS, DELTA, DEVICES, ENTERED, LOCAL, Mechanism, Plan, Setting

Look = Callable[[bool], float]  # what the attacker sees along the direction, with the canary in the releases or not


def canary(data: Dataset) -> Dataset:
    """The same pictures, each with the next digit's label."""
    found = Dataset(data.manifest, data.examples)
    found.targets["digit"] = np.roll(data.targets["digit"], 1, axis=1)
    return found


class Scene:
    """What everybody trained, once for all mechanisms: the whole moves of the devices, and by subject the canary's."""

    def __init__(self, bundle: Bundle, graphs: Graphs) -> None:
        self.bundle, self.layout, start = bundle, bundle.manifest.layout, bundle.theta()
        data = digits.load(bundle, graphs, DEVICES, 0)
        self.moves = [fit(graphs, device, None, start, LOCAL).theta - start for device in data.devices[1:]]
        self.canary = fit(graphs, canary(data.devices[0]), None, start, LOCAL).theta - start
        own = (subject_updates(graphs, device, start, LOCAL) for device in data.devices[:2])
        self.parts = [[moved for _, moved in found] for found in own]
        wrong = Dataset(data.devices[0].manifest, data.devices[0].examples[:1])
        ((_, self.pupil),) = subject_updates(graphs, canary(wrong), start, LOCAL)

    def exact(self, asked: RoundConfiguration) -> tuple[SegmentSums, SegmentSums]:
        """The sums without the canary and with it."""
        if asked.by_subject:  # one class is enough: what else is in the sum, the attacker takes away
            others = [self.parts[1], self.parts[0][1:]]
            return self._sums(asked, others), self._sums(asked, [others[0], [self.pupil, *others[1]]])
        whole = [[move] for move in self.moves]
        return self._sums(asked, whole), self._sums(asked, [*whole, [self.canary]])

    def _sums(self, asked: RoundConfiguration, updates: Sequence[Sequence[np.ndarray]]) -> SegmentSums:
        sums = SegmentSums()
        for parts in updates:
            data = make_private(new_key(), asked, self.layout, parts, 0)
            sums.add(read_update(data, asked, self.layout), 0, asked)
        return sums


@lru_cache(maxsize=1)
def _scene(path: Path) -> Scene:
    return Scene(*digits.opened(path))


def attacked(path: Path, mechanism: Mechanism, epsilon: float | None, trials: int) -> dict[str, Any]:
    """One attack: how much oftener it says "in" where the canary is in than where it is not, and what bounds that."""
    scene = _scene(path)
    if epsilon is None:
        return {"mechanism": "none", "epsilon": None} | _plain(scene, trials)
    asked = Setting(mechanism, epsilon).round(scene.bundle, ENTERED)
    assert asked.privacy
    mu = math.sqrt(ENTERED) / asked.privacy.noise_multiplier
    bounds = {
        "bound_epsilon": (math.expm1(epsilon) + 2 * DELTA) / (math.exp(epsilon) + 1),
        "bound_gaussian": float(2 * stats.norm.cdf(mu / 2) - 1),
    }
    look, between = _view(scene, asked, ENTERED)
    return {"mechanism": mechanism, "epsilon": epsilon, "entered": ENTERED} | judge(look, between, trials) | bounds


def attack(pool: Executor, path: Path, plan: Plan, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """All of them: against plain rounds, then by mechanism and epsilon."""
    asked: list[tuple[Mechanism, float | None]] = [("none", None)]
    asked += [(mechanism, epsilon) for mechanism in ATTACKED for epsilon in reversed(plan.epsilons)]
    done = [pool.submit(attacked, path, mechanism, epsilon, plan.trials) for mechanism, epsilon in asked]
    rows = [future.result() for future in done]
    for row in rows:
        told = f"advantage {row['advantage']:.3f} of at most {row.get('bound_epsilon', 1):.3f}"
        tell(f"attack, {row['mechanism']}, epsilon {row['epsilon']}: {told}")
    return rows


def judge(look: Look, between: float, trials: int) -> dict[str, Any]:
    """True and false "in" of a threshold half-way between the two cases, their difference and its standard error."""
    rng = np.random.default_rng(7)
    said: dict[bool, list[bool]] = {False: [], True: []}
    for _ in range(trials):
        there = bool(rng.integers(2))
        said[there].append(look(there) > between)
    right, wrong = float(np.mean(said[True])), float(np.mean(said[False]))
    error = math.sqrt(
        sum(max(p * (1 - p), 1 / len(s)) / len(s) for p, s in ((right, said[True]), (wrong, said[False])))
    )
    return {"advantage": right - wrong, "standard_error": error, "trials": trials}


def _plain(scene: Scene, trials: int) -> dict[str, Any]:
    """The same against plain rounds: the attacker sees the sum itself."""
    asked = RoundConfiguration(bundle_id=scene.bundle.bundle_id, buffer_size=DEVICES)

    def sums(moves: Sequence[np.ndarray]) -> np.ndarray:
        found = SegmentSums()
        counts = dict.fromkeys((s.name for s in scene.layout), 7)
        for move in moves:
            data = make_update(new_key(), asked, scene.layout, move, counts, 0)
            found.add(read_update(data, asked, scene.layout), 0, asked)
        return np.concatenate([found.numerators[s.name] for s in asked.merged(scene.layout)]).astype(np.float64)

    out, within = sums(scene.moves), sums([*scene.moves, scene.canary])
    direction = within - out
    strength = float(direction @ direction)
    return judge(lambda there: float(((within if there else out) - out) @ direction), strength / 2, trials)


def _view(scene: Scene, asked: RoundConfiguration, rounds: int) -> tuple[Look, float]:
    """What the attacker computes of what the aggregator logs, and the middle of the two cases."""
    assert asked.privacy
    without, within = scene.exact(asked)
    vectors = [_bare(sums, asked, scene.layout) for sums in (without, within)]
    direction = (vectors[1] - vectors[0]).astype(np.float64)
    strength = float(direction @ direction)
    if asked.privacy.bands:
        factors = coefficients(BANDS)
        length = sum(a * a for a in factors)
        return (
            lambda there: sum(_streamed(vectors, there, asked, direction, factors) for _ in range(rounds)),
            rounds * strength * length / 2,
        )

    def look(there: bool) -> float:
        body = private_release.pack_noised(within if there else without, scene.layout, asked)
        return float((_vector(body, asked, scene.layout) - vectors[0]) @ direction)

    return lambda there: sum(look(there) for _ in range(rounds)), rounds * strength / 2


def _streamed(
    vectors: Sequence[np.ndarray],
    there: bool,
    asked: RoundConfiguration,
    direction: np.ndarray,
    factors: Sequence[int],
) -> float:
    """A stream of BANDS releases, in the first of which the canary is; the rest is known, so it may be nothing."""
    assert asked.privacy
    database = Database(Path(":memory:"))
    sums = [vectors[there] - vectors[0], *(np.zeros_like(vectors[0]) for _ in range(BANDS - 1))]
    made = [
        correlated_noise.add_noise(database, number, exact, asked.privacy, asked.scale_bits)
        for number, exact in enumerate(sums, 1)
    ]
    database.close()
    seen = [sum(factors[k] * made[t - k].astype(np.float64) for k in range(t + 1)) for t in range(BANDS)]
    return float(sum(factor * (one @ direction) for factor, one in zip(factors, seen, strict=True)))


def _bare(sums: SegmentSums, asked: RoundConfiguration, layout: Layout) -> np.ndarray:
    """What is noised, as integers [n]; with the number that an adaptive clip follows at the end."""
    assert asked.privacy
    told = [np.array([sums.signal], np.int64)] if asked.privacy.adapts else []
    return np.concatenate([*(sums.numerators[s.name] for s in asked.merged(layout)), *told])


def _vector(body: bytes, asked: RoundConfiguration, layout: Layout) -> np.ndarray:
    """The same after noise, from the log."""
    assert asked.privacy
    found = envelope.tensors(body, where="release", error=StoreError)
    told = [found[private_release.SIGNAL_KEY]] if asked.privacy.adapts else []
    return np.concatenate([*(found[s.segment_id] for s in asked.merged(layout)), *told])
