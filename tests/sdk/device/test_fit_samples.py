"""`fit`: samples in memory to theta, as a device would learn it, and nothing stored."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from homeroom import Budget, Consent, Device, Sample, Settings, fit
from homeroom.errors import InputError, TrainError

SETTINGS = Settings(epochs=2)


def test_theta_is_the_devices_own_bit_for_bit(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    samples = [Sample(**row) for row in tiny.samples(12, 0)]
    with Device.open(tmp_path / "device", tiny_bundle.path, threads=1) as device:
        device.add(*samples, gates=False)
        expected = device.store.versions.theta(device.train(settings=SETTINGS).version_id)
        start = device.bundle.theta()
    theta = fit(tiny_bundle.path, samples, SETTINGS, root=tiny_bundle.root, threads=1)
    assert theta.tobytes() == expected.tobytes() != start.tobytes()


def test_a_cancelled_fit_gives_what_it_has_and_wrong_values_are_refused(tiny_bundle: tiny.Tiny) -> None:
    words = [Sample(word=f"the {name}", labels={"category": name}) for name in tiny.ANIMALS]
    cancel = threading.Event()
    endless = Settings(epochs=100_000, patience=100_000)
    theta = fit(tiny_bundle.path, words, endless, threads=1, cancel=cancel, progress=lambda *_: cancel.set())
    assert np.isfinite(theta).all()
    for start in (theta[1:], theta.astype(np.float64), np.full_like(theta, np.nan)):
        with pytest.raises(InputError, match=r"start is not float32 \[\d+\] and finite"):
            fit(tiny_bundle.path, words, SETTINGS, start=start)
    with pytest.raises(TrainError, match="no sample has a label"):
        fit(tiny_bundle.path, [Sample(word="the cat")], SETTINGS, threads=1)


def test_who_refused_is_not_trained_on_and_no_day_is_too_late(tiny_bundle: tiny.Tiny) -> None:
    words = [Sample(word=f"the {name}", labels={"category": name}) for name in tiny.ANIMALS]
    refused = Sample(word="a dog", labels={"category": "cat"}, consent=Consent("refused", by="the father"))
    withdrawn = Sample(word="a fish", labels={"category": "cat"}, consent="withdrawn")
    expected = fit(tiny_bundle.path, words, SETTINGS, threads=1)
    assert fit(tiny_bundle.path, [refused, *words, withdrawn], SETTINGS, threads=1).tobytes() == expected.tobytes()
    with pytest.raises(TrainError, match="refused or withdrawn for all of 2 samples"):
        fit(tiny_bundle.path, [refused, withdrawn], SETTINGS, threads=1)
    with pytest.raises(InputError, match="2020-01-31 has passed"):
        fit(tiny_bundle.path, [*words, Sample(word="a dog", retain_until="2020-01-31")], SETTINGS, threads=1)
    with pytest.raises(InputError, match="samples is a str, and has to be a list"):
        fit(tiny_bundle.path, "lesson.jsonl", SETTINGS, threads=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"learning_rate": math.nan}, "learning_rate is nan, and has to be a number above 0"),
        ({"learning_rate": -1}, "learning_rate is -1, and has to be a number above 0"),
        ({"epochs": -1}, "epochs is -1, and has to be a whole number from 1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"validation": 2.0}, "validation is 2.0, and has to be a number from 0 to 1"),
        ({"seed": -1}, "seed is -1"),
        ({"task_weights": {"colour": 2.0}}, "task_weights is .* for some of category, "),
        ({"frozen": ("head.colour",)}, "frozen is .* a tuple of some of fusion, "),
        ({"nested": "yes", "balance": "1"}, "balance is '1', .*nested is 'yes', and has to be True or False"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(tiny_bundle: tiny.Tiny, values: dict[str, Any], says: str) -> None:
    words = [Sample(word=f"the {name}", labels={"category": name}) for name in tiny.ANIMALS]
    with pytest.raises(InputError, match=says):
        fit(tiny_bundle.path, words, Settings(**values), threads=1)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"minutes": math.nan}, "minutes is nan"),
        ({"minutes": "5"}, "minutes is '5', and has to be a number from 0"),
        ({"minutes": -1}, "minutes is -1"),
        ({"megabytes": 0}, "megabytes is 0, and has to be a number above 0, or None"),
        ({"threads": 0}, "threads is 0"),
        ({"battery": 30}, "battery is 30, and has to be a number from 0 to 1"),
        ({"quiet": "08:00-15:30"}, "quiet is .*tuple of WeeklyHours"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(limits: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Budget(**limits)


def test_what_a_device_cannot_train_by_changes_nothing(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, threads=1) as device:
        device.add(*[Sample(word=f"the {name}", labels={"category": name}) for name in tiny.ANIMALS])
        for options, says in (
            ({"settings": Settings(learning_rate=math.nan)}, "learning_rate"),
            ({"settings": {"epochs": 2}}, "settings is of type dict"),
            ({"epochs": 0}, "epochs is 0"),
            ({"minutes": "5"}, "minutes is '5'"),
            ({"budget": 5}, "budget is of type int"),
        ):
            with pytest.raises(InputError, match=says):
                device.train(**options)
        assert device.status().in_use == "bundle"
