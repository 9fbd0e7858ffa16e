"""Entries open only regular files below their own folder, however they name them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from conftest import Attack

from homeroom.data.ingest import read_samples
from homeroom.errors import InputError
from homeroom.system.files import open_below

NO_LINKS = not hasattr(os, "symlink")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of somebody else beside the folder that is added."""
    (tmp_path / "lesson").mkdir()
    path = tmp_path / "secret.png"
    path.write_bytes(next(row["picture"] for row in tiny.samples(40, 3) if "picture" in row))
    return path


def row(folder: Path, name: str) -> Path:
    (folder / "rows.jsonl").write_text(json.dumps({"word": "cat", "picture": name}))
    return folder / "rows.jsonl"


def sheet(folder: Path, name: str) -> Path:
    (folder / "rows.csv").write_text(f"word,picture\ncat,{name}\n")
    return folder / "rows.csv"


def linked(folder: Path, secret: Path, name: str) -> str:
    (folder / name).symlink_to(secret)
    return name


def linked_folder(folder: Path, secret: Path) -> str:
    (folder / "pictures").symlink_to(secret.parent)
    return "pictures/secret.png"


def linked_rows(folder: Path, secret: Path, name: str, text: str) -> Path:
    (secret.parent / "elsewhere").write_text(text)
    (folder / name).symlink_to(secret.parent / "elsewhere")
    return folder


CASES: dict[str, Callable[[Path, Path], Path]] = {
    "an absolute path": lambda folder, secret: row(folder, str(secret)),
    "a path that leads out": lambda folder, secret: row(folder, "../secret.png"),
    "a path that leads out and in": lambda folder, secret: row(folder, "../lesson/../secret.png"),
    "a link": lambda folder, secret: row(folder, linked(folder, secret, "a.png")),
    "a folder that is a link": lambda folder, secret: row(folder, linked_folder(folder, secret)),
    "an absolute path in a sheet": lambda folder, secret: sheet(folder, str(secret)),
    "a link in a sheet": lambda folder, secret: sheet(folder, linked(folder, secret, "a.png")),
    "a link in a folder": lambda folder, secret: Path(folder, linked(folder, secret, "a.png")).parent,
    "rows that are a link": lambda folder, secret: linked_rows(folder, secret, "samples.jsonl", '{"word": "cat"}'),
}
if hasattr(os, "mkfifo"):
    CASES["a pipe"] = lambda folder, secret: row(folder, (os.mkfifo(folder / "pipe"), "pipe")[1])
    CASES["a device"] = lambda folder, secret: row(folder, "/dev/zero")


@pytest.mark.attack("files and bundles", "A row that names a file outside its folder")
@pytest.mark.skipif(NO_LINKS, reason="no links here")
@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_the_folder_is_read(case: str, secret: Path, tiny_bundle: tiny.Tiny, attack: Attack) -> None:
    source = CASES[case](secret.parent / "lesson", secret)
    with pytest.raises(InputError, match=r"leads out|link|pipe or a device") as refused:
        attack.got = len(list(read_samples(source, tiny_bundle.manifest)))
    assert refused.value.where
    attack.noticed = str(refused.value.what)


@pytest.mark.skipif(NO_LINKS, reason="no links here")
def test_a_file_below_the_folder_and_a_sheet_that_the_user_linked_are_read(
    secret: Path, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    folder = tmp_path / "lesson"
    (folder / "deep").mkdir()
    (folder / "deep" / "a.png").write_bytes(secret.read_bytes())
    (sample,) = read_samples(row(folder, "deep/a.png"), tiny_bundle.manifest)
    assert sample.inputs["picture"] == [secret.read_bytes()]
    (folder / "mine.jsonl").symlink_to(folder / "rows.jsonl")
    assert list(read_samples(folder / "mine.jsonl", tiny_bundle.manifest)) == [sample]
    (tmp_path / "shortcut").symlink_to(folder)
    assert list(read_samples(tmp_path / "shortcut" / "rows.jsonl", tiny_bundle.manifest)) == [sample]
    with open_below(folder, "deep/a.png") as file:
        assert file.read() == secret.read_bytes()
