"""What a district's command did, as one JSON object for programs and in lines for people; none says nothing."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.institution import ROOT, School, make_folder, write_bundle
from homeroom.cli.main import homeroom
from homeroom.contract.signing import write_key
from homeroom_aggregator.admin.folder import make_invitations, open_log, open_rounds, read_secret
from homeroom_aggregator.state.members import Members, join_with_code

STEPS = {  # a command line and a name in its record; {} is the test's folder, KEY a device, CODE an invitation
    "configure": ("district configure {}/district", "configuration"),
    "check": ("district configure {}/district --check", "changes"),
    "invite": ("district invite {}/district --count 2 --out {}/new", "files"),
    "take back": ("district invite {}/district --revoke CODE", "taken_back"),
    "revoke": ("district revoke {}/district KEY", "revoked"),
    "consent": ("district consent {}/district Hill --by Lee", "consent"),
    "withdraw": ("district withdraw {}/district KEY --yes --by Lee --why tried", "updates"),
    "dashboard": ("district dashboard {}/district", "link"),
    "offline in": ("district offline in {}/district {}/stick", "messages"),
    "go-back": ("district go-back {}/district 0 --by Lee --why tried", "again"),
    "rewind": ("district rewind {}/district --by Lee --why tried", "version"),
    "report": ("district unlearning report {}/district {}/report.json", "bytes"),
    "list": ("district unlearning list {}/district {}/list.json", "withdrawn"),
    "rebuild": ("district rebuild {}/district", "devices"),
    "backup": ("district backup {}/district {}/saved-now", "files"),
    "restore": ("district restore {}/again {}/saved", "named"),
    "recover": ("district recover {}/district --key {}/new.pem --certificate {}/new.json", "key"),
    "audit verify": ("district audit verify {}/district", "newest"),
    "privacy report": ("district privacy report {}/district", "private"),
    "evaluation": ("district evaluation {}/district", "tasks"),
    "upgrade": ("district upgrade-bundle {}/next {}/district --bundle {}/bundle-2", "carried"),
    "root": ("trust root {}/other.pem", "root"),
    "certify": ("trust certify aggregator {}/more.pem --root-key {}/root.pem --name Lee", "certificate"),
    "roster": ("trust roster {}/roster.json --key {}/signer.pem --members {}/district --minimum 3", "serial"),
}


def run(*words: str) -> str:
    done = CliRunner().invoke(homeroom, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, str, str]:
    """A folder with a district that made a version, keys and a backup; a device's key; an open invitation."""
    folder = make_folder(tmp_path).rename(tmp_path / "district")
    open_rounds(folder).close()
    write_bundle(tmp_path / "bundle-2", version=2)
    if not (tmp_path / "root.pem").exists():
        write_key(tmp_path / "root.pem", ROOT)
    invitations = make_invitations(folder, "http://a.example", [("Hill", "device")] * 4, consents={"Hill": "letter"})
    devices = [School() for _ in range(3)]
    with closing(open_log(folder)) as log:
        for school, invitation in zip(devices, invitations, strict=False):
            join_with_code(Members(log.database), read_secret(folder), school.name, invitation.code)
        waiting = next(row for row in Members(log.database).invitations() if row["status"] == "open")
    with closing(open_rounds(folder)) as rounds:
        for school in devices:
            rounds.update(school.update(rounds.configuration, 0.5, 0), school.name)
        rounds.release_now()
    for role, name in (("aggregator", "new"), ("roster", "signer")):
        run("trust", "certify", role, f"{tmp_path}/{name}.pem", "--root-key", f"{tmp_path}/root.pem", "--name", "Lee")
    run("district", "backup", f"{folder}", f"{tmp_path}/saved")
    for name in ("stick", "new"):
        (tmp_path / name).mkdir()
    return tmp_path, devices[0].name, waiting["invitation"]


def words(step: str, place: tuple[Path, str, str]) -> list[str]:
    folder, key, code = place
    line = STEPS[step][0].replace("{}", str(folder)).replace("KEY", key).replace("CODE", code)
    return line.split()


@pytest.mark.parametrize("step", STEPS)
def test_a_program_gets_one_object_and_no_line_for_people(step: str, place: tuple[Path, str, str]) -> None:
    told = json.loads(run(*words(step, place), "--json"))
    assert STEPS[step][1] in told


@pytest.mark.parametrize("step", STEPS)
def test_people_are_told_what_was_done(step: str, place: tuple[Path, str, str]) -> None:
    told = run(*words(step, place), "-q")
    assert told.strip(), "no command says nothing"
    assert not told.startswith("{"), "and no Python or JSON object"
