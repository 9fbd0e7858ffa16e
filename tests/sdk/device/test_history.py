"""The history of a device: what was installed and trained, with scores, bounded, and gone with who entered it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from local_lesson import SETTINGS, lesson

from homeroom import Device
from homeroom.cli.main import main
from homeroom.store import Store, score_history
from homeroom.store.score_history import PAST, PastTraining, past_trainings


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def test_trainings_stand_beside_each_other_and_go_with_who_entered_them(
    tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "device"
    with Device.open(folder, tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        (installed,) = device.history().entries
        assert (installed.what, installed.scores, installed.samples) == ("installed", {}, None)
        device.add(*(sample for sample in lesson(30) if sample.subject != "pupil-4"))
        first = device.train(settings=SETTINGS)
        device.add(*lesson(30))
        second = device.train(settings=SETTINGS)
        found = device.history()
        trained = found.entries[1:]
        assert [entry.samples for entry in trained] == [first.samples, second.samples]
        for entry, report in zip(trained, (first, second), strict=True):
            assert {name: one.brief for name, one in entry.scores.items()} == {
                name: one.brief for name, one in report.scores.items()
            }
        assert [entry.in_use for entry in found.entries] == [False, False, True]
        assert found.since == installed.at
        device.rollback()
        assert [entry.in_use for entry in device.history().entries] == [False, True, False]
    main(["device", "history", str(folder)])
    told = capsys.readouterr().out
    rows = [line for line in told.splitlines() if "trained on" in line]
    assert len(rows) == 2
    for row, report in zip(rows, (first, second), strict=True):
        score = report.scores["category"]
        assert f"{score.accuracy:.0%} of {score.n}" in row
    assert "scores are kept since" in told
    main(["device", "history", str(folder), "--json"])
    assert len(json.loads(capsys.readouterr().out)["entries"]) == 3
    with Device.open(folder, threads=1) as device:
        device.forget("pupil-4")
        left = device.history().entries
        assert [entry.samples for entry in left] == [None, first.samples], "figures of who is forgotten go"


def test_what_was_trained_before_scores_were_kept_is_told_from_the_audit_log(
    tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "device"
    with Device.open(folder, tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        with device.store.step("train", 12):  # as an earlier release left it
            PAST.write(device.store._context, None)
        found = device.history()
        assert [(entry.what, entry.samples, entry.scores) for entry in found.entries] == [
            ("installed", None, {}),
            ("trained", 12, {}),
        ]
        assert found.since == ""
    main(["device", "history", str(folder)])
    told = capsys.readouterr().out
    assert "trained on 12 samples" in told
    assert "scores are kept from the next training on" in told


def test_the_newest_are_kept(tmp_path: Path) -> None:
    with Store.open(tmp_path / "device") as store:
        with store.step("train", 1):
            for number in range(score_history.KEPT_ENTRIES + 5):
                store.note_past(PastTraining(at="", kind="training", bundle="b", version_id=str(number)), ["p"])
            store.note_past(PastTraining(at="", kind="training", bundle="b", version_id="104", samples=7), ["p"])
        known = past_trainings(store._context)
        assert [one.version_id for one in known] == [str(n) for n in range(5, score_history.KEPT_ENTRIES + 5)]
        assert known[-1].samples == 7, "a training that went on stands once"
        store.forget("p")
        assert past_trainings(store._context) == ()
