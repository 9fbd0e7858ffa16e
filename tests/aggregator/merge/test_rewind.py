"""Rewinding: what was learned since an update that is unlearned is void, and its bytes are nowhere."""

from __future__ import annotations

import datetime
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.institution import START, School, make_folder
from aggregator.merge.test_crashes import PLACES, dying
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration, UnlearningRules
from homeroom.contract.version import VersionHeader, read_version
from homeroom.errors import InputError, UpdateError
from homeroom.system import clock
from homeroom_aggregator.admin import backup
from homeroom_aggregator.admin.folder import open_rounds, read_facts
from homeroom_aggregator.merge import checkpoint, rounds
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import audit, rewinds
from homeroom_aggregator.state.members import StoredInvitation

A, B, C = School(), School(), School()
RULES = UnlearningRules(rule="rewind", within_days=30, most_versions=3)


def folder_of(path: Path, **fields: object) -> Path:
    return make_folder(path, unlearning=RULES, **fields)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Rounds]:
    found = open_rounds(folder_of(tmp_path))
    yield found
    found.close()


def send(found: Rounds, school: School, delta: float) -> str:
    return found.update(school.update(found.configuration, delta, found.state.version), school.name)[0]


def release(found: Rounds, delta: float) -> None:
    send(found, A, delta)
    send(found, B, delta)


def served(found: Rounds, version: int) -> tuple[VersionHeader, np.ndarray]:
    body = found.version(version)
    assert body is not None
    root = read_facts(found.log.database.path.parent).root
    return read_version(body, found.rules.layout, bundle_id=found.bundle.bundle_id, root_fingerprint=root)


def test_the_state_of_before_goes_on_and_what_came_since_is_void(opened: Rounds) -> None:
    release(opened, 0.5)
    gone = send(opened, A, 8.0)
    send(opened, B, 0.5)
    release(opened, 0.25)
    send(opened, C, 0.125)  # waits, and was learned on a version that becomes void
    assert opened.withdraw(gone, A.name)
    assert opened.state.version == 3, "nothing happens before the day"
    planned = opened.to_unlearn()
    assert planned is not None
    assert (planned.to, planned.versions, planned.updates, planned.update_ids) == (1, 2, 4, (gone,))
    assert opened.rewind(by="Ms Lee", why="asked") == 4
    header, theta = served(opened, 4)
    np.testing.assert_array_equal(theta, served(opened, 1)[1])
    assert header.void == ((2, 3),)
    assert opened.state.pending == 0
    assert opened.version(2) is None
    assert opened.version(3) is None
    with pytest.raises(UpdateError, match="is of before a restore or a rewind"):
        opened.update(C.update(opened.configuration, 0.5, 3), C.name)
    with pytest.raises(InputError, match="is void"):
        opened.roll_back(2, "Ms Lee", "back")
    release(opened, 0.25)
    np.testing.assert_array_equal(served(opened, 5)[1][:7], START[:7] + np.float32(0.75))
    assert served(opened, 5)[0].void == ((2, 3),), "who was away learns of it too"
    assert opened.verify() == []
    assert opened.to_unlearn() is None
    assert opened.rewind() == 5, "nothing waits"
    *_, entry = (e for e in audit.records(opened.log.database) if e.event == "rewound")
    assert (entry.about["to"], entry.about["unlearned"], entry.about["void"]) == (1, 1, 4)


def test_a_restart_gives_the_same_state_wherever_checkpoints_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path)
    for every in (1, 3, 1000):
        monkeypatch.setattr(rounds, "CHECKPOINT_ENTRIES", every)
        found = open_rounds(folder)
        release(found, 0.5)
        gone = send(found, A, 3.0)
        send(found, B, 0.25)
        found.withdraw(gone, A.name)
        found.rewind()
        send(found, C, 0.125)
        before = checkpoint.pack(found.state)
        found.close()
        found = open_rounds(folder)
        assert checkpoint.pack(found.state) == before
        assert found.verify() == []
        send(found, A, 0.125)
        found.close()


