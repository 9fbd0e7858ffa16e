"""The inbox of the field benchmark: whatever people put there is taken in, or still lies there, or is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from field_kind import Kind, Outcome, Verdict
from field_media import encoded, rgb
from field_sheets import media_folder

SHEET = b"word,label.category\na cat,cat\n"
PICTURES = b"picture,label.category\na.png,cat\n"


def inbox(name: str, wanted: str, write: Callable[[Path], object], samples: int, *kept: str) -> Kind:
    """kept: names of files of which the bytes must still lie in the inbox, or in refused/ below it."""

    def make(folder: Path) -> Path:
        write(folder)
        return folder

    def judge(outcome: Outcome) -> Verdict:
        there = [Path(path).name for path in outcome.left]
        if any(not any(one.endswith(name) for one in there) for name in kept):
            return Verdict.LOST
        return Verdict.RIGHT if len(outcome.samples) == samples else Verdict.WRONG

    return Kind(name, "inbox", wanted, make, judge, inbox=True)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def lesson(folder: Path, *more: tuple[str, bytes]) -> None:
    """A folder of media with further files in it."""
    media_folder(folder / "lesson")
    for name, data in more:
        put(folder / "lesson" / name, data)


def link(folder: Path) -> None:
    lesson(folder)
    (folder / "lesson" / "cat" / "b.png").symlink_to("/etc/hostname")
    (folder / "linked").symlink_to(folder / "lesson")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "lesson.csv")


def kinds() -> list[Kind]:
    png = encoded(rgb(), "PNG")
    return [
        inbox("a sheet", "taken in", lambda f: put(f / "lesson.csv", SHEET), 1),
        inbox("a sheet in capitals", "taken in", lambda f: put(f / "Lesson.CSV", SHEET), 1),
        inbox("a folder of media", "taken in", lesson, 1),
        inbox("a document in the folder", "kept", lambda f: lesson(f, ("plan.docx", b"PK")), 1, "plan.docx"),
        inbox("an unread photo in the folder", "kept", lambda f: lesson(f, ("cat/b.psd", b"8BPS")), 1, "b.psd"),
        inbox("a half-copied file in the folder", "waits", lambda f: lesson(f, ("cat/b.png.part", png[:99])), 0, "b.png.part"),
        inbox("Labels.csv in capitals", "its labels", lambda f: lesson(f, ("Labels.csv", b"file,label.category\ncat/a.png,fish\n")), 1),
        inbox("a sheet before its pictures", "waits or is refused", lambda f: put(f / "lesson.csv", PICTURES), 0, "lesson.csv"),
        inbox("an empty new folder", "stays", lambda f: (f / "new").mkdir(), 0),
        inbox("loose photos", "stay, and are named", lambda f: put(f / "a.png", png), 0, "a.png"),
        inbox("a second invitation", "waits for a person", lambda f: put(f / "invitation-1.json", b"{}"), 0, "invitation-1.json"),
        inbox("a downloaded invitation", "waits for a person", lambda f: put(f / "invitation (1).json", b"{}"), 0, "invitation (1).json"),
        inbox("an Excel file", "taken in, or stays", lambda f: put(f / "lesson.xlsx", b"PK"), 0, "lesson.xlsx"),
        inbox("a damaged sheet", "refused", lambda f: put(f / "lesson.csv", b"word,word\na,b\n"), 0, "lesson.csv"),
        inbox("a link", "not followed", link, 1),
        inbox("a pipe called lesson.csv", "not read", pipe, 0, "lesson.csv"),
        inbox("a damaged picture among good ones", "kept", lambda f: lesson(f, ("cat/b.png", png[:60])), 0, "b.png", "a.png"),
    ]  # fmt: skip
