"""Figures that hold: what a training, a score and an answer say of few samples, one label, an end before its time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from homeroom import Device, Sample
from homeroom.cli.main import homeroom
from homeroom.device import training_run
from homeroom.device.local_samples import to_examples, training_samples
from homeroom.train.cross_validation import folds
from homeroom.train.features.dataset import Dataset
from homeroom.train.selective import TOO_OFTEN_WRONG
from homeroom.train.settings import Settings
from homeroom.train.solve.combine import Mix, SolvedOutputs, SolvedPart

SETTINGS = Settings(epochs=3)


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        yield opened


def rows(count: int, seed: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Rows with words, facts and the label of a category, which are soon learned."""
    return [
        {
            **{name: row[name] for name in ("word", "facts", "subject")},
            "labels": {"category": row["labels"]["category"]},
            **changes,
        }
        for row in tiny.samples(count, seed)
    ]


def add(device: Device, given: list[dict[str, Any]]) -> None:
    device.add(*(Sample(**row) for row in given), gates=False)


def run(device: Device, *words: object) -> str:
    device.close()
    done = CliRunner().invoke(homeroom, ["device", words[0], str(device.directory), *map(str, words[1:])])
    assert done.exit_code == 0, done.output
    return str(done.output)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "samples of other pupils"),
        ({"subject": None}, "other samples, perhaps of the same pupils"),
        ({"subject": "pupil-1"}, "other samples, perhaps of the same pupils"),
    ],
)
def test_a_figure_is_of_other_pupils_only_where_they_are_others(
    device: Device, changes: dict[str, Any], said: str
) -> None:
    add(device, rows(30, **changes))
    assert f"right on 6 {said}\n" in run(device, "train", "--epochs", 2)


def test_two_samples_teach_but_nobody_knows_how_well(device: Device) -> None:
    add(device, [next(row for row in rows(12) if row["labels"]["category"] == animal) for animal in ("cat", "dog")])
    report = device.train(settings=Settings(epochs=30))
    assert report.scores == {}
    assert report.notes == (
        "category: 2 labelled samples, too few to keep some apart: how often it is right is not known",
    )
    answer = device.predict(Sample(word="the cat"))["category"]
    assert (answer.best in tiny.ANIMALS, answer.sure) == (True, False)
    assert "never judged" in answer.reason
    assert "too few to keep some apart" in run(device, "train", "--epochs", 1)


def test_no_answer_is_sure_where_too_many_such_answers_were_wrong(device: Device) -> None:
    rng, taught = np.random.default_rng(2), rows(160)
    for row in taught:
        if rng.random() < 0.4:  # so one of three labels is another than the words say
            row["labels"] = {"category": str(rng.choice(tiny.ANIMALS))}
    add(device, taught)
    device.train(settings=Settings(epochs=12, learning_rate=5e-3))
    asked = [Sample(word=row["word"], facts=row["facts"]) for row in rows(40, seed=9)]
    answers = [answer["category"] for answer in device.predict_many(asked)]
    clear = [answer for answer in answers if max(answer.probabilities.values()) > 0.6]
    assert len(clear) > 10
    assert not any(answer.sure for answer in answers)
    assert all(TOO_OFTEN_WRONG in answer.reason for answer in clear)


def test_one_label_alone_is_said_and_no_answer_is_sure(device: Device) -> None:
    add(device, [row for row in rows(120) if row["labels"]["category"] == "cat"])
    report = device.train(settings=SETTINGS)
    assert report.scores["category"].accuracy == 1.0
    (note,) = report.notes
    assert "all with the label 'cat'" in note
    answer = device.predict(Sample(word="the dog"))["category"]
    assert not answer.sure
    assert "only one label was ever taught here" in answer.reason


def test_a_training_that_was_cut_short_says_so_wherever_its_model_speaks(device: Device, tmp_path: Path) -> None:
    add(device, rows(40))
    cancel, asked = threading.Event(), Sample(word="the cat", facts={"legs": 4})

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "training" and done == 7:  # in the second epoch
            cancel.set()

    report = device.train(settings=Settings(epochs=50), progress=progress, cancel=cancel)
    assert report.notes[-1].startswith(
        "it was cancelled, after 1 of 50 epochs: all figures are of a training that is not"
    )
    assert "cut short" in device.predict(asked)["category"].reason
    heard: list[str] = []
    device.score(*(Sample(**row) for row in rows(8, 5)), note=heard.append)
    assert any("cut short" in sentence for sentence in heard)
    device.train(settings=SETTINGS)
    assert "cut short" not in device.predict(asked)["category"].reason


def test_a_training_without_a_single_step_leaves_the_model_in_use(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(device, rows(30))
    cancel = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "teach", lambda *_: cancel.set())  # when all features are there
        report = device.train(settings=SETTINGS, cancel=cancel)
    assert (report.version_id, report.scores, report.finished) == ("bundle", {}, False)
    assert report.notes[-1].startswith("it was cancelled, before theta learned anything")
    assert device.status()["in_use"] == "bundle"
    assert device.train(settings=SETTINGS).finished


