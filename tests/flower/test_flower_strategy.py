"""The Flower strategy and ClientApp with real devices, a function call in the place of SuperLink and SuperNodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

pytest.importorskip("flwr")

from flwr.app import ConfigRecord

from flower.lessons import by_our_own_server, classrooms, copies, district, invitations, result
from flower.loop import Loop
from homeroom import Device
from homeroom.contract.secagg import SecureRules
from homeroom.errors import InputError, NetworkError
from homeroom.runtime.bundle import open_bundle
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.flower.client import app
from homeroom_aggregator.flower.strategy import AggregatorStrategy

TOLD = ConfigRecord({"minutes": 5.0, "epochs": 1})


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def configs(rooms: list[Path], invited: list[Path]) -> list[dict[str, Any]]:
    return [{"device": str(room), "invitation": str(i)} for room, i in zip(rooms, invited, strict=True)]


def run(folder: Path, grid: Loop, rounds: int, nodes: int = 2) -> Any:
    said: list[str] = []
    with AggregatorStrategy(folder, last=rounds, nodes=nodes, wait_s=1, tell=said.append) as strategy:
        return strategy.start(grid, strategy.arrays, num_rounds=rounds, train_config=TOLD), said


def test_flower_and_our_own_server_end_in_the_same_theta_bit_for_bit(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    rooms = classrooms(tmp_path / "rooms", tiny_bundle)
    twins = copies(rooms, tmp_path / "twins")

    over_flower = district(tmp_path / "over-flower", tiny_bundle)
    grid = Loop(app, configs(rooms, invitations(over_flower, tmp_path / "invited", "http://nowhere.example")))
    found, said = run(over_flower, grid, rounds=3)  # the first enrols, two train
    version, theta = result(over_flower)
    assert version == 2
    np.testing.assert_array_equal(found.arrays.to_numpy_ndarrays()[0], theta)
    assert "accepted 2" in said[-1]

    ours = by_our_own_server(twins, tmp_path / "over-http", tiny_bundle, trainings=2)
    np.testing.assert_array_equal(ours, theta)
    assert not np.array_equal(theta, open_bundle(tiny_bundle.path, root=tiny_bundle.root).theta())
    for room in rooms:
        with Device.open(room) as device:
            assert device.status()["global_version"] == 2
            assert device.status()["updates_waiting"] == 0


def test_what_passes_through_flower_shows_no_update(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    rooms = classrooms(tmp_path / "rooms", tiny_bundle)
    folder = district(tmp_path / "district", tiny_bundle)
    grid = Loop(app, configs(rooms, invitations(folder, tmp_path / "invited", "http://nowhere.example")))
    run(folder, grid, rounds=2)
    rounds = open_rounds(folder)
    bodies = [entry.body for entry in rounds.log.entries() if entry.kind == "update"]
    rounds.close()
    assert len(bodies) == 2
    passed = b"".join(grid.seen)
    for body in bodies:
        assert body[-64:] not in passed
        assert body[200:232] not in passed
    assert b"HRUPDAT1" not in passed


def test_a_node_that_fails_does_not_hold_up_the_others(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    rooms = classrooms(tmp_path / "rooms", tiny_bundle)
    folder = district(tmp_path / "district", tiny_bundle, buffer_size=1, min_devices=1)
    asked = configs(rooms, invitations(folder, tmp_path / "invited", "http://nowhere.example"))
    grid = Loop(app, asked, broken={2})
    _, said = run(folder, grid, rounds=2)
    assert result(folder)[0] == 1
    assert any("switched off" in line for line in said)


def test_a_stranger_changes_nothing_and_is_told_why(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    rooms = classrooms(tmp_path / "rooms", tiny_bundle)
    ours, foreign = district(tmp_path / "ours", tiny_bundle), district(tmp_path / "foreign", tiny_bundle)
    grid = Loop(app, configs(rooms, invitations(foreign, tmp_path / "invited", "http://nowhere.example")))
    _, said = run(ours, grid, rounds=2)
    assert result(ours)[0] == 0
    assert any("the message was refused" in line for line in said)


def test_too_few_nodes_are_said_and_nothing_begins(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    folder = district(tmp_path / "district", tiny_bundle)
    with pytest.raises(NetworkError, match="0 of 2 nodes"):
        run(folder, Loop(app, []), rounds=1)


def test_secure_rounds_do_not_go_over_flower(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    folder = district(tmp_path / "district", tiny_bundle, secure=SecureRules(minimum=3, cohort=3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="secure or synchronous"):
        AggregatorStrategy(folder, last=1, nodes=1, wait_s=1, tell=print)
