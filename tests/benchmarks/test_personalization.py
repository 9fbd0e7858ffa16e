"""What the benchmark of personal models makes of its devices."""

from __future__ import annotations

import pytest

import personalization


def devices(own: list[float], shared: list[float], alone: list[float]) -> dict[str, list[float]]:
    return {"own": own, "shared": shared, "alone": alone}


def test_the_targets_of_personal_models_follow_from_the_devices() -> None:
    count = 100
    good = devices([0.9] * 85 + [0.7] * 15, [0.8] * count, [0.6] * count)
    assert [t["met"] for t in personalization.targets([good])] == [True, True, True]
    equal = devices([0.8] * count, [0.8] * count, [0.9] * count)
    few, share, gain = personalization.targets([equal])
    assert few["met"]
    assert (share["value"], share["met"], gain["met"]) == (0.0, False, False), "a tie is no gain"


def test_the_tenths_are_of_the_sorted_devices() -> None:
    found = personalization.summary([i / 100 for i in range(100)])
    assert found["worst tenth"] == pytest.approx(4.5)
    assert found["best tenth"] == pytest.approx(94.5)
    assert found["min"] == 0.0
