"""Accuracy under each mechanism of benchmarks/privacy.py."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import privacy_digits as digits
from homeroom.contract.privacy import epsilon_spent
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import simulate
from privacy_plan import DELTA, DEVICES, LOCAL, Plan, Setting, promise, settings


@lru_cache(maxsize=1)
def _data(path: Path, seed: int) -> digits.Data:
    return digits.load(*digits.opened(path), DEVICES, seed)


def run(path: Path, seed: int, setting: Setting, rounds: int) -> dict[str, Any]:
    """One federation: accuracy at its end, how theta moved in the first release and by the end, who was refused."""
    bundle, graphs = digits.opened(path)
    data = _data(path, seed)
    schools = [SchoolData(str(place), device) for place, device in enumerate(data.devices)]
    moved: list[np.ndarray] = []
    found = simulate(
        bundle,
        schools,
        rounds,
        LOCAL,
        setting.round(bundle, rounds),
        seed=seed,
        graphs=graphs,
        progress=lambda facts: moved.append(facts.theta - bundle.theta()),
    )
    return {
        "accuracy": digits.accuracy(graphs, data.test, found.theta),
        "first": moved[0],
        "end": moved[-1],
        "refused": sum(len(facts.refused) for facts in found.rounds),
        "releases": found.version,
    }


def learning(pool: Executor, path: Path, plan: Plan, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """By setting: accuracy, and the cosines of how theta moved with how it moved without noise, a value for each seed.

    cosine: of the first round (one release, or four where devices take turns); cosine_end: of the whole training.
    """
    rows: dict[Setting, dict[str, Any]] = {}
    asked = [(seed, setting) for seed in range(plan.seeds) for setting in settings(plan)]
    done = [pool.submit(run, path, seed, setting, plan.rounds) for seed, setting in asked]
    plain: dict[tuple[int, bool], dict[str, Any]] = {}
    for (seed, setting), future in zip(asked, done, strict=True):
        found = future.result()
        if setting.epsilon is None:
            plain[seed, setting.in_turn] = found
        true = plain[seed, setting.in_turn]
        row = rows.setdefault(setting, {"accuracy": [], "cosine": [], "cosine_end": [], "refused": 0})
        row["accuracy"].append(found["accuracy"])
        row["cosine"].append(cosine(found["first"], true["first"]))
        row["cosine_end"].append(cosine(found["end"], true["end"]))
        row["refused"] += found["refused"]
        row["releases"] = found["releases"]
        told = f"accuracy {row['accuracy'][-1]:.3f}, cosine {row['cosine'][-1]:.3f}, {row['cosine_end'][-1]:.3f}"
        tell(f"seed {seed}, {setting.mechanism}, epsilon {setting.epsilon}: {told}")
    for setting, row in rows.items():
        if setting.epsilon:
            z = promise(setting.epsilon, plan.rounds).noise_multiplier  # what the ledger counts on
            row |= {"noise_multiplier": z, "epsilon_a_round": epsilon_spent([z], DELTA)}
            row["epsilon_spent"] = epsilon_spent([z] * plan.rounds, DELTA)
    return [{"mechanism": s.mechanism, "epsilon": s.epsilon, "in_turn": s.in_turn} | row for s, row in rows.items()]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
