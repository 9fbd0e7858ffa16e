"""Going back to an older version: a newer number, the same bits, replayed from the log; nothing unlearned returns."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from aggregator.institution import START, School, make_folder
from homeroom.cli.main import homeroom
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import ServerOptimizer
from homeroom.contract.version import read_version
from homeroom.errors import InputError, StoreError
from homeroom.system.clock import now
from homeroom_aggregator.admin import backup
from homeroom_aggregator.admin.folder import open_rounds, read_facts
from homeroom_aggregator.merge import checkpoint, rounds
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.members import StoredInvitation

A, B, C = School(), School(), School()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Rounds]:
    found = open_rounds(make_folder(tmp_path))
    yield found
    found.close()


def send(found: Rounds, school: School, delta: float) -> str:
    return found.update(school.update(found.configuration, delta, found.state.version), school.name)[0]


def release(found: Rounds, delta: float) -> None:
    send(found, A, delta)
    send(found, B, delta)


def theta(found: Rounds, version: int, school: str = "") -> np.ndarray:
    body = found.version(version, school)
    assert body is not None
    root = read_facts(found.log.database.path.parent).root
    layout = found.rules.layout
    header, values = read_version(body, layout, bundle_id=found.bundle.bundle_id, root_fingerprint=root)
    assert header.version == version
    return values


def back(found: Rounds, to: int) -> int:
    return found.roll_back(to, "Ms Lee", "the schools report worse grades")


def test_an_older_theta_comes_back_under_a_newer_number(opened: Rounds) -> None:
    for delta in (0.5, 0.25, 8.0):
        release(opened, delta)
    assert back(opened, 2) == 4
    assert theta(opened, 4).tobytes() == theta(opened, 2).tobytes()
    release(opened, 0.25)
    np.testing.assert_array_equal(theta(opened, 5)[:7], START[:7] + np.float32(1.0))
    assert opened.verify() == []
    *_, entry = (e for e in audit.records(opened.log.database) if e.event == "rolled back")
    assert (entry.about["version"], entry.about["to"], entry.about["by"]) == (4, 2, "Ms Lee")


def test_the_bundles_own_theta_can_be_gone_back_to(opened: Rounds) -> None:
    release(opened, 0.5)
    assert back(opened, 0) == 2
    assert theta(opened, 2).tobytes() == START.tobytes()
    assert opened.verify() == []


def test_what_waits_goes_on_waiting(opened: Rounds) -> None:
    release(opened, 0.5)
    send(opened, C, 0.25)
    back(opened, 0)
    assert opened.state.pending == 1
    send(opened, A, 0.25)
    np.testing.assert_array_equal(theta(opened, 3)[:7], START[:7] + np.float32(0.25))
    assert opened.verify() == []


def test_a_restart_from_a_checkpoint_on_either_side_gives_the_same_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path)
    for every in (1, 4, 1000):  # before and after the rollback, between it and its target, and none at all
        monkeypatch.setattr(rounds, "CHECKPOINT_ENTRIES", every)
        found = open_rounds(folder)
        target = found.state.version + 1
        for delta in (0.5, 0.25):
            release(found, delta)
        back(found, target)
        send(found, C, 0.125)
        before = checkpoint.pack(found.state)
        found.close()
        again = open_rounds(folder)
        assert checkpoint.pack(again.state) == before
        assert again.verify() == []
        again.close()


def test_an_update_unlearned_later_leaves_the_version_that_was_gone_back_to(opened: Rounds) -> None:
    gone = send(opened, A, 3.0)
    send(opened, B, 0.25)
    release(opened, 1.0)
    assert back(opened, 1) == 3
    opened.withdraw(gone, A.name)
    release(opened, 0.5)
    assert opened.verify() == []
    # version 1 without the withdrawn update is B's 0.25 alone, and waits for a second device: what is left is version 0
    assert np.abs(theta(opened, 4)[:7] - START[:7]).max() < 1.0


def test_nobody_goes_back_to_what_holds_an_unlearned_update(opened: Rounds) -> None:
    release(opened, 0.5)
    gone = send(opened, A, 3.0)
    send(opened, B, 0.25)
    release(opened, 0.5)
    opened.withdraw(gone, A.name)
    before = checkpoint.pack(opened.state)
    with pytest.raises(InputError, match="unlearned"):
        back(opened, 2)
    assert checkpoint.pack(opened.state) == before
    assert back(opened, 1) == 4
    assert theta(opened, 4).tobytes() == theta(opened, 1).tobytes()
    assert opened.verify() == []


@pytest.mark.parametrize(
    ("to", "by", "why"),
    [(1, "x", "y"), (-1, "x", "y"), (9, "x", "y"), (0, "", "y"), (0, "x", " "), (0, "x", "y" * 201)],
)
def test_a_wrong_wish_changes_nothing(opened: Rounds, to: int, by: str, why: str) -> None:
    release(opened, 0.5)
    before = opened.facts()
    with pytest.raises(InputError):
        opened.roll_back(to, by, why)
    assert opened.facts() == before
    assert opened.log.count("rollback") == 0


def test_the_servers_momentum_does_not_lead_there_again(tmp_path: Path) -> None:
    found = open_rounds(make_folder(tmp_path, optimizer=ServerOptimizer(name="fedavgm", beta1=0.9)))
    release(found, 0.5)
    back(found, 0)
    assert found.state.moments == {}
    release(found, 0.25)
    np.testing.assert_allclose(theta(found, 3)[:7], START[:7] + 0.25, atol=1e-6)
    assert found.verify() == []
    found.close()


def test_going_back_costs_no_privacy(tmp_path: Path) -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=12.0, delta=1e-5)
    found = open_rounds(make_folder(tmp_path, privacy=promise))
    release(found, 0.1)
    release(found, 0.1)
    assert found.ledger
    spent = found.ledger.spent()
    assert back(found, 1) == 3
    assert theta(found, 3).tobytes() == theta(found, 1).tobytes()
    assert found.ledger.spent() == spent
    assert found.verify() == []
    found.close()


def test_a_stream_of_private_releases_goes_on_after_it(tmp_path: Path) -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=12.0, delta=1e-5, bands=3)
    found = open_rounds(make_folder(tmp_path, privacy=promise))
    release(found, 0.1)
    for school in (C, School()):
        send(found, school, 0.1)
    assert back(found, 1) == 3
    release(found, 0.1)
    assert found.state.version == 4
    assert found.verify() == []
    found.close()


def test_going_back_after_a_backup_was_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To versions of before and after the restore; devices see higher numbers only, and the log still proves each."""
    folder = make_folder(tmp_path)
    found = open_rounds(folder)
    for delta in (0.5, 0.25):
        release(found, delta)
    back(found, 1)
    found.close()
    backup.backup(folder, tmp_path / "saved")
    backup.restore(tmp_path / "saved", tmp_path / "again")
    found = open_rounds(tmp_path / "again")
    restored = found.state.version
    assert theta(found, restored).tobytes() == theta(found, 1).tobytes()
    assert back(found, 2) == restored + 1
    assert theta(found, restored + 1).tobytes() == theta(found, 2).tobytes()
    release(found, 0.125)
    assert back(found, restored) == restored + 3
    assert theta(found, restored + 3).tobytes() == theta(found, 1).tobytes()
    before = checkpoint.pack(found.state)
    assert found.verify() == []
    found.close()
    backup.backup(tmp_path / "again", tmp_path / "later")
    found = open_rounds(tmp_path / "again")
    assert checkpoint.pack(found.state) == before
    assert found.verify() == []
    found.close()
    later = now() + datetime.timedelta(hours=1)
    monkeypatch.setattr(backup, "now", lambda: later)
    backup.restore(tmp_path / "later", tmp_path / "third")
    found = open_rounds(tmp_path / "third")
    assert theta(found, found.state.version).tobytes() == theta(found, 1).tobytes()
    assert found.verify() == []
    found.close()


