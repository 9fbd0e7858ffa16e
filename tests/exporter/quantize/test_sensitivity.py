"""The search for layers that need a higher precision: as few as will do, a bounded number of trials, and not mute."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from homeroom_exporter.quantize import sensitivity


def network(layers: int) -> list[str]:
    return [f"layer.{i:03}" for i in range(layers)]


class Drift:
    """What quantized features are off by: the harms of the layers quantized, added; counts how often it was asked."""

    def __init__(self, names: Sequence[str], harms: dict[str, float]) -> None:
        self.names, self.harms, self.asked = list(names), harms, 0

    def __call__(self, kept: Sequence[str]) -> float:
        self.asked += 1
        return sum(self.harms.get(name, 0.001) for name in self.names if name not in kept)


def test_only_the_layers_that_matter_keep_a_higher_precision() -> None:
    layers = network(20)
    drift = Drift(layers, {"layer.007": 0.3, "layer.013": 0.2})
    found = sensitivity.sweep(layers, drift, 0.02)
    assert found.kept == ("layer.007", "layer.013")
    assert found.loss <= 0.02


@pytest.mark.parametrize("harmful", range(48))
def test_the_worst_layers_are_found_whatever_their_number_in_fewer_trials_where_they_are_few(harmful: int) -> None:
    """The same layers as by trying each alone: the most harmful, in the order of their harm."""
    layers, draw = network(47), random.Random(harmful)
    worst = draw.sample(layers, min(harmful, len(layers)))
    harms = {name: 0.0 for name in layers} | {name: draw.uniform(0.1, 0.5) for name in worst}
    drift = Drift(layers, harms)
    found = sensitivity.sweep(layers, drift, 0.05)
    assert found.kept == tuple(sorted(worst, key=lambda name: -harms[name]))
    assert drift.asked <= (25 if harmful <= 2 else 1.5 * len(layers) + 14)


def test_a_network_of_three_hundred_layers_costs_as_many_trials_as_one_of_sixty() -> None:
    layers = network(300)
    drift = Drift(layers, {"layer.007": 0.3, "layer.213": 0.2})
    found = sensitivity.sweep(layers, drift, 0.301)
    assert {"layer.007", "layer.213"} <= set(found.kept)
    assert len(found.kept) <= 10  # the two, and neighbours that were tried with them
    assert found.loss <= 0.301
    assert drift.asked <= 1.5 * sensitivity.TRIALS + 12


def test_a_slow_search_says_how_far_it_is_and_a_quick_one_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, now = network(20), [0.0]
    drift = Drift(layers, {"layer.007": 0.3})
    monkeypatch.setattr(sensitivity.time, "monotonic", lambda: now[0])
    said: list[str] = []
    sensitivity.sweep(layers, drift, 0.02, progress=said.append)
    assert said == []

    def slowly(kept: Sequence[str]) -> float:
        now[0] += 1.5
        return drift(kept)

    sensitivity.sweep(layers, slowly, 0.02, progress=said.append)
    assert 5 <= len(said) <= 20  # a word for each two seconds, never one for each trial
    assert "of at most 30 trials, at most" in said[0]
