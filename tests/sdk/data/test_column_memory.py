"""Exports of Google Forms and Moodle as they look: what their columns are is said once, and remembered beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny

from homeroom import Device
from homeroom.agent import inbox
from homeroom.cli.main import main
from homeroom.data.ingest.column_memory import MEMORY_FILE
from homeroom.errors import InputError

FORMS = (
    '"Timestamp","Email Address","What do you see?\n(in a few words, please)","Which animal, cat or dog?"\n'
    '"2026/01/02 10:00:00 AM GMT+1","ada@school.example","the small cat","cat"\n'
    '"2026/01/02 10:04:11 AM GMT+1","bo@school.example","a red dog,\nit runs","Dog"\n'
)
FORMS_MAP = (
    "What do you see? (in a few words, please)=word",
    "Which animal, cat or dog?=label.category",
    "Email Address=subject",
)
MOODLE = (
    '"First name","Last name","Email address",State,"Started on","Time taken",Grade/10.00,"Response 1"\n'
    'Ada,L,ada@school.example,Finished,"1 January 2026 10:00 AM","5 mins 3 secs","8,50","the small cat"\n'
    'Bo,M,bo@school.example,Finished,"1 January 2026 10:02 AM","2 mins","10,00","a red dog"\n'
)


@pytest.fixture
def place(tmp_path: Path, tiny_bundle: tiny.Tiny) -> Path:
    Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1).close()
    (tmp_path / "exports").mkdir()
    return tmp_path


def put(place: Path, text: str, name: str = "Animals (Responses) - Form Responses 1.csv") -> Path:
    path = place / "exports" / name
    path.write_text(text, "utf-8")
    return path


def add(place: Path, path: Path, *options: str) -> None:
    main(["device", "add", str(place / "device"), str(path), "--json", *options])


def samples(place: Path) -> list[tuple[str, str | None, dict[str, object]]]:
    with Device.open(place / "device", threads=1) as device:
        stored = device.store.each_sample()
        return sorted((str(one.inputs["word"][0]), one.subject, dict(one.labels)) for one in stored)


def mapped(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--map", pair)]


def receipt(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_form_is_mapped_once_and_its_next_export_needs_no_option(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(place, put(place, FORMS), *mapped(*FORMS_MAP), "--ignore", "Timestamp")
    memory = place / "exports" / MEMORY_FILE
    assert str(memory) in str(receipt(capsys)["notes"])
    if os.name != "nt":
        assert memory.stat().st_mode & 0o077 == 0
    first = [
        ("a red dog,\nit runs", "bo@school.example", {"category": "dog"}),
        ("the small cat", "ada@school.example", {"category": "cat"}),
    ]
    assert samples(place) == first
    later = FORMS + '"2026/01/09 09:00:00 AM GMT+1","cy@school.example","one blue fish","fish"\n'
    add(place, put(place, later, "Animals (Responses) - Form Responses 1 (1).csv"))
    said = receipt(capsys)
    assert (said["added"], said["known"]) == (1, 2)
    assert "Which animal, cat or dog? = label.category" in str(said["notes"])
    assert len(samples(place)) == 3


def test_moodles_grades_with_commas_are_numbers_and_are_remembered_with_their_columns(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passed = "First name,Last name,State,Started on,Time taken"
    add(
        place,
        put(place, MOODLE, "quiz.csv"),
        *mapped("Response 1=word", "Grade/10.00=label.weight", "Email address=subject"),
        "--ignore",
        passed,
    )
    assert [labels for _, _, labels in samples(place)] == [{"weight": 10.0}, {"weight": 8.5}]
    capsys.readouterr()
    add(place, put(place, MOODLE.replace("8,50", "7,25"), "quiz.csv"))
    assert {"weight": 7.25} in [labels for _, _, labels in samples(place)]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "Which animal, cat or dog?",
            "Which animal was it?",
            "new: Which animal was it?; gone: Which animal, cat or dog?",
        ),
        ('"Timestamp",', '"Timestamp","Score",', "new: Score"),
    ],
)
def test_a_sheet_of_that_name_with_other_columns_is_refused_with_what_to_do(
    old: str, new: str, says: str, place: Path
) -> None:
    path = put(place, FORMS)
    add(place, path, *mapped(*FORMS_MAP), "--ignore", "Timestamp")
    put(place, FORMS.replace(old, new))
    with Device.open(place / "device", threads=1) as device:
        with pytest.raises(InputError, match="has other columns than last time") as refused:
            device.take_in(path)
        assert device.store.count() == 2
    assert says in refused.value.what
    assert "--map" in refused.value.remedy
    assert MEMORY_FILE in refused.value.remedy


def test_the_inbox_reads_the_next_export_by_what_was_said_of_the_first(place: Path) -> None:
    add(place, put(place, FORMS), *mapped(*FORMS_MAP), "--ignore", "Timestamp")
    put(place, FORMS.replace("the small cat", "the big cat"), "next week.csv")
    with Device.open(place / "device", threads=1) as device:
        entries = inbox.scan_inbox(place / "exports", 0.0).samples
        assert inbox.import_entries(device, entries) == (1, 0)
    assert sorted(path.name for path in (place / "exports").iterdir()) == [MEMORY_FILE]
    assert inbox.left_entries(place / "exports", None).unread == {}


def test_nothing_is_remembered_of_a_sheet_that_was_not_taken(place: Path) -> None:
    with pytest.raises(SystemExit):
        add(place, put(place, FORMS.replace('"cat"\n', '"cow"\n')), *mapped(*FORMS_MAP), "--ignore", "Timestamp")
    assert not (place / "exports" / MEMORY_FILE).exists()


def test_a_file_that_cannot_be_read_says_so_and_a_question_with_commas_is_passed_over(place: Path) -> None:
    path = put(place, FORMS)
    (place / "exports" / MEMORY_FILE).write_text("{")
    with Device.open(place / "device", threads=1) as device, pytest.raises(InputError, match=MEMORY_FILE):
        device.take_in(path)
    (place / "exports" / MEMORY_FILE).unlink()
    ignore = 'Timestamp,"Which animal, cat or dog?"'
    add(place, path, *mapped(FORMS_MAP[0], FORMS_MAP[2]), "--ignore", ignore)
    assert [labels for _, _, labels in samples(place)] == [{}, {}]
