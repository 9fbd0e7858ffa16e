"""A restore: what was taken away since the backup holds again where the lost log is there, and is named where not."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.institution import START, School, make_folder, running
from aggregator.server.officer import confirmed, signed_in, text
from homeroom.cli.main import homeroom
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import UnlearningRules
from homeroom.contract.signing import fingerprint
from homeroom.contract.version import VersionHeader, read_version
from homeroom.errors import InputError, StoreError, TrustError
from homeroom_aggregator.admin import backup, lost_log
from homeroom_aggregator.admin.folder import make_invitations, open_rounds, read_secret
from homeroom_aggregator.admin.privacy_report import folder_figures, report_lines
from homeroom_aggregator.admin.unlearning_report import check_report, make_report
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.dashboard import formatting, queries
from homeroom_aggregator.server.service import open_service
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.members import join_with_code
from homeroom_aggregator.state.one_time_codes import code_digest

A, B, MOOR, LATE = School(), School(), School(), School()
SERVER = "http://district.example"


def invite(folder: Path, school: str) -> str:
    (invitation,) = make_invitations(folder, SERVER, [(school, "device")], consents={school: "letter"})
    return invitation.code


def send(rounds: Rounds, school: School, delta: float) -> str:
    return rounds.update(school.update(rounds.configuration, delta, rounds.state.version), school.name)[0]


class Lost:
    """A district that was backed up, went on, and was moved away."""

    def __init__(self, tmp: Path) -> None:
        folder = make_folder(tmp)
        self.saved, self.moved, self.again = tmp / "saved", tmp / "moved", tmp / "again"
        with closing(open_rounds(folder)) as rounds:
            self.secret, members = read_secret(folder), rounds.members
            for school, name in ((A, "Hill"), (B, "Lake"), (MOOR, "Moor")):
                join_with_code(members, self.secret, school.name, invite(folder, name))
            self.open_code, self.late_code = invite(folder, "Hill"), invite(folder, "Hill")
            self.forgotten = send(rounds, A, 0.5)
            send(rounds, B, 0.25)
            self.waiting = send(rounds, MOOR, 0.125)
            backup.backup(folder, self.saved)
            assert rounds.withdraw(self.forgotten, A.name)
            members.revoke(MOOR.name, by="Ms Lee")
            members.withdraw_consent("Lake", "the head")
            members.take_back(code_digest(self.open_code), by="Ms Lee")
            join_with_code(members, self.secret, LATE.name, self.late_code)
        folder.rename(self.moved)


@pytest.fixture
def lost(tmp_path: Path) -> Lost:
    return Lost(tmp_path)


def test_what_was_taken_away_holds_again_from_the_lost_log(lost: Lost) -> None:
    arguments = ["district", "restore", str(lost.again), str(lost.saved), "--from-lost", str(lost.moved)]
    said = CliRunner().invoke(homeroom, arguments, catch_exceptions=False).output
    for kind, count in {"unlearning": 1, "withdrawn consents": 1, "invitations taken back": 1}.items():
        assert f"{kind}: {count}" in said
    assert "revoked keys and used invitations: 2" in said
    assert "not known" not in said
    with closing(open_rounds(lost.again)) as rounds:
        members = rounds.members
        assert members.find(MOOR.name) is None
        assert not members.consented("Lake")
        assert members.consented("Hill")
        assert rounds.log.withdrawn(lost.forgotten)
        assert rounds.log.withdrawn(lost.waiting), "what waited of the revoked key is out"
        assert rounds.state.pending == 0
        member = members.find(LATE.name)
        assert member is not None
        assert member.school == "Hill"
        for code in (lost.open_code, lost.late_code):
            with pytest.raises(TrustError):
                join_with_code(members, lost.secret, School().name, code)
        send(rounds, A, 0.0)
        send(rounds, LATE, 0.0)
        assert rounds.state.theta.tobytes() == START.tobytes(), "nothing of the forgotten, nor of those who have gone"
        assert rounds.verify() == []
        assert audit.verify(rounds.log.database)[2] is None
        assert queries.unchecked_restore(rounds.log.database, "") is None


def test_without_the_lost_log_the_losses_are_named_until_an_officer_says_they_are_repeated(lost: Lost) -> None:
    arguments = ["district", "restore", str(lost.again), str(lost.saved)]
    said = CliRunner().invoke(homeroom, arguments, catch_exceptions=False).output
    since = json.loads((lost.saved / "backup.json").read_text())["at"]
    assert f"not known since {since}: " in said
    for kind in lost_log.ACT_KINDS:
        assert kind in said
    with (
        closing(open_service(lost.again)) as service,
        running(service) as address,
        signed_in(service, address) as browser,
    ):
        undone = f"what was done after it, since {formatting.moment(since)}, is undone"
        assert undone in text(browser.get("/dashboard").text)
        form = confirmed(browser, "/do/restored", "lists of Ms Lee")
        assert browser.post("/dashboard/do/restored", data=form).status_code == 200
        assert undone not in text(browser.get("/dashboard").text)


PROMISE = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=6.0, delta=1e-5)


def private_lost(tmp: Path) -> tuple[Path, Path]:
    """A private district with a release before its backup and two after it; its backup, and where it was moved to."""
    folder, saved, moved = make_folder(tmp, privacy=PROMISE), tmp / "saved", tmp / "moved"
    with closing(open_rounds(folder)) as rounds:
        for pair in ((A, B), (A, MOOR), (A, B)):
            for school in pair:
                send(rounds, school, 0.1)
            if rounds.state.version == 1:
                backup.backup(folder, saved)
    folder.rename(moved)
    return saved, moved


def test_what_private_releases_charged_after_the_backup_stays_charged(tmp_path: Path) -> None:
    saved, moved = private_lost(tmp_path)
    restored = backup.restore(saved, tmp_path / "again", moved)
    assert restored.done[lost_log.CHARGE_KIND] == 2
    with closing(open_rounds(tmp_path / "again")) as rounds:
        assert rounds.ledger
        assert [rounds.ledger.entered(school.name) for school in (A, B, MOOR)] == [3, 2, 1]
        for school in (A, MOOR):
            send(rounds, school, 0.1)
        assert rounds.ledger.entered(A.name) == 4
    assert "At least" not in "\n".join(report_lines(folder_figures(tmp_path / "again")))
    with closing(open_rounds(tmp_path / "again")) as rounds:
        assert rounds.verify() == []


def test_charges_that_nobody_can_tell_are_given_up_only_by_saying_so(tmp_path: Path) -> None:
    saved, moved = private_lost(tmp_path)
    with closing(sqlite3.connect(moved / "log.db")) as log, log:
        log.execute("DROP TABLE ledger")
    for lost in (None, moved):
        with pytest.raises(InputError, match="would not be charged"):
            backup.restore(saved, tmp_path / "again", lost)
        assert not (tmp_path / "again").exists()
    arguments = ["district", "restore", str(tmp_path / "again"), str(saved), "--uncharged"]
    said = CliRunner().invoke(homeroom, arguments, catch_exceptions=False).output
    assert lost_log.CHARGE_KIND in said
    report = "\n".join(report_lines(folder_figures(tmp_path / "again")))
    assert "At least: a backup was put back" in report


def rewinding(tmp_path: Path) -> tuple[Path, Rounds]:
    """A backup of version 3, made after a rewind to version 0 and a release, and the district that goes on."""
    rules = UnlearningRules(rule="rewind", within_days=30, most_versions=3)
    rounds = open_rounds(make_folder(tmp_path, unlearning=rules))
    first = send(rounds, A, 0.5)
    send(rounds, B, 0.5)
    rounds.withdraw(first, A.name)
    rounds.rewind()
    for school in (A, B):
        send(rounds, school, 0.5)
    backup.backup(tmp_path / "district", tmp_path / "saved")
    return tmp_path / "saved", rounds


def headed(rounds: Rounds) -> VersionHeader:
    """The header of the newest version, as a device reads it."""
    body, root = rounds.version(rounds.state.version), fingerprint(rounds.certificate.root)
    assert body is not None
    told = {"bundle_id": rounds.bundle.bundle_id, "root_fingerprint": root}
    return read_version(body, rounds.rules.layout, **told)[0]


def test_versions_that_a_lost_log_made_void_stay_void_though_the_backup_never_had_them(tmp_path: Path) -> None:
    """Devices may have learned on version 5, which held what was unlearned, and not yet have seen version 6."""
    saved, rounds = rewinding(tmp_path)
    with closing(rounds):
        for delta in (0.25, 8.0):
            gone = send(rounds, A, delta)
            send(rounds, B, delta)
        rounds.withdraw(gone, A.name)
        assert rounds.rewind(by="Ms Lee", why="asked") == 6
    (tmp_path / "district").rename(tmp_path / "moved")
    restored = backup.restore(saved, tmp_path / "again", tmp_path / "moved")
    assert restored.done[lost_log.REWIND_KIND] == 1
    with closing(open_rounds(tmp_path / "again")) as again:
        send(again, A, 0.0)
        send(again, B, 0.0)
        assert again.state.version == restored.version + 1
        header = headed(again)
        assert header.void == ((1, 1), (5, 5))
        assert again.verify() == []
        assert check_report(make_report(tmp_path / "again"), tmp_path / "again") == []
        (entry,) = (e for e in audit.records(again.log.database) if e.event == "rewind taken over")
        assert (entry.about["first"], entry.about["last"]) == (5, 5)


def test_what_a_lost_log_had_unlearned_is_unlearned_with_the_restore(tmp_path: Path) -> None:
    """The backup's newest version holds it: nobody waits for another thirty days, nor for a person's word."""
    saved, rounds = rewinding(tmp_path)
    with closing(rounds):
        gone = rounds.withdrawable(A.name)[0]
        send(rounds, A, 0.25)
        send(rounds, B, 0.25)
        rounds.withdraw(gone, A.name)
        assert rounds.rewind(by="Ms Lee", why="asked") == 5
    (tmp_path / "district").rename(tmp_path / "moved")
    backup.restore(saved, tmp_path / "again", tmp_path / "moved")
    with closing(open_rounds(tmp_path / "again")) as again:
        assert again.to_unlearn() is None
        assert again.state.theta.tobytes() == START.tobytes()
        assert headed(again).void == ((1, 1), (3, again.state.version - 1))
        assert again.verify() == []
        report = json.loads(make_report(tmp_path / "again"))["report"]
        assert [one["unlearned"] for one in report["rewinds"]][1:] == [[[gone, A.name]]]


def test_a_rewind_after_a_restore_counts_versions_and_not_their_numbers(tmp_path: Path) -> None:
    saved, rounds = rewinding(tmp_path)
    rounds.close()
    backup.restore(saved, tmp_path / "again")
    with closing(open_rounds(tmp_path / "again")) as again:
        again.withdraw(again.withdrawable(A.name)[0], A.name)
        planned = again.to_unlearn()
        assert planned is not None
        assert planned.versions == 2, "version 3, and the restore's own"


def test_a_charge_that_is_none_restores_nothing(tmp_path: Path) -> None:
    saved, moved = private_lost(tmp_path)
    with closing(sqlite3.connect(moved / "log.db")) as log, log:
        log.execute("INSERT INTO ledger (event) VALUES (x'ff')")
    with pytest.raises(StoreError, match="cannot be read"):
        backup.restore(saved, tmp_path / "again", moved)
    assert not (tmp_path / "again").exists()


def test_a_folder_of_another_history_is_refused_and_nothing_is_restored(lost: Lost, tmp_path: Path) -> None:
    make_folder(tmp_path)
    open_rounds(tmp_path / "district").close()
    with pytest.raises(InputError, match="does not go on from this backup"):
        backup.restore(lost.saved, lost.again, tmp_path / "district")
    with pytest.raises(InputError, match=r"has no log\.db"):
        backup.restore(lost.saved, lost.again, tmp_path)
    assert not lost.again.exists()


def test_a_backup_lies_in_no_districts_folder(lost: Lost, tmp_path: Path) -> None:
    """Not in its own, in another's, nor in a backup, which another file would make one that was altered."""
    for place in (lost.moved / "monday", lost.saved / "monday"):
        with pytest.raises(InputError, match="lies in"):
            backup.backup(lost.moved, place)
        assert not place.exists()
    with pytest.raises(InputError, match="lies in a district's folder"):
        backup.backup(lost.moved, lost.saved / "deep" / "monday")


