"""The inbox loses nothing: only files that were read are deleted, and whatever is not read is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny

from homeroom import Device
from homeroom.agent import inbox

PNG = tiny.samples(1, seed=1)[0]["picture"]


@pytest.fixture
def place(tmp_path: Path, tiny_bundle: tiny.Tiny) -> Path:
    Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1).close()
    (tmp_path / "inbox" / "lesson" / "cat").mkdir(parents=True)
    (tmp_path / "inbox" / "lesson" / "cat" / "a.png").write_bytes(PNG)
    return tmp_path


def take_in(place: Path) -> tuple[int, int]:
    with Device.open(place / "device", threads=1) as device:
        return inbox.import_entries(device, inbox.scan_inbox(place / "inbox", 0.0).samples)


def names(place: Path) -> list[str]:
    files = (path for path in (place / "inbox").rglob("*") if not path.is_dir())
    return sorted(path.name.split("-", 2)[-1] for path in files)


def test_what_was_read_is_deleted_with_what_systems_leave(place: Path) -> None:
    (place / "inbox" / "lesson" / ".DS_Store").write_bytes(b"x")
    (place / "inbox" / "Lesson.CSV").write_text("word,label.category\na cat,cat\n")
    assert take_in(place) == (2, 0)
    assert names(place) == []


@pytest.mark.parametrize("name", ["plan.docx", "cat/b.psd", ".hidden"])
def test_what_was_not_read_is_kept_with_the_reason(name: str, place: Path) -> None:
    (place / "inbox" / "lesson" / name).write_bytes(b"precious")
    assert take_in(place) == (1, 1)
    (entry,) = inbox.refused_entries(place / "inbox")
    kept = place / "inbox" / "refused" / entry.name / name
    assert kept.read_bytes() == b"precious"
    assert name.startswith(".") or name in entry.why
    assert not (place / "inbox" / "lesson").exists()
    assert not (kept.parent / "a.png").exists()  # it is in the device


def test_an_entry_that_changes_while_it_is_read_stays_and_is_read_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "inbox" / "lesson" / "labels.csv").write_text("file,label.category\ncat/a.png,fish\n")
    take = Device.take_in

    def slowly(self: Device, *samples: Path) -> object:
        receipt = take(self, *samples)
        (place / "inbox" / "lesson" / "cat" / "late.png").write_bytes(PNG)
        return receipt

    with monkeypatch.context() as patch:
        patch.setattr(Device, "take_in", slowly)
        assert take_in(place) == (1, 0)
    assert names(place) == ["a.png", "labels.csv", "late.png"]
    take_in(place)
    assert names(place) == []


def test_an_entry_with_a_half_copied_file_waits(place: Path) -> None:
    part = place / "inbox" / "lesson" / "b.png.part"
    part.write_bytes(PNG[:50])
    assert take_in(place) == (0, 0)
    os.utime(part, (1e9, 1e9))  # nobody copies it any more
    assert take_in(place) == (1, 1)
    assert "b.png.part" in names(place)


def test_what_is_no_entry_stays_and_is_named(place: Path) -> None:
    box = place / "inbox"
    for name in ("a.png", "notes.docx", "invitation-1.json", "invitation (1).json"):
        (box / name).write_bytes(b"x")
    (box / "empty").mkdir()
    (box / "link").symlink_to(place)
    os.mkfifo(box / "pipe.csv")
    assert take_in(place) == (1, 0)
    unread = dict(inbox.left_entries(box, None).unread)
    assert sorted(unread) == sorted(path.name for path in box.iterdir())
    assert "labels them" in unread["a.png"]
    assert "get it again" in unread["invitation-1.json"]


def test_a_folder_that_unpacking_put_into_another_is_read_by_its_sheet(place: Path) -> None:
    folder = place / "inbox" / "lesson" / "cat"
    (folder / "labels.csv").write_text("file,label.category\na.png,fish\n")
    (folder / "~$labels.xlsx").write_bytes(b"open in Excel")
    assert take_in(place) == (1, 0)
    with Device.open(place / "device", threads=1) as device:
        assert [sample.labels for sample in device.store.samples()] == [{"category": "fish"}]
    assert names(place) == []


def test_a_sheet_in_one_of_several_folders_is_named_and_kept(place: Path) -> None:
    (place / "inbox" / "lesson" / "dog").mkdir()
    (place / "inbox" / "lesson" / "dog" / "labels.csv").write_text("file,label.category\nb.png,dog\n")
    assert take_in(place) == (1, 1)
    (entry,) = inbox.refused_entries(place / "inbox")
    assert "dog/labels.csv: a sheet is used in the folder that is given" in entry.why


def test_what_marks_a_file_that_is_open_is_no_entry(place: Path) -> None:
    mark = place / "inbox" / "~$lesson.xlsx"
    mark.write_bytes(b"x" * 165)
    assert take_in(place) == (1, 0)
    assert mark.exists()
    assert inbox.left_entries(place / "inbox", None).unread == {}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("a.ods", "save it as .xlsx"), ("a.zip", "unpack it"), ("a.xyz", "put sheets")],
)
def test_what_is_left_is_named_with_what_to_do(name: str, remedy: str, place: Path) -> None:
    (place / "inbox" / name).write_bytes(b"precious")
    take_in(place)
    assert remedy in inbox.left_entries(place / "inbox", None).unread[name]
    assert (place / "inbox" / name).read_bytes() == b"precious"


def test_a_sheet_is_read_before_the_folder_whose_files_it_names(place: Path) -> None:
    (place / "inbox" / "lesson" / "cat").rename(place / "inbox" / "lesson" / "photos")
    (place / "inbox" / "week.csv").write_text("picture,label.category\nlesson/photos/a.png,fish\n")
    assert take_in(place) == (1, 0)
    assert names(place) == []
    with Device.open(place / "device", threads=1) as device:
        assert [sample.labels for sample in device.store.samples()] == [{"category": "fish"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_folder_whose_sheet_was_refused_waits_for_the_corrected_one(encoding: str, place: Path) -> None:
    sheet = place / "inbox" / "week.csv"
    sheet.write_text("picture,label.category\nlesson/cat/a.png,fisch\n", encoding=encoding)
    assert take_in(place) == (0, 2)
    assert names(place) == ["a.png", "lesson.why.txt", "week.csv", "week.csv.why.txt"]
    folder, refused = sorted(inbox.refused_entries(place / "inbox"), key=lambda entry: entry.name[16:])
    assert refused.name in folder.why
    assert "give both back" in folder.why
    sheet = inbox.give_back(place / "inbox", refused.name)
    sheet.write_text(sheet.read_text(encoding).replace("fisch", "fish"), encoding=encoding)
    inbox.give_back(place / "inbox", folder.name)
    assert take_in(place) == (1, 0)
    assert names(place) == []


def test_a_refused_sheet_holds_no_folder_back_that_it_does_not_name(place: Path) -> None:
    (place / "inbox" / "week.csv").write_text("word,label.category\nmy-lesson/cat,fisch\n")
    assert take_in(place) == (1, 1)
