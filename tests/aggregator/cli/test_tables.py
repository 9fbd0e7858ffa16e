"""Lists of members, schools, invitations and audit entries: tables for people, JSON for programs; nothing steers."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from aggregator.institution import School, make_folder
from homeroom.cli.main import homeroom
from homeroom.errors import InputError
from homeroom_aggregator.admin.folder import make_invitations, open_log, open_rounds, read_secret
from homeroom_aggregator.state.members import Members, join_with_code

LISTS = (("members",), ("members", "--schools"), ("consent",), ("invite", "--list"), ("audit", "show"))
STEERING = ("\x1b", "\x9b", "\x07", "\u202e", "\u2028")


def run(*words: object) -> str:
    done = CliRunner().invoke(homeroom, ["district", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def listed(folder: Path, words: tuple[str, ...], *more: str) -> str:
    head = 2 if words[0] == "audit" else 1
    return run(*words[:head], folder, *words[head:], *more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = make_folder(tmp_path)
    open_rounds(where).close()
    rows = [("Hill School", "device"), ("Hill School", "device"), ("学校", "device"), ("Lake School", "school")]
    made = make_invitations(where, "http://a.example", rows, consents={"Hill School": "letter"})  # type: ignore[arg-type]
    with closing(open_log(where)) as log:
        for invitation in (made[0], made[2]):
            join_with_code(Members(log.database), read_secret(where), School().name, invitation.code)
    return where


@pytest.mark.parametrize("words", LISTS)
def test_a_list_is_a_table_whose_columns_begin_below_their_titles(words: tuple[str, ...], folder: Path) -> None:
    from rich.cells import cell_len

    head, *lines = listed(folder, words).splitlines()
    assert lines
    titles = [title.strip() for title in head.split("  ") if title.strip()]
    for title in titles[1:]:
        start = head.index(title)
        for line in lines:
            before = next((n for n in range(len(line) + 1) if cell_len(line[:n]) >= start), None)
            assert before is None or cell_len(line[:before]) == start
            assert before is None or line[before - 2 : before] == "  ", line


@pytest.mark.parametrize("words", LISTS)
def test_programs_get_one_json_object_a_line(words: tuple[str, ...], folder: Path) -> None:
    rows = [json.loads(line) for line in listed(folder, words, "--json").splitlines()]
    assert rows
    assert all(isinstance(row, dict) for row in rows)


def test_the_spellings_of_before_go_on_printing_json(folder: Path) -> None:
    for words in (["members", folder], ["audit", "show", folder]):
        done = CliRunner().invoke(homeroom, list(map(str, words)), catch_exceptions=False)
        assert all(json.loads(line) for line in done.stdout.splitlines())
    done = CliRunner().invoke(homeroom, ["rebuild", str(folder)], catch_exceptions=False)
    assert json.loads(done.stdout)["devices"] == 2


def test_what_stands_in_a_table(folder: Path) -> None:
    said = listed(folder, ("consent",))
    assert "Hill School  1        given    letter" in said
    assert "Lake School  0        none     -" in said
    invited = listed(folder, ("invite", "--list"))
    assert [invited.count(status) for status in ("used", "open")] == [2, 2]
    assert "A device joined (Hill School): key" in listed(folder, ("audit", "show"))


@pytest.mark.parametrize("words", LISTS)
def test_no_name_steers_the_terminal(words: tuple[str, ...], folder: Path) -> None:
    """Names are checked where they come in; those of a log of before are not."""
    name = "Hill" + "".join(STEERING) + "[2J"
    with closing(open_log(folder)) as log:
        log.database.write("INSERT INTO consents (school, given_by, at) VALUES (?, ?, '2026-01-01')", (name, name))
        log.database.write("UPDATE devices SET school = ? WHERE rowid = 1", (name,))
        log.database.write("UPDATE invitations SET school = ? WHERE rowid = 1", (name,))
        from homeroom_aggregator.state import audit

        audit.record(log.database, "consent given", school=name, by=name)
    for more in ((), ("--json",)):
        said = listed(folder, words, *more)
        assert not any(character in said for character in STEERING)
        assert "Hill" in said


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["invite", "FOLDER", "--csv", "sheet.csv", "--count", "3"], "--count says nothing with --csv"),
        (["invite", "FOLDER", "--csv", "sheet.csv", "--school", "A"], "--school says nothing with --csv"),
        (["invite", "FOLDER", "--list", "--days", "3"], "--days says nothing with --list"),
        (["consent", "FOLDER", "--by", "Ms Lee"], "--by says nothing with a list of all schools"),
        (["dashboard", "FOLDER", "--key", "k.pem"], "--key says nothing with a folder"),
        (["dashboard", "FILE", "--key", "k.pem", "--role", "auditor"], "--role says nothing with an invitation"),
    ],
)
def test_an_option_without_effect_is_refused(words: list[str], option: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "invitation.json").write_text("{}")
    places = {"FOLDER": str(folder), "FILE": str(tmp_path / "invitation.json")}
    done = CliRunner().invoke(homeroom, ["district", *(places.get(word, word) for word in words)])
    assert isinstance(done.exception, InputError)
    assert option in done.exception.what
