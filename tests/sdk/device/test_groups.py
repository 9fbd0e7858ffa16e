"""Groups that are named at `add`: held out whole, said in receipt, training and score, and one kind on a device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
from click.testing import CliRunner

from homeroom import Device, ReadOptions, Sample
from homeroom.cli.main import homeroom
from homeroom.data.ingest.group_column import check_group
from homeroom.device.local_samples import to_examples, training_samples
from homeroom.errors import InputError
from homeroom.train.features.dataset import Dataset
from homeroom.train.settings import Settings

TOPICS = ("plants", "Rivers", "maps", "stars", "glass", "bread")


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        yield opened


def rows(count: int = 30, seed: int = 1) -> list[dict[str, Any]]:
    """Rows of six topics; neither the label nor the pupil goes with the topic."""
    return [
        {
            "word": f"{row['word']} {number} of {seed}",
            "subject": row["subject"],
            "labels": {"category": row["labels"]["category"]},
        }
        | {"topic": TOPICS[number % len(TOPICS)]}
        for number, row in enumerate(tiny.samples(count, seed))
    ]


def given(rows: list[dict[str, Any]]) -> list[Sample]:
    return [Sample(**row) for row in rows]


def sheet(folder: Path, rows: list[dict[str, Any]], topic: str = "topic", name: str = "lesson.csv") -> Path:
    lines = [f"word,subject,label.category,{topic}"]
    lines += [f"{row['word']},{row['subject']},{row['labels']['category']},{row['topic']}" for row in rows]
    (folder / name).write_text("\n".join(lines))
    return folder / name


def run(device: Device, *words: object, code: int = 0) -> str:
    device.close()
    done = CliRunner().invoke(homeroom, ["device", words[0], str(device.directory), *map(str, words[1:])])
    assert done.exit_code == code, done.output
    return str(done.output)


def topics_apart(device: Device) -> tuple[set[str], set[str]]:
    """The topics that teach and those that judge, as the training divides them."""
    samples = training_samples(device.store, device.bundle)
    topics = {one.sample_id: one.group.value for one in samples if one.group}
    ready = to_examples(device.store, device.bundle, device.graphs, samples)
    train, judging = Dataset(device.bundle.manifest, ready).split(0.2, 0)
    assert judging is not None
    return tuple({topics[e.sample_id] for e in side.examples} for side in (train, judging))  # type: ignore[return-value]


def test_a_column_of_a_sheet_is_held_out_whole_and_said_everywhere(device: Device, tmp_path: Path) -> None:
    lesson = sheet(tmp_path, rows())
    assert "  held out whole by topic: 30 in 6 groups\n" in run(device, "add", lesson, "--group", "topic")
    assert " samples with another topic\n" in run(device, "train", "--epochs", 2)
    shared = "30 of 30 samples share their topic with some that are held here to learn from"
    said = run(device, "score", sheet(tmp_path, rows(seed=2), name="later.csv"), "--group", "topic")
    assert shared in said
    assert "held here to learn from: of new" not in said
    new = [row | {"topic": f"new {row['topic']}"} for row in rows(seed=2)]
    assert "share" not in run(device, "score", sheet(tmp_path, new, name="new.csv"), "--group", "topic")


def test_no_topic_teaches_and_judges(device: Device) -> None:
    device.add(*given(rows()), group="topic")
    teaching, judging = topics_apart(device)
    assert judging
    assert teaching.isdisjoint(judging)
    assert device.train(settings=Settings(epochs=1)).judged["category"].group == "topic"


def test_a_group_may_be_a_slot(device: Device) -> None:
    asked = [
        row | {"word": f"question {number % 5}", "facts": {"kilograms": number}} for number, row in enumerate(rows())
    ]
    for row in asked:
        del row["topic"]
    receipt = device.take_in(*given(asked), gates=False, options=ReadOptions(group="word"))
    assert (receipt.group, receipt.grouped, receipt.groups) == ("word", 30, 5)
    report = device.train(settings=Settings(epochs=1))
    assert report.judged["category"].text.endswith("samples with another word")
    said: list[str] = []
    device.score(Sample(word="question 3", labels={"category": "cat"}), note=said.append)  # the slot says it by itself
    assert any("1 of 1 samples share their word" in one for one in said)


def test_rows_without_a_value_are_counted_and_stand_by_their_pupil(device: Device, tmp_path: Path) -> None:
    some = [row | {"topic": row["topic"] if number else "n/a"} for number, row in enumerate(rows())]
    said = run(device, "add", sheet(tmp_path, some), "--group", "topic")
    assert "held out whole by topic: 29 in 6 groups; 1 have none, and are apart by their pupil" in said
    assert "cells taken as missing: n/a (1)" in said


def test_letters_and_blanks_make_no_group_of_their_own(device: Device) -> None:
    first, second, *_ = rows()
    receipt = device.take_in(
        *given([first | {"topic": "Rivers  and lakes "}, second | {"topic": "rivers and Lakes"}]),
        options=ReadOptions(group="topic"),
    )
    assert receipt.groups == 1


def test_a_score_says_how_many_samples_the_device_learns_from(device: Device, tmp_path: Path) -> None:
    first, later = rows(12), rows(6, seed=2)
    for row in first + later:
        del row["topic"]
    device.add(*given(first))
    said: list[str] = []
    asked = [{**row, "subject": "another"} for row in first[:4]] + later  # whoever is named: the words are the same
    assert device.score(*given(asked), note=said.append)["category"].learned == 4
    assert said == ["4 of 10 samples are held here to learn from: of new ones fewer answers may be right"]
    assert device.score(*given(later), note=said.append)["category"].learned == 0
    assert len(said) == 1
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    assert ", 10 samples, 4 of them held here to learn from\n" in run(device, "score", tmp_path / "asked.jsonl")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("topics", "no sample has what --group names: 'topics'"),
        ("subject", "pupils are held out whole without it"),
        ("labels", "'labels' is read otherwise"),
        ("facts.size", "'facts.size' is read otherwise"),
        ("source", "'source' is read otherwise"),
    ],
)
def test_a_group_that_is_none_is_refused_and_nothing_is_added(device: Device, name: str, said: str) -> None:
    plain = [{key: value for key, value in row.items() if key != "topic"} for row in rows()]
    with pytest.raises(InputError) as refused:
        device.add(*given(plain), group=name)
    assert said in refused.value.what
    assert device.store.count() == 0


def test_samples_of_one_device_are_grouped_by_one_column_until_all_are_added_anew(device: Device) -> None:
    plain = rows()
    device.add(*given(plain), group="topic")
    regrouped = [{("module" if key == "topic" else key): value for key, value in row.items()} for row in plain]
    with pytest.raises(InputError, match="grouped by 'topic', these by 'module'"):
        device.add(*given(regrouped[:10]), group="module")
    assert {one.group.name for one in training_samples(device.store, device.bundle) if one.group} == {"topic"}
    receipt = device.take_in(*given(regrouped), options=ReadOptions(group="module"))
    assert (receipt.added, receipt.known) == (0, 0)
    assert receipt.corrected == {"group: now its module": 30}
    ungrouped = [{key: value for key, value in row.items() if key != "topic"} for row in plain]
    device.add(*given(ungrouped))
    samples = training_samples(device.store, device.bundle)
    assert [one.group.name for one in samples if one.group] == ["module"] * 30


def test_a_mapped_column_and_its_group_are_remembered_beside_the_sheet(device: Device, tmp_path: Path) -> None:
    lesson = sheet(tmp_path, rows(12), "Topic of the week")
    said = run(device, "add", lesson, "--map", "Topic of the week=topic", "--group", "topic")
    assert "remembers for the next sheet with these columns: Topic of the week = topic, held out whole by topic" in said
    said = run(device, "add", sheet(tmp_path, rows(12, 2), "Topic of the week"))
    assert "held out whole by topic: 12 in 6 groups" in said


def test_a_group_moves_with_its_person(device: Device, tmp_path: Path, tiny_bundle: tiny.Tiny) -> None:
    (row, *_) = rows()
    device.add(*given([row]), group="topic")
    run(device, "hand-over", row["subject"], "--out", tmp_path / "out")
    (held,) = json.loads((tmp_path / "out" / "export.json").read_text())["samples"]
    assert held["group"] == {"name": "topic", "value": "plants"}
    with Device.open(tmp_path / "other", tiny_bundle.path, tiny_bundle.root, threads=1) as other:
        receipt = other.take_in(tmp_path / "out")
    assert (receipt.group, receipt.grouped) == ("topic", 1)


def test_a_bundle_that_names_its_own_group_keeps_it(tiny_bundle: tiny.Tiny) -> None:
    import msgspec

    from homeroom.data.ingest.group_column import check_group
    from homeroom.runtime.bundle import open_bundle

    manifest = open_bundle(tiny_bundle.path, root=tiny_bundle.root).manifest
    check_group("topic", manifest)
    first, *others = manifest.tasks
    judged = msgspec.structs.replace(manifest, tasks=(msgspec.structs.replace(first, group="word"), *others))
    with pytest.raises(InputError, match=f"judges {first.name} by whole 'word', not by 'topic'"):
        check_group("topic", judged)
    check_group("word", judged)  # tasks beside it have none yet
    whole = tuple(msgspec.structs.replace(task, group="word") for task in manifest.tasks)
    with pytest.raises(InputError, match="by whole 'word' already"):
        check_group("word", msgspec.structs.replace(manifest, tasks=whole))


def test_a_slot_of_several_inputs_and_a_name_with_signs_that_nobody_sees_are_no_group(device: Device) -> None:
    manifest = device.bundle.manifest
    several = msgspec.structs.replace(manifest, slots=(msgspec.structs.replace(manifest.slots[0], count=2),))
    for name, known, said in (
        (manifest.slots[0].name, several, "has several inputs"),
        ("to\u200bpic", manifest, "signs that nobody sees"),
    ):
        with pytest.raises(InputError) as refused:
            check_group(name, known)
        assert said in refused.value.what