def test_no_byte_of_a_void_update_is_left(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    found = open_rounds(folder)
    release(found, 0.5)
    bodies = [school.update(found.configuration, 3.0, 1) for school in (A, B)]
    ids = [found.update(body, school.name)[0] for body, school in zip(bodies, (A, B), strict=True)]
    found.withdraw(ids[0], A.name)
    version = found.version(2)
    assert version is not None
    found.rewind()
    backup.backup(folder, tmp_path / "copy")
    paths = [*folder.rglob("*"), *(tmp_path / "copy").rglob("*")]  # while it is open: the write-ahead log is there too
    assert any(path.name.endswith("-wal") for path in paths)
    for path in paths:
        data = path.read_bytes() if path.is_file() else b""
        for body in (*bodies, version):
            assert body[-40:] not in data, path
    found.close()


def test_requests_share_one_rewind_at_its_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_rounds(folder_of(tmp_path))
    first = send(found, A, 1.0)
    second = send(found, B, 1.0)
    found.withdraw(second, B.name)
    today = clock.now()
    monkeypatch.setattr("homeroom_aggregator.merge.rounds.now", lambda: today + datetime.timedelta(days=29))
    found.rewind_if_due()
    found.withdraw(first, A.name)
    assert found.state.version == 1
    monkeypatch.setattr("homeroom_aggregator.merge.rounds.now", lambda: today + datetime.timedelta(days=31))
    found.rewind_if_due()
    assert found.state.version == 2
    np.testing.assert_array_equal(found.state.theta, START)
    found.rewind_if_due()
    assert found.state.version == 2
    for _ in range(3):
        release(found, 0.5)
    gone = send(found, A, 1.0)
    send(found, B, 1.0)
    for _ in range(3):
        release(found, 0.5)
    found.withdraw(gone, A.name)
    monkeypatch.setattr("homeroom_aggregator.merge.rounds.now", lambda: today + datetime.timedelta(days=400))
    found.rewind_if_due()
    assert found.state.version == 9, "four versions would become void: a person decides"
    assert found.rewind(by="Ms Lee") == 10
    assert served(found, 10)[0].void == ((1, 1), (6, 9))
    found.close()


def test_what_waits_is_taken_out_at_once_and_nothing_is_rewound(opened: Rounds) -> None:
    release(opened, 0.5)
    gone = send(opened, A, 8.0)
    opened.withdraw(gone, A.name)
    assert opened.to_unlearn() is None
    release(opened, 0.25)
    np.testing.assert_array_equal(served(opened, 2)[1][:7], START[:7] + np.float32(0.75))


def test_who_went_back_further_is_not_brought_forward(opened: Rounds) -> None:
    for _ in range(3):
        release(opened, 0.5)
    gone = send(opened, A, 1.0)
    send(opened, B, 1.0)
    opened.roll_back(1, "Ms Lee", "worse")
    opened.withdraw(gone, A.name)
    opened.rewind()
    np.testing.assert_array_equal(served(opened, 6)[1], served(opened, 1)[1])
    assert opened.verify() == []


def test_a_failure_in_a_rewind_changes_nothing(opened: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = send(opened, A, 1.0)
    send(opened, B, 1.0)
    opened.withdraw(gone, A.name)
    before, body = checkpoint.pack(opened.state), opened.version(1)
    for name in ("_keep_state", "_publish", "_note"):
        with monkeypatch.context() as patch:
            patch.setattr(opened, name, lambda *_, **__: (_ for _ in ()).throw(OSError("the disk is gone")))
            with pytest.raises(OSError, match="gone"):
                opened.rewind()
        assert checkpoint.pack(opened.state) == before
        assert opened.version(1) == body
        assert opened.verify() == []
    assert opened.rewind() == 2


def test_an_update_is_unlearned_twice_without_harm(opened: Rounds) -> None:
    gone = send(opened, A, 1.0)
    also = send(opened, B, 1.0)
    for _ in range(2):
        assert opened.withdraw(gone, A.name)
    assert not opened.withdraw(gone, C.name), "another's"
    opened.rewind()
    assert opened.withdraw(gone, A.name)
    assert opened.withdraw(also, B.name), "it is void already"
    assert opened.to_unlearn() is None
    assert opened.verify() == []


def test_what_is_void_already_begins_no_days_of_waiting(opened: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, also = send(opened, A, 1.0), send(opened, B, 1.0)
    opened.withdraw(gone, A.name)
    opened.rewind()
    opened.withdraw(also, B.name)
    release(opened, 0.5)
    later = clock.now() + datetime.timedelta(days=20)
    monkeypatch.setattr("homeroom_aggregator.merge.withdrawals.now", lambda: later)
    (asked,) = opened.withdrawable(A.name)
    opened.withdraw(asked, A.name)
    planned = opened.to_unlearn()
    assert planned is not None
    assert planned.due == later.date() + datetime.timedelta(days=30)


def test_pruning_waits_for_a_rewind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "CHECKPOINT_ENTRIES", 1)
    with closing(open_rounds(folder_of(tmp_path), retain=2)) as found:
        release(found, 0.5)
        gone = send(found, A, 8.0)
        send(found, B, 0.5)
        found.withdraw(gone, A.name)
        for _ in range(6):
            release(found, 0.25)
        assert found.rewind(by="Ms Lee") == 9
        np.testing.assert_array_equal(found.state.theta[:7], START[:7] + np.float32(0.5))
        assert found.verify() == []


def test_a_schools_own_segments_go_back_too(tmp_path: Path) -> None:
    own = {"by_school": True, "scopes": {"head.grade": "institution"}}
    with closing(open_rounds(folder_of(tmp_path, **own))) as found:
        for school in (A, B):
            found.members.join(school.name, StoredInvitation(school.name, school="Hill"))
        release(found, 0.5)
        gone = send(found, A, 8.0)
        send(found, B, 0.5)
        found.withdraw(gone, A.name)
        found.rewind()
        body = found.version(3, "Hill")
        assert body is not None
        root = read_facts(tmp_path / "district").root
        told = {"bundle_id": found.bundle.bundle_id, "root_fingerprint": root}
        header, theta = read_version(body, found.rules.layout, **told)
        np.testing.assert_array_equal(theta[:7], START[:7] + np.float32(0.5))
        assert header.void == ((2, 2),)
        assert found.log.database.rows("SELECT version FROM owned") == [(1,)]
        assert found.verify() == []


def test_secure_and_private_rounds_are_never_rewound() -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=6.0, delta=1e-5)
    with pytest.raises(ValueError, match="never rewound"):
        RoundConfiguration(bundle_id="0" * 64, unlearning=RULES, privacy=promise)


def test_logs_of_before_leave_updates_out_as_they_promised(tmp_path: Path) -> None:
    found = open_rounds(make_folder(tmp_path))
    assert "unlearning" not in found.configuration.document
    gone = send(found, A, 1.0)
    send(found, B, 0.5)
    found.configure(msgspec.structs.replace(found.configuration, unlearning=RULES))
    found.withdraw(gone, A.name)
    assert found.to_unlearn() is not None
    assert found.rewind() == 2
    with pytest.raises(InputError, match="rule cannot be lowered"):
        found.configure(msgspec.structs.replace(found.configuration, unlearning=UnlearningRules()))
    assert found.verify() == []
    found.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_fifty_deaths_inside_a_rewind_leave_it_whole_or_undone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with closing(open_rounds(folder)) as found:
        release(found, 0.5)
        gone = send(found, A, 3.0)
        send(found, B, 0.25)
        found.withdraw(gone, A.name)
    ends = set[int]()
    for seed in range(50):
        copy = tmp_path / f"copy{seed}"
        shutil.copytree(folder, copy)
        chance = random.Random(seed)
        child = os.fork()
        if not child:
            module, name = PLACES[chance.choice(["a statement", "a release", "a checkpoint", "a commit"])]
            setattr(module, name, dying(getattr(module, name), chance.randint(1, 8), chance.random() < 0.5))
            with closing(open_rounds(copy)) as found:
                found.rewind(by="Ms Lee")
            os._exit(0)
        os.waitpid(child, 0)
        with closing(open_rounds(copy)) as found:
            ends.add(found.state.version)
            assert found.verify() == []
            assert found.rewind() == 3
            np.testing.assert_array_equal(found.state.theta[:7], START[:7] + np.float32(0.5))
            assert found.verify() == []
    assert ends == {2, 3}


@pytest.mark.parametrize("rule", ["mean", "bounded"])
def test_the_parts_of_an_update_that_still_wait_go_at_once(tmp_path: Path, rule: str) -> None:
    found = open_rounds(folder_of(tmp_path, rule=rule))
    for school, segments in ((A, {"ladder_table": 4, "head_grade": 4}), (B, {"ladder_table": 4})):
        found.update(school.update(found.configuration, 1.0, 0, **segments), school.name)
    assert found.state.version == 1, "the head waits for a second device"
    (gone,) = found.withdrawable(A.name)
    found.members.join(A.name, StoredInvitation("a"))
    found.withdraw(gone, A.name)
    found.members.revoke(A.name, "Ms Lee")
    found.withdraw_gone()
    assert not found.state.sums.waiting
    assert A.name not in found.state.sums.all_devices()
    before = checkpoint.pack(found.state)
    found.close()
    found = open_rounds(tmp_path / "district")
    assert checkpoint.pack(found.state) == before, "nor after a replay"
    assert found.verify() == []
    send(found, B, 0.25)
    send(found, C, 0.25)
    theta, head = served(found, 2)[1], slice(4, 7)
    np.testing.assert_array_equal(theta[head], START[head] + np.float32(0.25), "the part of A is not in it")
    found.rewind()
    np.testing.assert_array_equal(found.state.theta, START)
    assert not found.state.sums.all_devices()
    assert found.verify() == []
    found.close()


def parts_that_wait(found: Rounds) -> None:
    """The head waits for a third device, with parts of two updates of A and one of B."""
    for base in range(2):
        for school in (A, B, C):
            heads = {"head_grade": 4 + base} if school == A or (school == B and not base) else {}
            delta = 1.0 + base + (school == B)
            found.update(school.update(found.configuration, delta, base, ladder_table=4, **heads), school.name)
    assert found.state.version == 2
    found.update(C.update(found.configuration, 1.0, 2, ladder_table=4), C.name)


def test_all_parts_of_a_device_that_is_shut_out_go_at_once(tmp_path: Path) -> None:
    with closing(open_rounds(folder_of(tmp_path, min_devices=3, buffer_size=3))) as found:
        found.members.join(A.name, StoredInvitation("a"))
        parts_that_wait(found)
        found.members.revoke(A.name, "Ms Lee")
        found.withdraw_gone()
        assert found.state.sums.devices["head.grade"] == {B.name}
        assert found.verify() == []


def test_of_several_waiting_parts_only_the_withdrawn_one_goes_and_a_failure_puts_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_rounds(folder_of(tmp_path, min_devices=3, buffer_size=3))) as found:
        parts_that_wait(found)
        sums = found.state.sums
        weights, total = sums.weights["head.grade"], sums.numerators["head.grade"].copy()
        first, _ = found.withdrawable(A.name)
        with monkeypatch.context() as patch:
            patch.setattr("homeroom_aggregator.merge.withdrawals.rewinds.ask", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                found.withdraw(first, A.name)
        assert sums.weights["head.grade"] == weights
        np.testing.assert_array_equal(sums.numerators["head.grade"], total)
        found.withdraw(first, A.name)
        assert sums.weights["head.grade"] == weights - 16 * 4
        np.testing.assert_array_equal(sums.numerators["head.grade"], total - 16 * 4 * 2**20)
        assert sums.devices["head.grade"] == {A.name, B.name}, "another update of A waits there"
        assert (sums.weights["ladder.table"], sums.devices["ladder.table"]) == (16 * 4, {C.name}), "A's was released"
        (second,) = found.withdrawable(A.name)
        found.withdraw(second, A.name)
        assert sums.devices["head.grade"] == {B.name}
        before = checkpoint.pack(found.state)
        assert found.verify() == []
    with closing(open_rounds(tmp_path / "district")) as found:
        assert checkpoint.pack(found.state) == before


def test_more_separate_void_ranges_than_a_header_holds_are_told_as_one(
    opened: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewinds, "MOST_VOID", 2)
    for _ in range(4):
        release(opened, 0.5)
        gone = send(opened, A, 8.0)
        send(opened, B, 0.5)
        assert opened.withdraw(gone, A.name)
        opened.rewind(by="Ms Lee")
    ranges = rewinds.void_versions(opened.log.database)
    assert len(ranges) == 4
    header, _ = served(opened, opened.state.version)
    assert header.void == ((ranges[0][0], ranges[2][1]), ranges[3])
    assert all(header.is_void(number) for first, last in ranges for number in range(first, last + 1))
    assert not header.is_void(ranges[3][0] - 1)
