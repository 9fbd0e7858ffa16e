"""The withdrawal log: whatever backup is put back, what was withdrawn since goes again, without the lost log."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from aggregator.institution import START, School, make_folder
from homeroom.cli.main import homeroom
from homeroom.contract.round import UnlearningRules
from homeroom.errors import InputError, StoreError, TrustError
from homeroom_aggregator.admin import backup, withdrawal_log
from homeroom_aggregator.admin.folder import open_rounds, read_facts
from homeroom_aggregator.merge.rounds import Rounds

A, B = School(), School()
REWIND = UnlearningRules(rule="rewind", within_days=30)


def send(rounds: Rounds, school: School, delta: float) -> str:
    return rounds.update(school.update(rounds.configuration, delta, rounds.state.version), school.name)[0]


def run(*words: object) -> str:
    done = CliRunner().invoke(homeroom, ["district", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.output


class Backups:
    """Backups from before and after a withdrawal, side by side; the folder itself is lost."""

    def __init__(self, tmp: Path) -> None:
        self.folder, self.shelf = make_folder(tmp, unlearning=REWIND), tmp / "shelf"
        self.shelf.mkdir()
        self.monday, self.tuesday, self.again = self.shelf / "monday", self.shelf / "tuesday", tmp / "again"
        with closing(open_rounds(self.folder)) as rounds:
            self.gone, self.early = send(rounds, A, 2.0), "e" * 32
            send(rounds, B, 0.5)
            assert rounds.state.version == 1
            run("backup", self.folder, self.monday)
            rounds.withdraw(self.gone, A.name)
            rounds.withdraw(self.early, B.name)
            rounds.rewind(by="Ms Lee")
            run("backup", self.folder, self.tuesday)
        (self.log,) = (path for path in self.shelf.iterdir() if path.is_file())


@pytest.fixture
def backups(tmp_path: Path) -> Backups:
    return Backups(tmp_path)


def test_an_older_backup_withdraws_again_what_the_log_beside_it_names(backups: Backups) -> None:
    said = run("restore", backups.again, backups.monday)
    assert f"withdrawn again from {backups.log}" in said
    assert ": 2 updates" in said
    assert f"`homeroom district rewind {backups.again}` does it now" in said
    with closing(open_rounds(backups.again)) as rounds:
        planned = rounds.to_unlearn()
        assert planned is not None
        assert planned.update_ids == (backups.gone,)
        assert rounds.log.withdrawn_by(backups.early, B.name)
        rounds.rewind(by="Ms Lee")
        np.testing.assert_array_equal(rounds.state.theta, START)
        assert rounds.verify() == []


def test_the_newer_backup_has_nothing_to_do_again(backups: Backups) -> None:
    assert ": 0 updates" in run("restore", backups.again, backups.tuesday)


def test_a_file_elsewhere_is_named_and_without_any_it_is_said(backups: Backups, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    assert "2 withdrawn updates" in run("unlearning", "list", backups.folder, elsewhere)
    backups.log.unlink()
    assert "no withdrawal log is beside the backup" in run("restore", tmp_path / "other", backups.monday)
    assert ": 2 updates" in run("restore", backups.again, backups.monday, "--withdrawals", elsewhere)


def test_what_a_restored_district_writes_forgets_nothing(backups: Backups, tmp_path: Path) -> None:
    """Its own log knows less than the file: both are kept."""
    other = backups.shelf / "hidden.json"
    backups.log.rename(other)
    backup.restore(backups.monday, backups.again)
    other.rename(backups.log)
    backup.backup(backups.again, backups.shelf / "wednesday")
    named = withdrawal_log.read(backups.log, read_facts(backups.again))
    assert set(named.withdrawn) == {(backups.gone, A.name), (backups.early, B.name)}


def test_another_districts_or_a_changed_file_is_refused_and_nothing_is_restored(
    backups: Backups, tmp_path: Path
) -> None:
    (tmp_path / "else").mkdir()
    foreign = make_folder(tmp_path / "else", name="District 8")
    data = json.loads(backups.log.read_bytes())
    data["list"]["withdrawn"] = []
    backups.log.write_text(json.dumps(data))
    with pytest.raises(TrustError):
        backup.restore(backups.monday, backups.again)
    with pytest.raises(StoreError, match="the backup is made, but the withdrawal log"):
        backup.backup(backups.folder, backups.shelf / "wednesday")
    assert (backups.shelf / "wednesday" / "backup.json").exists()
    backups.log.write_bytes(b"{")
    with pytest.raises(InputError):
        backup.restore(backups.monday, backups.again)
    with pytest.raises(InputError, match="cannot be read"):
        backup.restore(backups.monday, backups.again, withdrawals=tmp_path / "missing")
    assert not backups.again.exists()
    backup.backup(foreign, backups.shelf / "theirs")
    theirs = withdrawal_log.path_beside(backups.monday, read_facts(foreign))
    with pytest.raises(InputError, match="is of District 8"):
        backup.restore(backups.monday, backups.again, withdrawals=theirs)


def test_a_backup_without_a_log_has_nothing_to_withdraw(backups: Backups, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    bare = make_folder(tmp_path / "bare", name="District 9")
    assert not (bare / "log.db").exists()
    backup.backup(bare, tmp_path / "saved")
    with pytest.raises(InputError, match="has no log, so nothing in it is withdrawn"):
        backup.restore(tmp_path / "saved", backups.again, withdrawals=backups.log)
    backup.restore(tmp_path / "saved", backups.again)
