"""`homeroom district withdraw`: an officer takes the updates of a device or a school out, revoked or not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.institution import START, School, make_folder
from homeroom.cli.main import main
from homeroom_aggregator.admin.folder import make_invitations, open_rounds, read_secret
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.dashboard.formatting import event
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.members import join_with_code

A, B, C = School(), School(), School()
SAID = ("--by", "Ms Lee", "--why", "its samples were swapped")


def send(rounds: Rounds, school: School, delta: float) -> None:
    rounds.update(school.update(rounds.configuration, delta, rounds.state.version), school.name)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A version of A and B of Hill and Lake, and an update of A that waits; A's key was revoked before it was sent."""
    where = make_folder(tmp_path)
    with closing(open_rounds(where)) as rounds:
        for school, name in ((A, "Hill"), (B, "Lake"), (C, "Hill")):
            (invitation,) = make_invitations(where, "http://d.example", [(name, "device")], consents={name: "letter"})
            join_with_code(rounds.members, read_secret(where), school.name, invitation.code)
        send(rounds, A, 0.5)
        send(rounds, B, 0.25)
        assert rounds.state.version == 1
        send(rounds, C, 0.125)
    return where


def run(*arguments: str | Path) -> int:
    try:
        main(["district", "withdraw", *map(str, arguments)])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_devices_updates_are_out_of_the_next_version(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(open_rounds(folder)) as rounds:
        rounds.members.revoke(A.name, "Ms Lee")
    assert run(folder, A.name[:10], *SAID, "--yes") == 0
    assert "1 update of 1 device" in capsys.readouterr().out
    with closing(open_rounds(folder)) as rounds:
        assert rounds.state.pending == 1
        send(rounds, B, 0.0)
        shared = rounds.state.theta[:7] - START[:7]
        assert 0 < shared.max() < 0.25, "what C and B sent, and nothing of A"
        assert rounds.verify() == []
        (entry,) = [row for row in audit.records(rounds.log.database) if row.event == "updates taken back"]
        assert entry.about["by"] == "Ms Lee"
    assert run(folder, A.name, *SAID, "--yes") == 3, "none is left"


def test_a_schools_updates_are_out(folder: Path) -> None:
    assert run(folder, "--school", "Hill", *SAID, "--yes") == 0
    with closing(open_rounds(folder)) as rounds:
        assert rounds.state.pending == 0
        assert rounds.withdrawable(A.name) == rounds.withdrawable(C.name) == []
        assert len(rounds.withdrawable(B.name)) == 1


def test_what_is_not_meant_takes_nothing_out(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_rounds(folder)):
        assert run(folder, A.name, *SAID, "--yes") == 7, "its server has it"
    for arguments, says in (
        (("f" * 64, *SAID), "is no device's key"),
        (("", *SAID), "either a KEY or a --school"),
        ((A.name, "--school", "Hill", *SAID), "either a KEY or a --school"),
        (("--school", "Hil", *SAID), "did you mean Hill"),
    ):
        assert run(folder, *arguments, "--yes") == 3, arguments
        assert says in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    assert run(folder, A.name, *SAID) == 130
    with closing(open_rounds(folder)) as rounds:
        assert all(len(rounds.withdrawable(one.name)) == 1 for one in (A, B, C))


def test_who_revokes_is_told_what_became_of_the_updates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["district", "revoke", str(folder), C.name[:10]])
    told = capsys.readouterr().out
    assert f"{C.name[:16]} is refused from now on, for ever; its updates that wait are erased" in told
    assert "out of it too, but for private rounds" in told
    with closing(open_rounds(folder)) as rounds:
        (entry,) = [row for row in audit.records(rounds.log.database) if row.event == "withdrawn"]
        assert event(entry.event, entry.about) == f"An update of device {C.name[:8]} was taken out: key or consent gone"
    assert run(folder, C.name, *SAID, "--yes") == 3
    refused = capsys.readouterr().err
    assert "all were taken out already" in refused
    assert "private" not in refused
