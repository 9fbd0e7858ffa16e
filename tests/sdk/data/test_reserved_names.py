"""Names that samples use for themselves: a bundle from before one was reserved keeps its slot of that name."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import tiny

from homeroom import Sample
from homeroom.contract.manifest import Manifest, Slot
from homeroom.data.ingest import Intake, read
from homeroom.data.ingest.jsonl import read_jsonl
from homeroom.data.samples import LATER_FIELDS, StoredSample
from homeroom.data.validation import reserved_fields, resolve
from homeroom.errors import InputError


def with_slot(name: str) -> Manifest:
    """A manifest whose text is a slot of this name."""
    base = tiny.draft()
    slots = tuple(Slot(name, one.modality, one.count) if one.name == "word" else one for one in base.slots)
    tasks = tuple(
        msgspec.structs.replace(task, reads=tuple(name if one == "word" else one for one in task.reads))
        for task in base.tasks
    )
    return msgspec.structs.replace(base, slots=slots, tasks=tasks)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


@pytest.mark.parametrize("name", LATER_FIELDS)
def test_a_slot_of_a_bundle_of_before_is_filled_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    manifest, row = with_slot(name), {name: "n/a", "subject": "p-1", "labels": {"category": "cat"}}
    files = [
        write(tmp_path, "a.csv", f"{name},subject,label.category\nn/a,p-1,cat\n"),
        write(tmp_path, "a.jsonl", json.dumps(row) + "\n"),
    ]
    for path in files:
        (sample,) = read([path], manifest, intake := Intake())
        assert_filled(sample, name)
        assert [one for one in intake.notes if name in one and "input of that name" in one]
    assert_filled(resolve(Sample(**{**row}), manifest), name)  # type: ignore[arg-type]
    (golden,) = read_jsonl(files[1], Intake(), reserved_fields(manifest))
    assert golden.inputs == {name: "n/a"}, "its golden samples are read as before, too"


def assert_filled(sample: StoredSample, name: str) -> None:
    assert sample.inputs == {name: ["n/a"]}
    assert (sample.subject, sample.author, sample.consent) == ("p-1", None, None)
    assert sample.labels == {"category": "cat"}


def test_a_last_column_why_is_passed_over_unless_it_is_a_slot(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "label.category,why\ncat,since it purrs\n")
    (sample,) = read([path], with_slot("why"))
    assert sample.inputs == {"why": ["since it purrs"]}
    with pytest.raises(InputError):
        list(read([path], tiny.draft()))


def test_names_of_0_1_0_stay_facts_of_a_sample(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "subject,picture\np-1,none.png\n")
    with pytest.raises(InputError, match="none"):
        list(read([path], with_slot("subject")))
    assert "subject" in reserved_fields(with_slot("subject"))


def test_a_column_labels_is_no_column_of_a_sheet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'labels'") as problem:
        list(read([write(tmp_path, "a.csv", "word,labels\na cat,cat\n")], tiny.draft()))
    assert "label" in problem.value.remedy
