"""The device as a teacher meets it: a bundle, samples, training, answers, and what stays after each."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import Attack
from PIL import Image

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.contract.signing import certify
from homeroom.contract.version import make_version
from homeroom.data.consent import Consent
from homeroom.data.samples import StoredSample
from homeroom.data.tasks.metrics import Score
from homeroom.device import local_samples
from homeroom.errors import BundleError, InputError, StoreError, TrainError, TrustError
from homeroom.federation import sync, versions
from homeroom.store.open import is_device
from homeroom.system.installation import how_to_install
from homeroom.train.settings import Settings

FAST = Settings(epochs=3, patience=10)


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Any:
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(30, 0)))
        yield opened


def test_it_learns_and_answers_with_probabilities(device: Device) -> None:
    before = device.predict(Sample(word="cat", facts={"legs": 4}))
    report = device.train(settings=Settings(epochs=15, patience=20))
    assert (report.samples, report.left_out, report.finished, report.resumed) == (30, 0, True, False)
    assert report.update == "not enrolled"
    assert report.scores["category"].n > 0
    scores = device.score(*(Sample(**row) for row in tiny.samples(30, 0)))
    assert scores["category"].accuracy > 0.6
    answer = device.predict(Sample(word="cat", facts={"legs": 4}))["category"]
    assert sum(answer.probabilities.values()) == pytest.approx(1.0)
    assert answer != before["category"]
    assert device.predict(Sample(word="cat"))["grade"].sure is False


def test_a_device_that_cannot_be_made_leaves_nothing(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    place, none = tmp_path / "school" / "one", tmp_path / "none.homeroom"
    for more in ([], ["--bundle", str(none)], ["--bundle", str(tiny_bundle.path), "--tier", "huge"]):
        with pytest.raises(SystemExit) as ended:
            main(["device", "init", str(place), *more])
        assert ended.value.code
    assert not place.parent.exists()
    place.mkdir(parents=True)
    with pytest.raises(BundleError):
        Device.open(place, none)
    assert not is_device(place)
    assert not list(tmp_path.joinpath("keys").iterdir()), "no key stays either"
    Device.open(place, tiny_bundle.path, tiny_bundle.root).close()
    with pytest.raises(BundleError):
        Device.open(place, none)
    with Device.open(place) as opened:
        assert opened.bundle.bundle_id == tiny_bundle.bundle_id


def test_features_are_computed_once(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.train(settings=FAST)
    computed: list[str] = []
    device.train(settings=FAST, progress=lambda stage, done, total: computed.append(stage))
    assert set(computed) == {"training", "training on all samples"}
    device.add(Sample(word="a new word", labels={"category": "cat"}, subject="new"))
    device.train(settings=FAST, progress=lambda stage, done, total: computed.append(f"{stage} {total}"))
    assert {text for text in computed if "features" in text} == {"text features 1"}


def test_a_budget_is_kept_and_the_rest_is_done_the_next_time(device: Device) -> None:
    settings = Settings(epochs=2000, patience=5000)
    report = device.train(minutes=1.5 / 60, settings=settings)
    assert not report.finished
    assert device.status()["training_unfinished"]
    again = device.train(minutes=0.5 / 60, settings=settings)
    assert again.resumed
    assert again.epochs >= report.epochs
    device.add(Sample(word="one more", labels={"category": "dog"}))
    assert not device.train(settings=FAST).resumed, "other samples are another training"


def test_two_thetas_are_compared_on_validation_samples_that_are_read_once(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.train(settings=FAST)
    first, second = (
        device.bundle.theta(),
        versions.theta_of(device.store, device.bundle, device.store.versions.current()),
    )
    apart = [device._validation_scores([theta])[0] for theta in (first, second)]
    reads, read = list[object](), local_samples.validation_samples

    def counted(*words: Any) -> Any:
        reads.append(words)
        return read(*words)

    monkeypatch.setattr(local_samples, "validation_samples", counted)
    assert device._validation_scores([first, second]) == apart
    assert apart[0] != apart[1]
    assert len(reads) == 1


def test_rolling_back_gives_the_answers_of_before(device: Device) -> None:
    asked = Sample(word="cat", facts={"legs": 4})
    first = device.train(settings=FAST)
    answers = device.predict(asked)
    device.train(settings=Settings(epochs=8, seed=3))
    assert device.predict(asked) != answers
    assert device.rollback() == first.version_id
    assert device.predict(asked) == answers
    assert device.rollback() == "bundle"
    with pytest.raises(InputError, match="there is none before it"):
        device.rollback()


def test_training_needs_a_labelled_sample(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    with Device.open(tmp_path / "empty", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        with pytest.raises(TrainError, match="no labelled sample"):
            device.train()
        device.add(Sample(word="cat"))
        with pytest.raises(TrainError):
            device.train()


def test_what_a_forgotten_pupil_taught_is_gone_and_the_rest_can_be_taught_again(device: Device) -> None:
    device.train(settings=FAST)
    subject = device.store.subjects()[0]
    held = device.export(subject)
    assert len(held.samples) == 6
    assert len(held.versions) == 1
    assert held.cached_features > 6
    report = device.forget(subject)
    assert (report.samples, report.versions) == (6, 1)
    assert device.status()["in_use"] == "bundle"
    with pytest.raises(InputError):
        device.export(subject)
    assert device.train(settings=FAST).samples == 24


def test_who_entered_a_version_enters_what_is_trained_from_it(device: Device) -> None:
    device.train(settings=FAST)
    everyone = set(device.store.subjects())
    device.store._context.database.write("DELETE FROM samples WHERE subject_id = 1")
    later = device.train(settings=FAST)
    version = next(v for v in device.store.versions.all() if v.version_id == later.version_id)
    assert set(device.store.versions.subjects(version)) == everyone


def server(data: bytes | None) -> Any:
    return SimpleNamespace(newest=lambda after, old, folder: (data, len(data or b"")))


def released(made: tiny.Tiny, number: int, theta: np.ndarray) -> bytes:
    certificate = certify(made.root_key, "aggregator", made.aggregator_key, "server")
    return make_version(made.aggregator_key, certificate, made.bundle_id, number, theta, {})


def scored(accuracy: float, n: int = 200) -> dict[str, Score]:
    return {"category": Score(n=n, accuracy=accuracy)}


def take(device: Device, made: tiny.Tiny, data: bytes, scores: list[float]) -> sync.FetchedTheta:
    given = iter(scores)
    root = made.root

    def score(thetas: Sequence[np.ndarray]) -> list[Mapping[str, Score]]:
        return [scored(next(given)) for _ in thetas]

    return sync.fetch_global(device.store, device.bundle, server(data), root, score)


def test_a_global_theta_is_used_unless_it_is_clearly_worse_here(device: Device, tiny_bundle: tiny.Tiny) -> None:
    device.train(settings=FAST)
    theta = np.zeros(tiny_bundle.manifest.layout.size, np.float32)
    assert take(device, tiny_bundle, released(tiny_bundle, 1, theta), [0.78, 0.80]).in_use == "global"
    assert device.status()["in_use"]["base"] == 1
    device.train(settings=FAST)
    assert take(device, tiny_bundle, released(tiny_bundle, 2, theta), [0.5, 0.8]).in_use == "local"
    assert device.status()["in_use"]["kind"] == "local"
    assert versions.start_of_training(device.store, device.bundle).base == 2, "yet training starts from it"
    assert take(device, tiny_bundle, released(tiny_bundle, 2, theta), []).in_use == "unchanged"


def test_an_older_or_forged_global_theta_is_refused(device: Device, tiny_bundle: tiny.Tiny) -> None:
    theta = np.zeros(tiny_bundle.manifest.layout.size, np.float32)
    take(device, tiny_bundle, released(tiny_bundle, 3, theta), [0.5])
    with pytest.raises(TrustError, match="older"):
        take(device, tiny_bundle, released(tiny_bundle, 2, theta), [])
    forged = bytearray(released(tiny_bundle, 4, theta))
    forged[60] ^= 1
    with pytest.raises(Exception, match="global theta"):
        take(device, tiny_bundle, bytes(forged), [])
    assert device.status()["global_version"] == 3


def test_a_damaged_checkpoint_is_noticed_and_training_starts_over(device: Device, tmp_path: Path) -> None:
    settings = Settings(epochs=2000, patience=5000)
    device.train(epochs=1)  # the features are there: the budget that follows ends among the steps
    device.train(minutes=0.5 / 60, settings=settings)
    device.store._context.database.write("UPDATE secrets SET body = zeroblob(5000) WHERE name = 'state'")
    path, made = device.store.directory, device.bundle.path
    device.close()
    (path / "backup" / "device.db").unlink()
    with Device.open(path, threads=1) as again:
        assert any("secret state was damaged" in line for line in again.status()["damage"])
        assert not again.train(minutes=0.5 / 60, settings=settings).resumed
        assert made.exists()


def test_a_clone_without_its_key_says_so_and_starts_anew(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    device.train(settings=FAST)
    device.close()
    clone = tmp_path / "clone"
    shutil.copytree(device.store.directory, clone)
    shutil.rmtree(tmp_path / "keys")
    with pytest.raises(StoreError, match="master key is not on this machine"):
        Device.open(clone, threads=1)
    with Device.open(clone, tiny_bundle.path, tiny_bundle.root, anew=True, threads=1) as fresh:
        assert fresh.status()["samples"] == 0


def test_a_folder_and_a_sheet_become_samples(device: Device, tmp_path: Path) -> None:
    lesson = tmp_path / "lesson"
    for animal in ("cat", "dog"):
        (lesson / animal).mkdir(parents=True)
        Image.new("RGB", (40, 40), tiny.COLOURS[animal]).save(lesson / animal / f"{animal}.png")
    (lesson / "dog" / "more.wav").write_bytes(tiny.samples(1, 0)[0]["speech"])
    device.add(lesson)
    cat, dog, more = device.store.samples()[-3:]
    assert (list(cat.inputs), cat.labels["category"]) == (["picture"], "cat")
    assert (list(dog.inputs), dog.labels["category"]) == (["picture"], "dog")
    assert (list(more.inputs), more.labels["category"]) == (["speech"], "dog")
    sheet = tmp_path / "rows.csv"
    sheet.write_text(
        "word,facts.legs,picture,pictures.0,pictures.2,label.category,label.traits,label.weight,label.which_picture,"
        "label.same,subject,consent,consent_basis,retain_until\n"
        "gato,4,lesson/cat/cat.png,lesson/dog/dog.png,lesson/cat/cat.png,cat,fur|swims,3.50,2,,ana,"
        "given,form 7,2999-01-01\n"
        "perro,,,,,dog,,,,,,,,\n",
        encoding="utf-8-sig",
    )
    device.add(sheet)
    first, second = device.store.samples()[-2:]
    assert first.labels == {"category": "cat", "traits": ["fur", "swims"], "weight": 3.5, "which_picture": 2}
    assert (first.subject, first.consent, first.retain_until) == ("ana", Consent("given", basis="form 7"), "2999-01-01")
    assert [place is not None for place in first.inputs["pictures"]] == [True, False, True, False]
    assert second.inputs == {"word": ["perro"]}
    assert device.train(settings=FAST).left_out == 0


def test_every_verb_of_the_command_line(
    tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, rows = str(tmp_path / "classroom"), str(tiny.write_samples(tmp_path / "rows", tiny.samples(12, 1)))

    def said(*arguments: str) -> str:
        main([*arguments])
        return capsys.readouterr().out

    assert "version 1" in said("device", "init", place, "--bundle", str(tiny_bundle.path), "--root", tiny_bundle.root)
    assert "12 samples added" in said("device", "add", place, rows)
    assert "0 samples added, 12 were there already" in said("device", "add", place, rows)
    assert "update: not enrolled" in said("device", "train", place, "--epochs", "2")
    assert json.loads(said("device", "train", place, "--epochs", "1", "--json"))["samples"] == 12
    assert "category: " in said("device", "predict", place, "word=cat", 'facts={"legs": 4}')
    assert json.loads(said("device", "predict", place, "word=cat", "--json"))["category"]["probabilities"]
    why = said("device", "explain", place, "category", "word=the cat", "--html", str(tmp_path / "why.html"))
    assert "in word" in why
    assert "<mark" in (tmp_path / "why.html").read_text()
    parts = json.loads(said("device", "explain", place, "category", "word=the cat", "--label", "dog", "--json"))
    assert (parts["label"], parts["parts"][0]["slot"]) == ("dog", "word")
    assert json.loads(said("device", "score", place, rows, "--json"))["category"]["n"] > 0
    assert json.loads(said("device", "status", place, "--json"))["samples"] == 12
    assert "damage: none" in said("device", "status", place)
    with Device.open(place, threads=1) as device:
        subject = device.store.subjects()[0]
    assert json.loads(said("device", "hand-over", place, subject))["subject"] == subject
    said("device", "hand-over", place, subject, "--out", str(tmp_path / "held"))
    held = json.loads((tmp_path / "held" / "export.json").read_text())
    media = [
        value for row in held["samples"] for slot in ("picture", "speech") for value in row["inputs"].get(slot, [])
    ]
    assert media
    assert all((tmp_path / "held" / name).exists() for name in media if name)
    assert "in use: " in said("device", "undo", place)
    assert "forgotten: " in said("device", "forget", place, subject, "--yes")


def test_inspect_names_graphs_taps_segments_licences_provenance_and_hashes(
    tiny_bundle: tiny.Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bundle", "inspect", str(tiny_bundle.path), "--golden"])
    said = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    manifest = tiny_bundle.manifest
    assert ["golden", "text: int8 gives the expected features on this machine"] in said
    for kind, count in (
        ("graph", len(manifest.every_graph)),
        ("segment", len(manifest.segments)),
        ("taps", len(manifest.modalities)),
    ):
        assert len([words for words in said if words[0] == kind]) == count, kind
    assert {words[1].split(":")[0] for words in said if words[0] == "provenance"} == manifest.provenance.keys()
    assert {words[1].split(":")[0] for words in said if words[0] == "licence"} == {x.subject for x in manifest.licences}
    for name, file in manifest.files.items():
        assert any(words[0] == "file" and file.sha256 in words[1] and name in words[1] for words in said), name


def test_a_command_whose_part_is_not_installed_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "homeroom_exporter.cli", None)
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "export", "recipe.toml", "out"])
    assert ended.value.code == 13
    assert how_to_install("exporter") in capsys.readouterr().err


def test_a_stored_number_that_cannot_be_learned_is_set_apart_and_said(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    """An earlier release took it."""
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*(Sample(**row) for row in tiny.samples(12, 0)))
        (bad,) = device.store.add([StoredSample(inputs={"word": ["x"]}, labels={"weight": 1e308}, subject="p")])
        report = device.train(epochs=1)
        assert report.samples == 12
        (sample,) = [sample for sample in device.set_aside() if sample.sample_id == bad]
        assert "labels.weight" in sample.aside
        assert "too far" in sample.aside


@pytest.mark.attack("bounds", "a row of the store that kills its reader")
def test_a_stored_picture_that_cannot_be_read_is_set_apart_and_the_others_train(
    tiny_bundle: tiny.Tiny, tmp_path: Path, attack: Attack
) -> None:
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*(Sample(**row) for row in tiny.samples(12, 0)))
        row = StoredSample(inputs={"picture": [b"\x89PNG\r\n\x1a\nnonsense"]}, labels={"category": "fish"}, subject="p")
        (bad,) = device.store.add([row])
        report = device.train(epochs=1)
        (attack.noticed,) = [sample.aside for sample in device.set_aside() if sample.sample_id == bad]
        attack.got = report.samples != 12
        assert "damaged" in attack.noticed
        device.put_back(bad)
        assert device.train(epochs=1).samples == 12, "released, it is found again"


@pytest.mark.attack("bounds", "a row of the store that kills its reader")
def test_a_stored_picture_that_ended_the_process_is_set_apart_at_the_next_training(
    tiny_bundle: tiny.Tiny, tmp_path: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an earlier release took, and that takes too much memory: only the decoder is to end by it."""
    script = """
import os, signal, sys
from homeroom import Device
from homeroom.data.preprocess import image
def end(*_):
    os.kill(os.getpid(), signal.SIGKILL)
with Device.open(sys.argv[1], threads=1) as device:
    image.decode_stored = end
    device.train(epochs=1)
"""
    bomb = io.BytesIO()
    Image.new("1", (40_000, 40_000)).save(bomb, "PNG")
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*(Sample(**row) for row in tiny.samples(12, 0)))
        row = StoredSample(inputs={"picture": [bomb.getvalue()]}, labels={"category": "fish"}, subject="p")
        (bad,) = device.store.add([row])
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "device")], capture_output=True, timeout=100)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    with Device.open(tmp_path / "device", threads=1) as device:
        report = device.train(epochs=1)
        attack.got = report.samples != 12
        (sample,) = device.set_aside()
        attack.noticed = sample.aside
        assert sample.sample_id == bad
        assert device.store.damage() == []
