"""`homeroom district rewind`: what it says before it does it, and that it asks."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from click.testing import CliRunner

from aggregator.institution import School, make_folder
from homeroom.cli.main import homeroom
from homeroom.contract.round import UnlearningRules
from homeroom_aggregator.admin.folder import open_log, open_rounds
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.members import StoredInvitation

A, B = School(), School()
SAID = ("--by", "Ms Lee", "--why", "a family asked")


def run(*words: str, typed: str = "") -> tuple[int, str]:
    found = CliRunner().invoke(homeroom, ["district", *words], input=typed)
    return found.exit_code, f"{found.output}{found.exception}"


def test_an_officer_takes_updates_back_sees_what_a_rewind_costs_and_does_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, unlearning=UnlearningRules(rule="rewind"))
    assert "nothing waits to be unlearned" in run("rewind", str(folder), *SAID)[1]
    with closing(open_rounds(folder)) as rounds:
        for version in range(2):
            for school in (A, B):
                rounds.members.join(school.name, StoredInvitation(school.name)) if not version else None
                rounds.update(school.update(rounds.configuration, 0.5, version), school.name)
    code, said = run("withdraw", str(folder), A.name[:10], *SAID, "--yes")
    assert code == 0
    assert "taken out: 2 updates of 1 device" in said
    assert f"`homeroom district rewind {folder}` does it now" in said
    code, said = run("rewind", str(folder), *SAID, typed="n\n")
    assert code == 1
    assert "Version 3 will be version 0 again" in said
    assert "becomes void: 2 versions and 2 other updates" in said
    with closing(open_rounds(folder)) as rounds:
        assert rounds.state.version == 2
    code, said = run("rewind", str(folder), *SAID, "--yes")
    assert code == 0
    assert "version 3 is version 0 again" in said
    with closing(open_rounds(folder)) as rounds:
        *_, entry = (one for one in audit.records(rounds.log.database) if one.event == "rewound")
        assert (entry.about["by"], entry.about["why"]) == ("Ms Lee", "a family asked")
    assert run("rebuild", str(folder))[0] == 0
    report = tmp_path / "report.json"
    assert run("unlearning", "report", str(folder), str(report))[0] == 0
    told = json.loads(report.read_bytes())["report"]["rewinds"][0]
    assert (told["version"], told["to"], told["void"], told["by"]) == (3, 0, [1, 2], "Ms Lee")
    assert [device for _, device in told["unlearned"]] == [A.name, A.name]
    assert told["confirmed"] == []
    with closing(open_rounds(folder)) as rounds:
        rounds.update(B.update(rounds.configuration, 0.5, 3), B.name)
    assert "holds" in run("unlearning", "verify", str(folder), str(report))[1]
    run("unlearning", "report", str(folder), str(report))
    assert json.loads(report.read_bytes())["report"]["rewinds"][0]["confirmed"] == [B.name]
    older = tmp_path / "older.json"
    older.write_bytes(report.read_bytes())
    assert "older than" not in run("unlearning", "verify", str(folder), str(older))[1]
    with closing(open_rounds(folder)) as rounds:
        sent = [rounds.update(school.update(rounds.configuration, 0.25, 3), school.name)[0] for school in (A,)]
        assert rounds.state.version == 4
        assert rounds.withdraw(sent[0], A.name)
        assert rounds.rewind(by="Ms Lee") == 5
    code, said = run("unlearning", "verify", str(folder), str(older))
    assert (code, "it is older than the rewind that made version 5" in said) == (0, True), said
    run("unlearning", "report", str(folder), str(report))
    assert "older than" not in run("unlearning", "verify", str(folder), str(report))[1]
    data = report.read_bytes()
    report.write_bytes(data.replace(b"Ms Lee", b"Mr Lee"))
    code, said = run("unlearning", "verify", str(folder), str(report))
    assert code != 0
    assert "the signature does not hold" in said
    report.write_bytes(data[:-9])
    assert run("unlearning", "verify", str(folder), str(report))[0] != 0
    report.write_bytes(data)
    with closing(open_log(folder)) as log:
        (number,) = log.database.one("SELECT min(number) FROM log WHERE kind = 'update'")
        log.database.write("UPDATE bodies SET body = x'00' WHERE number = ?", (number,))
        log.database.write("UPDATE log SET device = ? WHERE number = ?", (B.name, number))
    code, said = run("unlearning", "verify", str(folder), str(report))
    assert code != 0
    assert "its log was changed" in said
    assert "are in the log still" in said