def test_what_schools_own_stays_as_it_is_and_goes_on_from_there(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, by_school=True, scopes={"head.grade": "institution"})
    found = open_rounds(folder)
    for school in (A, B):
        found.members.join(school.name, StoredInvitation(school.name, school="Hill"))

    def hill(version: int) -> np.ndarray:
        return theta(found, version, "Hill")

    for delta in (0.5, 0.25):
        release(found, delta)
    assert back(found, 1) == 3
    np.testing.assert_array_equal(hill(3)[:4], START[:4] + np.float32(0.5), "what all share went back")
    np.testing.assert_array_equal(hill(3)[4:7], START[4:7] + np.float32(0.75), "what is the school's did not")
    assert theta(found, 3).tobytes() == theta(found, 1).tobytes()
    release(found, 0.125)
    np.testing.assert_array_equal(hill(4)[:4], START[:4] + np.float32(0.625))
    np.testing.assert_array_equal(hill(4)[4:7], START[4:7] + np.float32(0.875))
    before = checkpoint.pack(found.state)
    assert found.verify() == []
    found.close()
    found = open_rounds(folder)
    assert checkpoint.pack(found.state) == before
    assert found.verify() == []
    found.close()


def test_a_version_that_is_kept_no_more_is_not_gone_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "CHECKPOINT_ENTRIES", 2)
    folder = make_folder(tmp_path)
    found = open_rounds(folder, retain=2)
    for _ in range(8):
        release(found, 0.125)
    with pytest.raises(InputError, match="not kept"):
        back(found, 1)
    back(found, found.state.version - 1)
    for _ in range(4):  # the target is left behind by the base, the rollback is not lost with it
        release(found, 0.125)
    assert found.verify() == []
    found.close()


def test_an_altered_rollback_is_found(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    found = open_rounds(folder)
    release(found, 0.5)
    back(found, 0)
    found.log.database.write("UPDATE bodies SET body = substr(body, 1, 20) WHERE number = ?", (found.log.last(),))
    with pytest.raises(StoreError, match="rollback is damaged"):
        found.verify()
    found.close()


def test_on_the_command_line_while_the_server_is_stopped(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    found = open_rounds(folder)
    release(found, 0.5)
    asked = ["district", "go-back", str(folder), "0", "--by", "Ms Lee", "--why", "worse"]
    refused = CliRunner().invoke(homeroom, asked)
    assert isinstance(refused.exception, StoreError)
    found.close()
    done = CliRunner().invoke(homeroom, asked)
    assert done.exit_code == 0, done.output
    assert "version 2" in done.output
    again = open_rounds(folder)
    assert theta(again, 2).tobytes() == START.tobytes()
    again.close()
