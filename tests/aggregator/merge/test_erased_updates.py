"""Private updates on the server's disk: their bytes are gone with release or withdrawal, whoever reads meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from conftest import Attack

from aggregator.institution import School, make_folder
from homeroom.contract.privacy import Privacy
from homeroom_aggregator.admin import backup
from homeroom_aggregator.admin.folder import LOG_FILE, open_rounds
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.log import WAITING_FILE, Log
from homeroom_aggregator.state.members import StoredInvitation

PROMISE = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=12.0, delta=1e-5)
A, B, C, D = School(), School(), School(), School()


@contextmanager
def reader(folder: Path) -> Iterator[None]:
    """Somebody who reads the log and does not end, such as a copy to a slow disk."""
    with closing(sqlite3.connect(folder / LOG_FILE)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM log").fetchone()
        yield


def on_disk(folder: Path, *needles: bytes) -> int:
    """How many of the needles' files hold them."""
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return sum(needle in text for needle in needles for text in texts)


def send(rounds: Rounds, school: School, delta: float = 0.1) -> tuple[str, bytes]:
    data = school.update(rounds.configuration, delta, rounds.state.version)
    return rounds.update(data, school.name)[0], data[100:400]


@pytest.mark.attack("members", "a private update's bytes in the server's files after its release, kept by a reader")
def test_a_released_update_is_on_no_page_and_in_no_log_while_somebody_reads(tmp_path: Path, attack: Attack) -> None:
    folder = make_folder(tmp_path, privacy=PROMISE)
    with closing(open_rounds(folder)) as rounds, reader(folder):
        (_, first) = send(rounds, A)
        with reader(folder):
            assert on_disk(folder, first) > 0, "it waits"
            (_, second) = send(rounds, B)
            assert rounds.state.version == 1
            attack.got += on_disk(folder, first, second)
            (_, third) = send(rounds, C)
            (_, fourth) = send(rounds, D)
            attack.got += on_disk(folder, first, second, third, fourth)
        assert rounds.verify() == []
    attack.noticed = "nothing"


@pytest.mark.attack("members", "a private update that was withdrawn while it waits, kept by a reader")
def test_a_withdrawn_update_is_gone_while_somebody_reads_and_others_wait_on(tmp_path: Path, attack: Attack) -> None:
    folder = make_folder(tmp_path, privacy=PROMISE)
    with closing(open_rounds(folder)) as rounds:
        update_id, first = send(rounds, A)
        with reader(folder):
            assert rounds.withdraw(update_id, A.name)
            attack.got += on_disk(folder, first)
        _, second = send(rounds, B)
    with closing(open_rounds(folder)) as rounds:
        assert rounds.state.pending == 1, "what waits outlives a restart"
        assert on_disk(folder, second) == 1
        backup.backup(folder, tmp_path / "saved")
        attack.got += on_disk(tmp_path / "saved", first, second)
        send(rounds, C)
        assert rounds.state.version == 1
        attack.got += on_disk(folder, second)
        assert rounds.verify() == []
    attack.noticed = "nothing"


@pytest.mark.attack("members", "a private update that waits on after its key was revoked")
def test_a_private_update_goes_at_once_with_its_key(tmp_path: Path, attack: Attack) -> None:
    folder = make_folder(tmp_path, privacy=PROMISE)
    with closing(open_rounds(folder)) as rounds:
        for school in (A, B):
            code = StoredInvitation(school.name)
            rounds.members.invite([code])
            rounds.members.join(school.name, code)
        _, first = send(rounds, A)
        with reader(folder):
            rounds.members.revoke(A.name, "operator")
            rounds.withdraw_gone()
            attack.got += on_disk(folder, first) + rounds.state.pending
        send(rounds, B)
        assert rounds.state.version == 0, "one device's update is left"
        assert rounds.verify() == []
    attack.noticed = "nothing"


def test_a_server_killed_between_release_and_erasure_erases_at_its_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, privacy=PROMISE)
    with closing(open_rounds(folder)) as rounds:
        monkeypatch.setattr(rounds.log, "sweep", lambda: False)
        needles = [send(rounds, school)[1] for school in (A, B)]
    assert on_disk(folder, *needles) > 0
    with closing(open_rounds(folder)) as rounds:
        assert on_disk(folder, *needles) == 0
        assert rounds.state.version == 1


def test_what_an_older_server_left_waiting_in_the_log_moves_out_of_it_and_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, privacy=PROMISE)
    with monkeypatch.context() as before:
        before.setattr(Log, "keep_apart", lambda _: None)
        with closing(open_rounds(folder)) as rounds:
            _, first = send(rounds, A)
    assert not (folder / WAITING_FILE).exists()
    with closing(open_rounds(folder)) as rounds:
        assert rounds.state.pending == 1
        assert first not in (folder / LOG_FILE).read_bytes()
        assert (folder / WAITING_FILE).stat().st_mode & 0o777 == 0o600
        send(rounds, B)
        assert rounds.state.version == 1
        assert on_disk(folder, first) == 0
        assert rounds.verify() == []


@pytest.mark.attack("members", "a stream's exact sums in the server's files after the last release that needs them")
def test_exact_sums_of_a_stream_are_gone_once_no_release_needs_them(tmp_path: Path, attack: Attack) -> None:
    folder = make_folder(tmp_path, privacy=msgspec.structs.replace(PROMISE, bands=2))
    with closing(open_rounds(folder)) as rounds, reader(folder):
        for school in (A, B):
            send(rounds, school)
        waiting = rounds.log.waiting
        assert waiting
        ((version, exact),) = waiting.rows("SELECT version, exact FROM stream")
        assert version == 1
        assert on_disk(folder, exact) > 0
        for school in (C, D):
            send(rounds, school, -0.07)
        assert rounds.state.version == 2
        attack.got += on_disk(folder, exact)
        assert rounds.verify() == []
    attack.noticed = "nothing"
