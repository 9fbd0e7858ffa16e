"""`homeroom bundle recipe new`: a recipe from samples says why it is so, exports as it is, and its bundle trains."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from homeroom import Device
from homeroom.cli.main import main
from homeroom.errors import InputError
from homeroom.quickstart.lesson import write_samples
from homeroom_exporter.recipe.look import look
from homeroom_exporter.recipe.propose import Proposal, propose
from homeroom_exporter.recipe.recipe import Recipe, parse_recipe


def proposed(path: Path) -> tuple[Recipe, Proposal]:
    proposal = propose(look(path), "My lesson!")
    return parse_recipe(proposal.text), proposal


def lines(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sheet(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "weeks.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def task_kinds(recipe: Recipe) -> dict[str, str]:
    return {task.name: task.kind for task in recipe.tasks}


def test_three_commands_from_a_sheet_to_a_bundle_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = np.random.default_rng(1)
    rows: list[dict[str, object]] = [
        {
            "subject": f"p-{number % 6}",
            "week.minutes": round(float(chance.normal(90 if number % 2 else 30, 9)), 1),
            "week.place": "home" if number % 3 else "school",
            "label.needs_help": "no" if number % 2 else "yes",
        }
        for number in range(48)
    ]
    sheet(tmp_path, rows)
    monkeypatch.chdir(tmp_path)
    main(["bundle", "recipe", "new", "weeks.csv"])
    said = capsys.readouterr().out
    assert "needs_help: one of 2 labels" in said
    following = said.splitlines()[-1].removeprefix("next: homeroom ").split()
    main(following)
    main(["device", "add", "classroom", "weeks.csv", "--bundle", "recipe.homeroom"])
    with Device.open("classroom", threads=1) as device:
        assert device.train(minutes=1).finished
        assert (device.score("weeks.csv")["needs_help"].accuracy or 0) > 0.9
        assert {column.name for column in device.bundle.manifest.modalities[0].preprocess.columns} == {
            "minutes",
            "place",
        }
    with pytest.raises(SystemExit):
        main(["bundle", "recipe", "new", "weeks.csv"])
    assert "is there already" in capsys.readouterr().err


def test_folders_are_labels_and_the_sounds_decide_their_encoder(tmp_path: Path) -> None:
    made = write_samples(tmp_path / "made", (1, 3))
    media = made.parent / "media"
    for number, kind in enumerate(("short", "long") * 4):
        folder = tmp_path / "folders" / kind
        folder.mkdir(parents=True, exist_ok=True)
        sound = sorted(media.glob("*.wav"))[number]
        (folder / f"{number}.wav").write_bytes(sound.read_bytes())
        (folder / f"{number}.svg").write_bytes(sound.with_suffix(".svg").read_bytes())
        (folder / f"{number}.txt").write_text("the cat and the dog are in the house of a man who is not at home " * 2)
    recipe, proposal = proposed(tmp_path / "folders")
    assert {slot.name: slot.modality for slot in recipe.slots} == {"picture": "image", "sound": "audio", "text": "text"}
    assert task_kinds(recipe) == {"kind": "classification"}
    assert recipe.tasks[0].labels == ("long", "short")
    sources = {encoder.modality: encoder.source for encoder in recipe.encoders}
    assert sources["audio"] == "pip:speech-embedding"
    assert sources["text"] == "pip:minilm"
    assert any("common English" in reason for reason in proposal.reasons)


@pytest.mark.parametrize(
    ("text", "language", "source", "why"),
    [
        ("the sun is a star and it is at the centre of this system " * 4, "", "pip:minilm", "common English"),
        (
            "el sol es una estrella y está en el centro de la galaxia " * 4,
            "",
            "pip:use-multilingual",
            "reads English only",
        ),
        ("star", "", "pip:use-multilingual", "too few to tell"),
        ("star", "en", "pip:minilm", "their language is given"),
        ("der Stern", "de", "pip:use-multilingual", "reads English only"),
        ("звезда и солнце в центре системы на карте и не что " * 6, "", "pip:use-multilingual", "reads English only"),
    ],
)
def test_the_language_of_the_texts_decides_their_encoder(
    text: str, language: str, source: str, why: str, tmp_path: Path
) -> None:
    rows = [
        {"word": text, "labels": {"good": label}, **({"language": language} if language else {})} for label in "abab"
    ]
    recipe, proposal = proposed(lines(tmp_path, *rows))
    assert recipe.encoders[0].source == source
    assert why in " ".join(proposal.reasons)


def test_labels_make_the_kinds_of_tasks_that_they_are(tmp_path: Path) -> None:
    rows = [
        {
            "question": "which one is it",
            "answers": ["one", "two", "three"],
            "labels": {
                "which": number % 3,
                "weight": number * 1.5 - 3,
                "traits": ["big", "red"][: number % 3],
                "marks": [{"start": 0, "end": 5, "label": "word"}],
                "good": "yes" if number % 2 else "no",
                "same": True,
                "one_label": "x",
            },
        }
        for number in range(12)
    ]
    recipe, proposal = proposed(lines(tmp_path, *rows))
    assert task_kinds(recipe) == {
        "which": "choice",
        "weight": "regression",
        "traits": "multilabel",
        "marks": "spans",
        "good": "classification",
    }
    said = "\n".join(proposal.reasons)
    assert "no task same: true and false are labels of a matching of two inputs, and there are 1" in said
    assert "no task one_label: has 1 different labels" in said


def test_two_texts_are_compared_and_two_inputs_matched(tmp_path: Path) -> None:
    rows = [
        {"first": "the one", "second": "the other", "labels": {"same": bool(n % 2), "grade": "ab"[n % 2]}}
        for n in range(6)
    ]
    recipe, _ = proposed(lines(tmp_path, *rows))
    assert task_kinds(recipe) == {"same": "matching", "grade": "classification"}
    assert recipe.heads["grade"] == "pair"


def test_whole_numbers_of_a_sheet_rise(tmp_path: Path) -> None:
    path = sheet(tmp_path, [{"facts.a": n, "label.level": 1 + n % 3} for n in range(9)])
    recipe, _ = proposed(path)
    assert [(task.kind, task.labels) for task in recipe.tasks] == [("ordinal", ("1", "2", "3"))]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"hours": 3, "labels": {"a": "b"}}, "columns of a table"),
        ({"word": "cat"}, "no label to make a task of"),
        ({"history": [["fractions", True]], "labels": {"a": "b"}}, "histories of answers"),
        ({'word"]\nseed': "cat", "labels": {"a": "b"}}, "cannot be the name"),
        ({"word": "cat", "labels": {"Which animal?": "b"}}, "cannot be the name"),
    ],
)
def test_what_makes_no_recipe_is_refused_with_the_reason(row: dict[str, object], what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        proposed(lines(tmp_path, row, row))
    assert what in str(refused.value)
    assert refused.value.remedy


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError):
            look(path)
