"""A sheet that labels the files beside it finds each, however it spells the name."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from homeroom.data.ingest import read_samples
from homeroom.errors import InputError

PNG = tiny.samples(1, seed=1)[0]["picture"]


@pytest.mark.parametrize("written", ["u/Ba\u0308r.png", "U\\B\u00e4r.PNG", "./u/B\u00e4r", "u/b\u00e4r.png"])
def test_labels_name_a_file_in_any_spelling_that_is_clear(written: str, tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "Ba\u0308r.png").write_bytes(PNG)  # as a Mac writes the name
    (tmp_path / "labels.csv").write_text(f"file,label.category\n{written},cat\n", encoding="utf-8")
    (sample,) = read_samples(tmp_path, tiny.draft())
    assert sample.labels == {"category": "cat"}
    (tmp_path / "labels.csv").write_text(f"file,label.category\n{written},cat\nu/B\u00e4r.png,dog\n", encoding="utf-8")
    with pytest.raises(InputError, match="twice") as problem:
        list(read_samples(tmp_path, tiny.draft()))
    assert problem.value.remedy


def test_files_that_differ_in_case_alone_are_two_and_a_near_name_is_said(tmp_path: Path) -> None:
    for name in ("a.png", "A.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "labels.csv").write_text("file,label.category\nA.png,cat\n")
    assert [one.labels for one in read_samples(tmp_path, tiny.draft())] == [{"category": "cat"}, {}]
    (tmp_path / "labels.csv").write_text("file,label.category\nA.PNG,cat\n")
    with pytest.raises(InputError, match="not in the folder") as problem:
        list(read_samples(tmp_path, tiny.draft()))
    assert "did you mean" in problem.value.remedy
