"""Rounds over their log: releases, staleness, unlearning, restarts and rebuilding, bit for bit."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aggregator.institution import START, School, make_folder
from homeroom.contract.version import read_version
from homeroom.errors import DiskFullError, InputError, StoreError, UpdateError
from homeroom_aggregator.admin.folder import create_folder, open_rounds, read_facts
from homeroom_aggregator.merge.replay import replay
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.members import StoredInvitation

A, B, C = School(), School(), School()


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    opened = open_rounds(make_folder(tmp_path))
    yield opened
    opened.close()


def send(rounds: Rounds, school: School, delta: float, base: int | None = None) -> str:
    base = rounds.state.version if base is None else base
    return rounds.update(school.update(rounds.configuration, delta, base), school.name)[0]


def theta(rounds: Rounds, version: int) -> np.ndarray:
    body = rounds.version(version)
    assert body is not None
    bundle, root = rounds.bundle, read_facts(rounds.log.database.path.parent).root
    return read_version(body, bundle.manifest.layout, bundle_id=bundle.bundle_id, root_fingerprint=root)[1]


def test_every_full_buffer_makes_a_version(rounds: Rounds) -> None:
    for expected in (1, 2, 3):
        send(rounds, A, 0.5)
        send(rounds, B, 0.25)
        assert rounds.state.version == expected
    np.testing.assert_array_equal(theta(rounds, 3)[:7], START[:7] + np.float32(3 * 0.375))


def test_a_full_buffer_of_one_device_waits_for_a_second(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, buffer_size=1))
    send(rounds, A, 0.5)
    assert rounds.state.version == 0
    send(rounds, B, 0.5)
    assert rounds.state.version == 1
    rounds.close()


def test_a_device_counts_once_for_a_version_whatever_its_key_and_however_late(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    rounds = open_rounds(folder)
    first, renewed = School(), School()
    rounds.members.join(first.name, StoredInvitation("code"))

    def refused(school: School, base: int) -> None:
        before = rounds.facts()
        with pytest.raises(UpdateError) as caught:
            rounds.update(school.update(rounds.configuration, 0.25, base), school.name, first.name)
        assert (caught.value.code, rounds.facts()) == ("once_a_version", before)

    sent = send(rounds, first, 0.5)
    refused(first, 0)  # while it waits
    rounds.members.rotate(first.name, renewed.name)
    refused(renewed, 0)
    send(rounds, B, 0.5)
    refused(first, 0)  # when it was released
    rounds.close()
    rounds = open_rounds(folder)
    refused(first, 0)  # after a restart
    assert send(rounds, first, 0.5, base=1)
    rounds.withdraw(sent, first.name)
    assert send(rounds, first, 0.25, base=0), "the one before was taken back"
    refused(first, 0)
    refused(first, 1)
    assert rounds.verify() == []
    rounds.close()


def test_what_was_sent_on_a_version_is_remembered_as_long_as_it_may_be_sent(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, max_staleness=2))
    for _ in range(6):
        send(rounds, A, 0.125)
        send(rounds, B, 0.125)
    assert rounds.log.database.one("SELECT min(base), count(*) FROM bases") == (4, 4)
    rounds.close()


def test_a_base_that_was_never_released_or_is_too_old_is_refused(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, max_staleness=1))
    with pytest.raises(UpdateError) as caught:
        send(rounds, A, 0.5, base=7)
    assert caught.value.code == "unknown_version"
    for _ in range(2):
        send(rounds, A, 0.5)
        send(rounds, B, 0.5)
    with pytest.raises(UpdateError) as caught:
        send(rounds, C, 0.5, base=0)
    assert caught.value.code == "too_stale"
    assert rounds.state.pending == 0
    rounds.close()


def test_an_outrageous_update_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, max_norm=1.0))
    send(rounds, A, 0.3)
    before = rounds.facts()
    with pytest.raises(UpdateError) as caught:
        send(rounds, B, 3.0)
    assert caught.value.code == "too_large"
    assert rounds.facts() == before
    rounds.close()


def test_one_id_belongs_to_one_device(rounds: Rounds) -> None:
    from homeroom.contract.update import make_update

    layout, configuration = rounds.rules.layout, rounds.configuration
    first, second = (
        make_update(s.key, configuration, layout, np.ones(10, np.float32), {"head.grade": 2}, 0, update_id="a" * 32)
        for s in (A, B)
    )
    rounds.update(first, A.name)
    with pytest.raises(UpdateError, match="another device"):
        rounds.update(second, B.name)


def test_a_restart_finds_the_very_same_state(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    rounds = open_rounds(folder)
    send(rounds, A, 0.5)
    send(rounds, B, 0.25)
    send(rounds, C, 0.125)
    before = rounds.state
    rounds.close()
    again = open_rounds(folder)
    assert again.state.theta.tobytes() == before.theta.tobytes()
    assert (again.state.version, again.state.pending) == (before.version, before.pending)
    assert again.state.sums.weights == before.sums.weights
    again.close()


def test_any_version_can_be_computed_again_bit_for_bit(rounds: Rounds) -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        for school in (A, B, C):
            late = max(0, rounds.state.version - int(rng.integers(2)))
            fresh = rounds.log.sent_on(school.name, late) is None
            send(rounds, school, float(rng.normal()), base=late if fresh else rounds.state.version)
    assert rounds.state.version >= 6
    assert rounds.verify() == []


def test_a_version_that_was_altered_in_the_file_is_found(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    rounds = open_rounds(folder)
    send(rounds, A, 0.5)
    send(rounds, B, 0.25)
    send(rounds, A, 0.5)
    send(rounds, B, 0.75)
    rounds.close()
    raw = sqlite3.connect(folder / "log.db", isolation_level=None)
    raw.execute("UPDATE versions SET body = (SELECT body FROM versions WHERE version = 2) WHERE version = 1")
    raw.close()
    again = open_rounds(folder)
    assert again.verify() == ["version 1 is not what the log gives"]
    again.close()


def test_an_update_withdrawn_while_it_waits_never_counts(rounds: Rounds) -> None:
    gone = send(rounds, A, 3.0)
    assert rounds.withdraw(gone, A.name)
    assert rounds.state.pending == 0
    send(rounds, B, 0.5)
    assert rounds.state.version == 0
    send(rounds, C, 0.5)
    np.testing.assert_array_equal(theta(rounds, 1)[:7], START[:7] + np.float32(0.5))
    assert rounds.verify() == []


def test_the_next_version_lacks_an_update_that_was_withdrawn_after_its_release(rounds: Rounds) -> None:
    gone = send(rounds, A, 3.0)
    send(rounds, B, 0.25)
    send(rounds, C, 0.25)
    assert rounds.state.version == 1
    rounds.withdraw(gone, A.name)
    assert rounds.state.version == 1, "no version of its own: the difference would show the withdrawn update"
    send(rounds, B, 0.5)
    send(rounds, C, 0.5)
    assert rounds.state.version == 2
    without = replay(rounds.log.entries, rounds.rules, without=frozenset({gone}))
    assert theta(rounds, 2).tobytes() == without.theta.tobytes()
    assert np.abs(theta(rounds, 2)[:7] - START[:7]).max() < 1.0
    assert rounds.verify() == []


def test_unlearning_survives_a_restart(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    rounds = open_rounds(folder)
    gone = send(rounds, A, 3.0)
    send(rounds, B, 0.25)
    rounds.withdraw(gone, A.name)
    theta_now = rounds.state.theta.tobytes()
    rounds.close()
    again = open_rounds(folder)
    assert again.state.theta.tobytes() == theta_now
    assert again.verify() == []
    again.close()


def test_withdrawing_an_unknown_id_is_quiet_and_keeps_it_out(rounds: Rounds) -> None:
    data = A.update(rounds.configuration)
    from homeroom.contract.update_checks import read_update

    update_id = read_update(data, rounds.configuration, rounds.rules.layout).header.update_id
    assert rounds.withdraw(update_id, A.name)
    assert rounds.update(data, A.name) == (update_id, "already")
    assert rounds.state.pending == 0


def test_nobody_withdraws_anothers_update(rounds: Rounds) -> None:
    theirs = send(rounds, A, 0.5)
    assert not rounds.withdraw(theirs, B.name)
    assert rounds.state.pending == 1
    assert rounds.log.count("withdraw") == 0


def test_a_failed_write_leaves_the_state_as_it_was(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    send(rounds, A, 0.5)
    before = rounds.facts()

    def full(*_: object) -> None:
        raise DiskFullError("no space left")

    monkeypatch.setattr(rounds.log, "put_version", full)
    with pytest.raises(DiskFullError):
        send(rounds, B, 0.5)
    assert rounds.facts() == before
    monkeypatch.undo()
    send(rounds, B, 0.5)
    assert rounds.state.version == 1
    assert rounds.verify() == []


def test_a_log_belongs_to_one_configuration(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    open_rounds(folder).close()
    facts = (folder / "aggregator.json").read_text()
    (folder / "aggregator.json").write_text(facts.replace('"buffer_size": 2', '"buffer_size": 3'))
    with pytest.raises(StoreError, match="another bundle or round"):
        open_rounds(folder)


def test_a_damaged_log_is_said_so(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    rounds = open_rounds(folder)
    send(rounds, A, 0.5)
    rounds.close()
    data = bytearray((folder / "log.db").read_bytes())
    data[100:4096] = bytes(3996)
    (folder / "log.db").write_bytes(data)
    with pytest.raises(StoreError):
        open_rounds(folder)


def test_a_folder_is_made_once_and_only_with_a_certified_key(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with pytest.raises(InputError, match="already"):
        make_folder(tmp_path)
    with pytest.raises(InputError, match="root certified"):
        create_folder(tmp_path / "other", tmp_path / "bundle", institution="x")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="--bundle"):
        read_facts(folder)
