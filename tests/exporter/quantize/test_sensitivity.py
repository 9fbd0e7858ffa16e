"""The search for layers that need a higher precision: as few as will do, a bounded number of trials, and not mute."""

from __future__ import annotations

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


def test_a_network_of_three_hundred_layers_costs_as_many_trials_as_one_of_sixty() -> None:
    layers = network(300)
    drift = Drift(layers, {"layer.007": 0.3, "layer.213": 0.2})
    found = sensitivity.sweep(layers, drift, 0.301)
    assert {"layer.007", "layer.213"} <= set(found.kept)
    assert len(found.kept) <= 10  # the two, and neighbours that were tried with them
    assert found.loss <= 0.301
    assert drift.asked <= sensitivity.TRIALS + 12


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
    assert 8 <= len(said) <= 20  # a word for each two seconds, never one for each trial
    assert "of 20, about" in said[0]
