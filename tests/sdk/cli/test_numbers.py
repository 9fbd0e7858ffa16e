"""Numbers on the command line: errors with their unit, and never a share that is right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

from homeroom import Device, Sample
from homeroom.cli.main import homeroom
from homeroom.contract.manifest import NO_UNIT

NUMBER = r"-?[\d,]+(\.\d+)?(e-\d+)?"
ERRORS = rf"MAE {NUMBER} {re.escape(NO_UNIT)}, RMSE {NUMBER} {re.escape(NO_UNIT)}, R² {NUMBER}"


def lessons(count: int, seed: int) -> list[Sample]:
    rows = tiny.samples(count, seed)
    labels = [{"weight": row["labels"]["weight"]} for row in rows]
    return [
        Sample(facts=row["facts"], labels=label, subject=row["subject"], language=("en", "es")[number % 2])
        for number, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: tiny.Tiny) -> Iterator[Path]:
    folder, patch = tmp_path_factory.mktemp("numbers"), pytest.MonkeyPatch()
    patch.setenv("HOMEROOM_KEYS", str(folder / "keys"))
    with Device.open(folder / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*lessons(60, 1), gates=False)
    rows = [{"facts": s.inputs["facts"], "labels": s.labels} for s in lessons(24, 2)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    yield folder
    patch.undo()


def run(*words: object) -> str:
    done = CliRunner().invoke(homeroom, ["device", *map(str, words)])
    assert done.exit_code == 0, done.output
    return str(done.output)


def test_a_training_says_how_far_off_it_is(folder: Path) -> None:
    said = run("train", folder / "device", "--epochs", 8)
    assert re.search(rf"^  weight: {ERRORS} on \d+ samples of other pupils$", said, re.M)
    assert re.search(rf"^  in language e[ns]: weight {ERRORS} of \d+$", said, re.M)
    assert "right" not in said


def test_a_score_says_errors_and_as_json_no_figure_of_labels(folder: Path) -> None:
    said = run("score", folder / "device", folder / "test.jsonl")
    assert re.fullmatch(rf"weight: {ERRORS}, 24 samples\n", said)
    score = json.loads(run("score", folder / "device", folder / "test.jsonl", "--json"))["weight"]
    assert {name for name, value in score.items() if value is None} >= {
        "accuracy",
        "macro_f1",
        "log_loss",
        "ece",
        "unit",
    }
    assert score["rmse"] >= score["mae"] > 0


def test_an_answer_and_its_reasons_have_the_unit(folder: Path) -> None:
    facts = 'facts={"kilograms": 19.0, "legs": 4}'
    answer = next(line for line in run("predict", folder / "device", facts).splitlines() if line.startswith("weight"))
    assert re.fullmatch(rf"weight: {NUMBER} {re.escape(NO_UNIT)}", answer)
    first, *others = run("explain", folder / "device", "weight", facts).splitlines()
    assert first == f"{answer}."
    without = [line for line in others if line.startswith("Without")]
    assert without
    assert all(re.search(rf": {NUMBER} {re.escape(NO_UNIT)}\.$", line) for line in without)
