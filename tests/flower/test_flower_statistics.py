"""Statistics over Flower's engine: the very integers that the devices' samples have, and the others' sums back."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("flwr")

from aggregator.institution import make_folder
from aggregator.server.test_statistics import others, teach
from aggregator.statistics_lesson import PLAIN

from flower.loop import Loop
from flower.test_flower_strategy import run
from homeroom import Device
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.sums import merge
from homeroom.errors import TrainError
from homeroom.federation import statistics
from homeroom_aggregator.admin.folder import make_invitations, open_rounds
from homeroom_aggregator.flower.client import app


def untrained(*_: Any, **__: Any) -> None:
    raise TrainError("a bundle without graphs")


def test_statistics_go_over_flower_as_the_same_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})
    monkeypatch.setattr(Device, "train", untrained)
    folder, rooms, nodes = make_folder(tmp_path, statistics=PLAIN), [], []
    for number in range(3):
        school = f"school {number}"
        consents = {school: "the head"}
        (invitation,) = make_invitations(folder, "http://nowhere.example", [(school, "device")], consents=consents)
        (tmp_path / f"{number}.json").write_bytes(msgspec.json.encode(invitation))
        rooms.append(tmp_path / f"room {number}")
        Device.open(rooms[-1], tmp_path / "bundle").close()
        nodes.append({"device": str(rooms[-1]), "invitation": str(tmp_path / f"{number}.json")})
    grid, taught = Loop(app, nodes), []
    run(folder, grid, rounds=1, nodes=3)  # enrols
    for number, room in enumerate(rooms):
        with Device.open(room) as device:
            taught.append(teach(device, *range(10 * number, 10 * number + 5)))
            statistics.agree(device.store, yes=True)
    run(folder, grid, rounds=1, nodes=3)
    with contextlib.closing(open_rounds(folder)) as rounds:
        total = rounds.statistics.totals.sum()
    assert encode(total) == encode(merge(one for sums in taught for one in sums.values()))
    for number, room in enumerate(rooms):
        with Device.open(room) as device:
            rest = merge(one for n, sums in enumerate(taught) if n != number for one in sums.values())
            assert encode(others(device)) == encode(rest)
