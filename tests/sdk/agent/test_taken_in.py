"""What a receipt of the inbox says is on the page, since nobody sees the receipt: near misses, what was left out."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
import tiny

from homeroom import Device
from homeroom.agent import inbox
from homeroom.agent.taken_in import MOST_KEPT, TAKEN_IN

PNG = tiny.samples(1, seed=1)[0]["picture"]
SHEET = "word,facts.kilograms,label.category,subject\na cat,n/a,cat,P-1 \n"


def test_the_page_says_what_the_receipts_of_the_inbox_say(tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    (tmp_path / "inbox" / "lesson" / "cta").mkdir(parents=True)
    (tmp_path / "inbox" / "lesson" / "cta" / "a.png").write_bytes(PNG)
    (tmp_path / "inbox" / "week.csv").write_text(SHEET)
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        inbox.import_entries(device, inbox.scan_inbox(tmp_path / "inbox", 0.0).samples)
        sheet, folder = sorted(TAKEN_IN.read(device.store) or [], key=lambda entry: entry.name, reverse=True)
        assert (sheet.name, folder.name) == ("week.csv", "lesson")
        assert "cells taken as missing: n/a (1)" in sheet.lines
        assert any("did you mean" in line for line in folder.lines), folder.lines
        for number in range(MOST_KEPT):
            (tmp_path / "inbox" / f"{number}.csv").write_text(f"word\nthe cat {number}\n")
        inbox.import_entries(device, inbox.scan_inbox(tmp_path / "inbox", 0.0).samples)
        assert len(TAKEN_IN.read(device.store) or []) == MOST_KEPT


@pytest.mark.parametrize("how", ["forget", "remove", "expire"])
def test_what_receipts_say_goes_whenever_samples_go(
    how: str, tmp_path: Path, tiny_bundle: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "week.csv").write_text("word,subject,retain_until\na cat,P-1,2099-01-01\na dog,p-1,\n")
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        inbox.import_entries(device, inbox.scan_inbox(tmp_path / "inbox", 0.0).samples)
        assert "also held" in str(TAKEN_IN.read(device.store))
        if how == "forget":
            device.forget("P-1")
        elif how == "remove":
            device.remove(device.store.samples("P-1")[0].sample_id)
        else:
            monkeypatch.setattr(device.store, "today", lambda: datetime.date(2099, 2, 1))
            assert device.store.expire() == 1
        assert TAKEN_IN.read(device.store) is None


@pytest.mark.parametrize(
    ("folder", "named", "kind", "holds"),
    [
        ("photos", "photos/a.png", "xlsx", True),
        ("R&D pics", "R&D pics/a.png", "xlsx", True),
        ("\u00e9cole", "\u00e9cole/a.png", "jsonl", True),
        ("\u00e9cole", "e\u0301cole/a.png", "csv", True),
        ("Photos", "photos\\a.png", "csv", True),
        ("trip", "our trip/a.png", "csv", False),
    ],
)
def test_a_refused_sheet_holds_the_folder_that_its_rows_name(
    folder: str, named: str, kind: str, holds: bool, tmp_path: Path, tiny_bundle: tiny.Tiny
) -> None:
    (tmp_path / "inbox" / folder).mkdir(parents=True)
    (tmp_path / "inbox" / folder / "a.png").write_bytes(PNG)
    sheet = tmp_path / "inbox" / f"lesson.{kind}"
    if kind == "xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for row in (("picture", "label.category"), (named, "no such label")):
            book.active.append(row)
        book.save(sheet)
    elif kind == "csv":
        sheet.write_text(f"picture,label.category\n{named},no such label\n", encoding="utf-8")
    else:
        sheet.write_text(json.dumps({"picture": named, "labels": {"category": "no such label"}}) + "\n")
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        found = inbox.import_entries(device, inbox.scan_inbox(tmp_path / "inbox", 0.0).samples)
    assert found == ((0, 2) if holds else (1, 1))
    whys = " ".join(entry.why for entry in inbox.refused_entries(tmp_path / "inbox"))
    assert (f"lesson.{kind}, which was refused" in whys) == holds
    assert len([*(tmp_path / "inbox").rglob("a.png")]) == holds