def figures(device: Device, given: list[dict[str, Any]]) -> tuple[float, float]:
    """Log-loss and calibration error of the answers to labelled rows, computed from the answers themselves."""
    unlabelled = [Sample(**{name: value for name, value in row.items() if name != "labels"}) for row in given]
    answers = [answer["category"] for answer in device.predict_many(unlabelled)]
    labels = [row["labels"]["category"] for row in given]
    chances = np.array([max(answer.probabilities.values()) for answer in answers])
    right = np.array([answer.best == label for answer, label in zip(answers, labels, strict=True)])
    losses = [-np.log(answer.probabilities[label]) for answer, label in zip(answers, labels, strict=True)]
    bins = np.minimum((chances * 10).astype(int), 9)
    gaps = [abs(chances[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.mean(losses)), float(np.sum(gaps))


@pytest.mark.parametrize("solved", [False, True], ids=["theta", "both parts"])
def test_scores_are_those_of_the_answers(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solved: bool
) -> None:
    made: tiny.Tiny = request.getfixturevalue("solved_bundle" if solved else "tiny_bundle")
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", made.path, made.root, threads=1) as device:
        add(device, rows(40))
        report = device.train(settings=Settings(epochs=3))
        asked = rows(24, 5)
        score = device.score(*(Sample(**row) for row in asked))["category"]
        assert (score.log_loss, score.ece) == pytest.approx(figures(device, asked))
        assert report.scores["category"].n == report.judged["category"].judging
        version = device.store.versions.current()
        assert version is not None
        assert version.facts["temperatures"]["category"] != 1.0, "else this test shows nothing"
        if solved:
            monkeypatch.setattr(SolvedPart, "divided", lambda part, task, trained: np.ones(len(trained), bool))
            answer = device.predict(Sample(word="the cat", facts={"legs": 4}))["category"]
            assert (answer.sure, "the two parts of the model answer differently" in answer.reason) == (False, True)


GRADED = ("reference", "answer", "subject")


def graded(count: int) -> list[dict[str, Any]]:
    """Rows with a pair of texts and its grade."""
    return [
        {**{name: row[name] for name in GRADED}, "labels": {"grade": row["labels"]["grade"]}}
        for row in tiny.samples(count, 1)
    ]


def test_what_is_asked_is_held_out_whole_where_the_recipe_says_so(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    made = tiny.with_task(tiny_bundle, tmp_path / "bundle", "grade", group="reference")
    with Device.open(tmp_path / "device", made.path, made.root, threads=1) as device:
        add(device, graded(40))
        judged = device.train(settings=SETTINGS).judged["grade"]
        assert (judged.apart, judged.group) == ("groups", "reference")
        samples = training_samples(device.store, device.bundle)
        dataset = Dataset(device.bundle.manifest, to_examples(device.store, device.bundle, device.graphs, samples))
        train, validation = dataset.split(0.2, SETTINGS.seed)
        assert validation is not None
        taught, asked = ({example.group for example in side.examples} for side in (train, validation))
        assert taught
        assert asked.isdisjoint(taught)
        assert judged.judging == len(validation)
        for rest, rows_of_fold in folds(dataset, 0, whole_groups=True):
            assert {e.group for e in rest.examples}.isdisjoint(e.group for e in dataset.subset(rows_of_fold).examples)
        assert " samples with another reference\n" in run(device, "train", "--epochs", 1)


def test_of_one_question_alone_pupils_are_held_out(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    made = tiny.with_task(tiny_bundle, tmp_path / "bundle", "grade", group="reference")
    with Device.open(tmp_path / "device", made.path, made.root, threads=1) as device:
        add(device, [row for row in graded(120) if "cat" in row["reference"]])
        assert device.train(settings=SETTINGS).judged["grade"].apart == "pupils"


def test_parts_that_answer_differently_are_not_sure_together() -> None:
    values = np.array([[9.0, 0.0, -2e3], [9.0, 0.0, -2e3], [0.0, 9.0, -2e3]])
    known = np.array([[True, True, False]] * 3)
    trained = np.array([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    solved = {"category": SolvedOutputs(values, known, exclusive=True)}
    divided = [SolvedPart(solved, {"category": Mix(weight)}).divided("category", trained) for weight in (0.5, 1.0)]
    assert [one.tolist() for one in divided] == [[False, True, False], [False] * 3], "an unknown class is theta's alone"


def test_the_report_says_how_each_single_input_does(device: Device) -> None:
    given = rows(60)
    for row in given:
        row["facts"] = {"kilograms": 10.0}  # says nothing
    add(device, given)
    report = device.train(settings=Settings(epochs=16, learning_rate=1e-2))
    alone = report.by_input["category"]
    assert set(alone) == {"word", "facts"}
    assert alone["word"].accuracy > 0.9 > 0.6 > alone["facts"].accuracy
    assert alone["word"].n == report.scores["category"].n
    said = run(device, "train", "--epochs", 1)
    assert "    theta from one input alone: word " in said
