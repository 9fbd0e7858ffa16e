"""At most so many devices of a school on a roster: where it is signed, where it comes, and in every cohort."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from aggregator.admin.starting import start
from aggregator.institution import ROOT, School, make_folder, write_bundle
from aggregator.secagg.district import RULES, SIGNER, District
from homeroom.cli.main import homeroom
from homeroom.contract.roster import make_roster
from homeroom.contract.signing import certify, write_key
from homeroom_aggregator.admin.configuration_file import notes, read_configuration
from homeroom_aggregator.admin.folder import load_roster, open_rounds, replace_roster
from homeroom_aggregator.server.dashboard.pages import round_kind
from homeroom_aggregator.state.members import StoredInvitation

SCHOOLS = ("Hill", "Hill", "Lake", "Hill", "", "Hill", "", "")


@pytest.fixture(scope="module")
def keys() -> list[School]:
    return [School() for _ in SCHOOLS]


@pytest.fixture
def folder(tmp_path: Path, keys: list[School]) -> Path:
    """A district of four devices of Hill, one of Lake and three of no school; a roster has two of a school."""
    made = make_folder(tmp_path, min_devices=3, secure=RULES, school_devices=2)  # type: ignore[arg-type]
    with closing(open_rounds(made)) as rounds:
        for device, school in zip(keys, SCHOOLS, strict=True):
            rounds.members.join(device.name, StoredInvitation(device.name, school=school))
    write_key(tmp_path / "signer.pem", SIGNER)
    word = msgspec.json.encode(certify(ROOT, "roster", SIGNER, "tests"))
    (tmp_path / "signer.json").write_bytes(word)
    return made


def sign(folder: Path, *words: object) -> Result:
    out, key = folder / "roster.json", folder.parent / "signer.pem"
    command = ["trust", "roster", out, "--key", key, "--members", folder, "--minimum", 3, "--json", *words]
    return CliRunner().invoke(homeroom, [str(word) for word in command])


def named(keys: list[School], *numbers: int) -> set[str]:
    return {keys[number].name for number in numbers}


def on_roster(folder: Path) -> set[str]:
    roster = load_roster(folder)
    assert roster
    return set(roster.devices)


def test_a_roster_takes_the_longest_enrolled_of_a_school_keeps_them_and_says_who_is_left_out(
    folder: Path, keys: list[School]
) -> None:
    done = sign(folder)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["left_out"] == {"Hill": 2}
    assert on_roster(folder) == named(keys, 0, 1, 2, 4, 6, 7)
    with closing(open_rounds(folder)) as rounds:
        rounds.members.revoke(keys[0].name, "an officer")
    assert sign(folder).exit_code == 0
    assert on_roster(folder) == named(keys, 1, 3, 2, 4, 6, 7), "who is on it stays; the next one comes"
    assert sign(folder, "--device", keys[5].name).exit_code == 0
    assert on_roster(folder) == named(keys, 5, 1, 2, 4, 6, 7), "who is typed goes first, then who is on it"
    before = (folder / "roster.json").read_bytes()
    refused = sign(folder, *(word for n in (1, 3, 5) for word in ("--device", keys[n].name)))
    assert "has 3 devices of Hill, and school_devices is 2" in str(refused.exception)
    assert (folder / "roster.json").read_bytes() == before


def test_the_person_who_signs_reads_whom_the_limit_leaves_out(folder: Path) -> None:
    out, key = folder / "roster.json", folder.parent / "signer.pem"
    words = [str(word) for word in ("trust", "roster", out, "--key", key, "--members", folder, "--minimum", 3)]
    said = CliRunner().invoke(homeroom, words).output
    assert "6 devices, at least 3 in a sum" in said
    assert "left out, by school_devices of the round: 2 devices of Hill" in said


def test_serve_refuses_a_crowded_roster_and_says_so_of_one_that_is_there(
    folder: Path, keys: list[School], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeroom_aggregator.server.serve.serve", lambda *_, **__: None)
    word, path = certify(ROOT, "roster", SIGNER, "tests"), folder.parent / "crowded.json"
    crowded = make_roster(SIGNER, word, named(keys, *range(8)), serial=1, minimum=3, institution="tests")
    path.write_bytes(msgspec.json.encode(crowded))
    refused = start(folder, "--roster", path)
    assert "has 4 devices of Hill, and school_devices is 2" in str(refused.exception)
    assert load_roster(folder) is None
    replace_roster(folder, path.read_bytes())
    (note,) = notes(folder, read_configuration(folder).round)
    assert note.startswith("roster.json has more than 2 devices of Hill: a cohort takes no more of them")
    served = start(folder)
    assert served.exit_code == 0
    assert note in served.output
    assert start(folder, "--school-devices", 0, "--roster", path).exit_code == 0
    assert notes(folder, msgspec.structs.replace(read_configuration(folder).round, school_devices=4)) == []


@pytest.mark.parametrize("rules", [{"school_devices": 1}])
def test_a_cohort_has_no_more_of_a_school_whatever_the_roster_has_and_the_updates_of_others_wait(
    district: District, rules: dict[str, Any]
) -> None:
    rounds, members = district.service.rounds, district.members
    pair = sorted(members[:2], key=lambda member: member.school.name)
    with rounds.change():
        for member in pair:
            rounds.log.database.write("UPDATE devices SET school = 'Hill' WHERE device = ?", (member.school.name,))
        rounds.members.consent("Hill", "a letter")
    for _ in range(8):
        if district.version == 0:
            district.visit(0, 1, 2, 3)
    assert district.version == 1
    inside = {member.update_id for member in members if member is not pair[1]}
    district.visit(0, 1, 2, 3)
    waiting = {update.update_id for member in members for update in member.store.outbox.pending()}
    assert waiting == {pair[1].update_id}, "the other three are in the sum, and nothing is lost"
    assert inside.isdisjoint(waiting)
    assert round_kind(rounds.configuration).endswith("; a roster has at most 1 device of one school")


@pytest.mark.parametrize(("options", "limit"), [((), 2), (("--school-devices", "5"), 5)])
def test_a_new_district_has_two_devices_of_a_school_and_an_old_one_any_number(
    options: tuple[str, ...], limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeroom_aggregator.server.serve.serve", lambda *_, **__: None)
    write_key(tmp_path / "root.pem", ROOT)
    words = ["--bundle", write_bundle(tmp_path / "bundle"), "--root-key", tmp_path / "root.pem", "--secure"]
    done = start(tmp_path / "district", *words, "--institution", "District 7", *options)
    assert done.exit_code == 0, done.output
    assert read_configuration(tmp_path / "district").round.school_devices == limit
    old = make_folder(tmp_path / "old", min_devices=3, secure=RULES)  # type: ignore[arg-type]
    assert start(old).exit_code == 0
    assert read_configuration(old).round.school_devices == 0
    assert "school_devices" not in read_configuration(old).round.document, "the configuration keeps its identity"
