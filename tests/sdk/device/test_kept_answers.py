"""`distillation` on a device: what is kept is in the receipt, and what cannot be kept is said or refused."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from homeroom import Device, Sample
from homeroom.cli.main import homeroom
from homeroom.data.tasks import kind_of
from homeroom.data.tasks.metrics import Score
from homeroom.data.validation import resolve
from homeroom.errors import InputError, TrainError
from homeroom.federation import versions
from homeroom.system import clock
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings

FAST = Settings(epochs=2, patience=10, learning_rate=1e-2)


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(30, 0)))
        yield opened


def test_a_training_says_whose_answers_it_kept_and_keeps_them(device: Device) -> None:
    device.train(settings=FAST)
    start = versions.start_of_training(device.store, device.bundle)
    report = device.train(settings=msgspec.structs.replace(FAST, seed=5), distillation=50)
    learned = versions.learned_tasks(device.store, device.store.versions.current()) or ()
    kept = [task.name for task in device.bundle.manifest.tasks if task.name in learned and kind_of(task).soft_target]
    assert len(kept) > 3
    told = f"learned beside the labels, weight 50: what it answered before of {', '.join(kept)}"
    assert [note for note in report.notes if "weight 50" in note] == [told]
    held = versions.theta_of(device.store, device.bundle, device.store.versions.current())
    device.rollback()
    device.train(settings=msgspec.structs.replace(FAST, seed=5))
    free = versions.theta_of(device.store, device.bundle, device.store.versions.current())
    assert np.linalg.norm(held - start.theta) < np.linalg.norm(free - start.theta)


def test_a_task_that_was_never_learned_is_free_in_both_fits(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))

    def rows(task: str, seed: int) -> list[Sample]:
        some = tiny.samples(30, seed)
        return [Sample(**{**row, "labels": {task: row["labels"][task]}}) for row in some if task in row["labels"]]

    def moved(weight: float) -> list[float]:
        start = versions.start_of_training(device.store, device.bundle).theta
        device.train(settings=Settings(epochs=3, patience=10, learning_rate=1e-2), distillation=weight)
        now = device.store.versions.current()
        ended = [of(device.store, device.bundle, now) for of in (versions.theta_of, versions.answering_theta)]
        device.rollback()
        assert not np.array_equal(*ended)
        before, *after = (outputs_of(device.graphs, asked, theta)["grade"] for theta in (start, *ended))
        return [float(np.abs(one - before).mean()) for one in after]

    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*rows("category", 0))
        device.train(settings=FAST)
        device.add(*rows("grade", 7))
        stored = [resolve(sample, device.bundle.manifest) for sample in rows("grade", 7)]
        asked = Dataset(device.bundle.manifest, examples(None, device.bundle, device.graphs, stored))
        for free, beside in zip(moved(0.0), moved(100.0), strict=True):
            assert beside > 0.6 * free > 0


def test_without_answers_of_before_it_is_refused_and_nothing_changes(device: Device) -> None:
    with pytest.raises(TrainError, match="no answers of before to keep"):
        device.train(settings=FAST, distillation=1.0)
    assert device.store.versions.current() is None
    device.train(settings=FAST)
    with pytest.raises(InputError, match="not for a person's own model"):
        device.train(settings=FAST, distillation=1.0, profile=str(tiny.samples(1, 0)[0]["subject"]))
    with pytest.raises(InputError, match="has to be a number from 0"):
        device.train(settings=FAST, distillation=-1.0)


def test_the_command_says_so_too(device: Device) -> None:
    directory = device.directory
    device.train(settings=FAST)
    device.close()
    words = ["device", "train", str(directory), "--epochs", "1", "--distillation", "2"]
    told = CliRunner().invoke(homeroom, words)
    assert told.exit_code == 0, told.output
    assert "learned beside the labels, weight 2: what it answered before of" in told.output
    facts = json.loads(CliRunner().invoke(homeroom, [*words, "--json"]).stdout)
    assert any("weight 2" in note for note in facts["notes"])


def test_a_task_whose_samples_have_expired_answers_on_but_not_for_sure(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    rows, today = tiny.samples(60, 0), clock.now()
    asked = Sample(word="the cat", facts={"legs": 4})
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        last = today.date().isoformat()
        firsts = [{**row, "labels": {"category": row["labels"]["category"]}, "retain_until": last} for row in rows]
        device.add(*(Sample(**row) for row in firsts if row["labels"]["category"]))
        device.train(settings=Settings(epochs=10, learning_rate=1e-2))
        before = device.predict(asked)["category"]
        assert before.best == "cat"
        monkeypatch.setattr(clock, "now", lambda: today + datetime.timedelta(2))
        seconds = [{**row, "labels": {"grade": row["labels"]["grade"]}} for row in tiny.samples(40, 7)]
        device.add(*(Sample(**row) for row in seconds))
        for weight in (0.0, 1.0):  # the second training starts from a version that did not learn it itself
            report = device.train(settings=FAST, distillation=weight)
            assert not report.scores.get("category", Score(n=0)).n
            assert [note for note in report.notes if note.startswith("category: no labelled sample of it is here")]
        after = device.predict(asked)
        assert any("what it answered before of grade, category" in note for note in report.notes)
    assert after["category"].best == "cat"
    assert not after["category"].sure
    assert "nothing has judged it since" in after["category"].reason
    assert "never taught" in after["size"].reason


@pytest.mark.parametrize("goes_on", [True, False])
def test_only_a_head_that_goes_on_answers_for_a_task_of_before(device: Device, goes_on: bool) -> None:
    store, bundle = device.store, device.bundle
    facts = versions.version_facts(bundle, temperatures={"category": 1.5}, doubts={})
    if not goes_on:
        del facts["segments"][bundle.manifest.layout["head.category"].segment_id]
    with store.step("train", 1):
        version_id = store.versions.put(bundle.theta(), "local", 0, facts, set())
    start = versions.TrainingStart(bundle.theta(), 0, version_id, learned=frozenset({"category", "grade"}))
    merged, gone = versions.with_earlier_tasks(store, bundle, start, {"temperatures": {"grade": 1.0}, "doubts": {}})
    assert gone == (["category"] if goes_on else [])
    assert merged["temperatures"] == {"grade": 1.0} | ({"category": 1.5} if goes_on else {})
    assert merged["doubts"].keys() == ({"category"} if goes_on else set())


def test_without_it_a_training_has_the_tag_of_before_there_was_such_a_setting(device: Device) -> None:
    start = versions.TrainingStart(device.bundle.theta(), 0, "bundle")
    plain, kept = (
        versions.training_tag(device.bundle, start, Settings(distillation=weight), ["1"], {}) for weight in (0.0, 1.0)
    )
    fields = {name: value for name, value in msgspec.to_builtins(Settings()).items() if name != "distillation"}
    assert plain == versions.identity([device.bundle.bundle_id, "bundle", fields, ["1"]])
    assert kept != plain
