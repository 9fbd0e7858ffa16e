"""Budgets that hold: memory, disk, battery, temperature and hours end the work, and what was done is kept."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.device.resources.budget import Budget, read_weekly_hours
from homeroom.errors import InputError, TrainError
from homeroom.system import hardware
from homeroom.train.settings import Settings

LONG = Settings(epochs=3000, patience=9000)


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(20, 0)))
        yield opened


def at(text: str) -> datetime.datetime:
    """A moment of the week of Monday 2026-11-23: `mon 08:00`."""
    day, clock = text.split()
    number = ("mon", "tue", "wed", "thu", "fri", "sat", "sun").index(day)
    hour, minute = map(int, clock.split(":"))
    return datetime.datetime(2026, 11, 23 + number, hour, minute)


@pytest.mark.parametrize(
    ("span", "inside", "outside"),
    [
        ("mon-fri 08:00-15:30", ["mon 08:00", "fri 15:29"], ["mon 07:59", "fri 15:30", "sat 10:00"]),
        ("22:00-06:00", ["sun 23:00", "mon 05:59"], ["mon 06:00", "wed 12:00"]),
        ("fri 22:00-06:00", ["fri 22:00", "sat 05:00"], ["fri 05:00", "sat 22:00"]),
        ("sat-mon 09:00-12:00", ["sat 09:00", "sun 10:00", "mon 11:00"], ["tue 10:00", "fri 10:00"]),
    ],
)
def test_a_span_of_hours_holds_on_its_days(span: str, inside: list[str], outside: list[str]) -> None:
    found = read_weekly_hours(span)
    assert all(found.holds(at(moment)) for moment in inside)
    assert not any(found.holds(at(moment)) for moment in outside)


@given(st.text(max_size=25))
def test_whatever_is_not_a_span_is_one_clear_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert read_weekly_hours(text).days


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("power", hardware.Power(0.12, False), "battery is at 12%"),
        ("celsius", 91.0, "91 °C"),
        ("disk_free", 5_000_000, "only 5 MB of disk"),
    ],
)
def test_it_does_not_begin_where_the_machine_has_no_room(
    device: Device, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, said: str
) -> None:
    monkeypatch.setattr(hardware, name, lambda *_: value)
    with pytest.raises(TrainError, match=said):
        device.train()
    assert device.status()["versions"] == 0


def test_a_weak_battery_that_is_plugged_in_trains(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "power", lambda *_: hardware.Power(0.12, True))
    assert device.train(epochs=1).finished


def test_quiet_hours_keep_it_from_training(device: Device) -> None:
    with pytest.raises(TrainError, match="quiet hours"):
        device.train(budget=Budget(quiet=(read_weekly_hours("00:00-23:59"), read_weekly_hours("23:59-00:00"))))


LIMITS = [
    ("--battery=50", "the battery is at 40% and not plugged in"),
    ("--celsius=60", "the processor is at 70 °C"),
    ("--free-megabytes=2000000", "only 1000000 MB of disk are free"),
    ("--quiet=00:00-23:59", "these are quiet hours"),
]


@pytest.mark.parametrize(("limit", "said"), LIMITS)
def test_each_limit_can_be_set_where_a_training_or_the_agent_is_started(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: str, said: str
) -> None:
    monkeypatch.setattr(hardware, "power", lambda *_: hardware.Power(0.4, False))
    monkeypatch.setattr(hardware, "celsius", lambda *_: 70.0)
    monkeypatch.setattr(hardware, "disk_free", lambda *_: 10**12)
    place = str(device.store.directory)
    device.close()
    for command in (["train", place, "--epochs=1"], ["run", place, "--once", "--no-page"]):
        more = ["--quiet=23:59-00:00"] if "quiet" in limit else []
        with contextlib.suppress(SystemExit):
            main(["device", *command, limit, *more])
        told = capsys.readouterr()
        assert said in told.out + told.err, command
    with contextlib.suppress(SystemExit):
        main(["device", "train", place, "--epochs=1", "--threads=1", "--battery=40", "--celsius=70", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["epochs"], report["plan"]["threads"]) == (1, 1)


def test_a_machine_that_gets_hot_ends_the_training_and_keeps_what_was_learned(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(hardware, "celsius", lambda *_: 99.0 if steps.count("training") > 30 else 40.0)
    monkeypatch.setattr("homeroom.device.resources.budget.CHECK_INTERVAL_S", 0.0)
    report = device.train(minutes=5, settings=LONG, progress=lambda stage, *_: steps.append(stage))
    assert (report.finished, report.stopped) == (False, "the processor is at 99 °C")
    assert device.status()["training_unfinished"]
    assert steps.count("training") == 31
    steps.clear()
    assert device.train(minutes=0.3 / 60, settings=LONG).resumed


def test_memory_that_is_spent_ends_the_training(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.train(epochs=1)
    held = hardware.resident()
    answers = iter([held] * 40)
    monkeypatch.setattr(hardware, "peak_resident", lambda: next(answers, held + 500_000_000))
    monkeypatch.setattr(hardware, "forget_peak", lambda: True)
    monkeypatch.setattr("homeroom.device.plan.measure_costs", lambda *_: None)
    report = device.train(minutes=5, megabytes=held / 1e6 + 100, settings=LONG)
    assert not report.finished
    assert "MB of memory" in report.stopped
    assert report.epochs >= 1


def test_a_budget_that_ends_before_any_features_says_so(device: Device) -> None:
    with pytest.raises(TrainError, match="minutes are over; the features that were computed are kept"):
        device.train(minutes=1e-9)


def test_memory_that_is_spent_among_the_features_is_an_error_that_keeps_them(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeroom.device.plan.measure_costs", lambda *_: None)
    with pytest.raises(TrainError, match=r"features that were computed are kept"):
        device.train(megabytes=(hardware.resident()) / 1e6 - 10)
    assert device.train(epochs=1).finished


def test_memory_that_the_system_refuses_is_one_sentence(
    device: Device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device.train(epochs=1)

    class Refusing:
        def run(self, *_: Any) -> None:
            raise RuntimeError("bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 2359296")

    (graph,) = device.graphs.steps("grad")[:1]
    loaded: Any = device.graphs.loaded(graph)
    monkeypatch.setattr(loaded, "_session", Refusing())
    with pytest.raises(TrainError, match="memory ran out"):
        loaded({})
    monkeypatch.setattr(Device, "train", lambda *_, **__: bytearray(1 << 62))
    directory = str(device.store.directory)
    device.close()
    with pytest.raises(SystemExit) as ended:
        main(["device", "train", directory])
    assert ended.value.code == 9
    assert "memory ran out" in capsys.readouterr().err


WITHIN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
from homeroom import Device
with Device.open(sys.argv[1], threads=1) as device:
    report = device.train(minutes=2, epochs=2)
print(report.epochs, report.finished, report.megabytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_it_trains_where_a_process_may_have_512_megabytes_of_addresses(device: Device, tmp_path: Path) -> None:
    device.close()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, "-c", WITHIN, str(tmp_path / "device")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    epochs, finished, megabytes = done.stdout.split()
    assert (epochs, finished) == ("2", "True")
    assert 20 < float(megabytes) < 512