def test_a_lost_folder_that_is_still_served_is_refused(lost: Lost) -> None:
    with closing(open_rounds(lost.moved)), pytest.raises(StoreError, match="in use"):
        backup.restore(lost.saved, lost.again, lost.moved)


def test_what_a_damaged_lost_log_cannot_say_is_named(lost: Lost) -> None:
    with closing(sqlite3.connect(lost.moved / "log.db")) as log, log:
        log.execute("DROP TABLE consents")
    restored = backup.restore(lost.saved, lost.again, lost.moved)
    assert restored.unknown == ("withdrawn consents",)
    assert restored.done["unlearning"] == 1


def test_a_backup_without_its_time_counts_from_its_last_entry(lost: Lost) -> None:
    contents = json.loads((lost.saved / "backup.json").read_text())
    del contents["at"]
    (lost.saved / "backup.json").write_text(json.dumps(contents))
    with closing(sqlite3.connect(lost.saved / "log.db")) as log:
        (last,) = log.execute("SELECT max(at) FROM audit").fetchone()
    shutil.rmtree(lost.moved)
    assert backup.restore(lost.saved, lost.again).since == last


def test_what_waited_for_a_rewind_waits_again_after_a_restore(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, unlearning=UnlearningRules(rule="rewind"))
    with closing(open_rounds(folder)) as rounds:
        send(rounds, A, 0.5)
        send(rounds, B, 0.5)
        backup.backup(folder, tmp_path / "saved")
        (held,) = rounds.withdrawable(A.name)
        rounds.withdraw(held, A.name)
        assert rounds.to_unlearn() is not None
    folder.rename(tmp_path / "old")
    backup.restore(tmp_path / "saved", folder, tmp_path / "old")
    with closing(open_rounds(folder)) as rounds:
        planned = rounds.to_unlearn()
        assert planned is not None
        assert planned.update_ids == (held,)
        rounds.rewind(by="tests")
        assert rounds.state.theta.tobytes() == START.tobytes()
        assert rounds.verify() == []
