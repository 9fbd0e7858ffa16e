"""A person's own model on a shared device: learned from that person alone, forgotten with that person, movable."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from faults.devices import make_older, make_sample, open_store

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.device import profiles
from homeroom.errors import BrokenSealError, InputError, TrainError, TrustError
from homeroom.store import Store, schema
from homeroom.train.evaluate import outputs_of
from homeroom.train.personalize.choose import LEAST_FOR_ALL
from homeroom.train.personalize.mixing import LEAST_SAMPLES_FULL_SHARE
from homeroom.train.personalize.person import Person
from homeroom.train.personalize.prior_correction import OWN_PSEUDO_COUNT, correct_prior
from homeroom.train.settings import Settings
from sdk import learning

SETTINGS = Settings(epochs=4)
WORDS = "four words and more"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("HOMEROOM_PASSPHRASE", WORDS)


def contrary(count: int, seed: int) -> list[Sample]:
    """Samples of a person for whom every animal is a fish, which no shared model can know."""
    rows = tiny.samples(count, seed)
    return [Sample(word=r["word"], facts=r["facts"], labels={"category": "fish"}, subject="p-17") for r in rows]


def open_device(folder: Path, made: tiny.Tiny) -> Device:
    return Device.open(folder, made.path, made.root, threads=1)


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Any:
    with open_device(tmp_path / "device", tiny_bundle) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(18, 0, subjects=3)), *contrary(16, 1))
        yield opened


def test_a_person_is_answered_by_their_own_model_and_the_others_as_before(device: Device) -> None:
    asked = Sample(word="the cat", facts={"legs": 4})
    before = device.predict(asked)
    report = device.train(minutes=1, profile="p-17", settings=SETTINGS)
    known = report.profile
    assert known is not None
    assert (known.subject, known.samples, known.fresh) == ("p-17", 16, True)
    assert known.method != "shared"
    assert known.losses[f"{known.method} {known.share:g}"] < known.losses["shared"]
    assert device.predict(asked, profile="p-17")["category"].best == "fish"
    assert device.predict(asked) == before
    shared_answers = device.predict(asked, profile="pupil-1")  # who has no profile gets the shared model
    assert {task: one.probabilities for task, one in shared_answers.items()} == {
        task: one.probabilities for task, one in before.items()
    }
    own, shared = (device.score(*contrary(8, 5), profile=name)["category"] for name in ("p-17", None))
    assert own.accuracy > shared.accuracy
    assert device.store.versions.all() == []
    assert device.status()["profiles"] == 1


def test_the_prior_correction_adds_the_persons_shares_to_the_bias_and_moves_nothing_else() -> None:
    bundle, graphs = learning.opened()
    own = learning.dataset(12, 3)
    moved = correct_prior(Person(graphs, bundle.theta(), SETTINGS), own)
    before, after = bundle.manifest.layout.split(bundle.theta()), bundle.manifest.layout.split(moved)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed <= {"head.category", "head.grade"}
    counts = sum(e.targets["category"] for e in own.examples if "category" in e.targets) + OWN_PSEUDO_COUNT
    shown = outputs_of(graphs, own, moved)["category"] - outputs_of(graphs, own, bundle.theta())["category"]
    assert np.allclose(shown, np.log(counts / counts.mean()), atol=1e-4), "Saerens et al., equation 2.4, in logits"
    many = {"category": 1e4 * counts, "grade": np.ones(3)}
    like_others = Person(graphs, bundle.theta(), Settings(balance=0.0), others=many)
    start = bundle.manifest.layout.split(bundle.theta())["head.category"]
    still = bundle.manifest.layout.split(correct_prior(like_others, own))["head.category"] - start
    assert np.abs(still).max() < 0.01, "who meets the classes as often as everybody else is answered as before"


def test_what_is_usual_comes_from_the_labels_of_everybody_else(device: Device) -> None:
    labels = device.bundle.manifest.task("category").labels
    found = profiles._labels_of_others(device.store, device.bundle, "p-17")["category"]
    rows = [row["labels"]["category"] for row in tiny.samples(18, 0, subjects=3)]
    assert found.tolist() == [rows.count(name) for name in labels]
    everybody = profiles._labels_of_others(device.store, device.bundle, "nobody")["category"]
    assert everybody.sum() == 18 + 16


def test_a_person_with_few_samples_is_not_trained_for_but_corrected_at_most(device: Device) -> None:
    device.add(*(Sample(word=f"dog {i}", labels={"category": "dog"}, subject="new") for i in range(LEAST_FOR_ALL - 4)))
    known = device.train(minutes=1, profile="new", settings=SETTINGS).profile
    assert known is not None
    assert set(known.losses) == {"shared", "prior 0.25", "prior 0.5", "prior 0.75"}
    assert known.method == "prior", "all of them are dogs"
    asked = Sample(word="dog")
    ours, theirs = (device.predict(asked, profile=name)["category"].probabilities["dog"] for name in ("new", None))
    assert ours > theirs
    many = [*contrary(LEAST_SAMPLES_FULL_SHARE, 2)]
    device.add(*many)
    assert "fedrep 1" in (device.train(minutes=10, profile="p-17", settings=Settings(epochs=1)).profile or known).losses


def test_too_few_samples_keep_the_shared_model_and_none_is_an_error(device: Device) -> None:
    device.add(*(Sample(word=f"dog {i}", labels={"category": "dog"}, subject="new") for i in range(4)))
    known = device.train(minutes=1, profile="new", settings=SETTINGS).profile
    assert known is not None
    assert (known.method, known.samples) == ("shared", 4)
    asked = Sample(word="dog")
    assert device.predict(asked, profile="new") == device.predict(asked)
    with pytest.raises(TrainError, match="nobody"):
        device.train(profile="nobody")


def test_a_budget_that_is_too_short_changes_nothing(device: Device) -> None:
    report = device.train(minutes=1e-9, profile="p-17", settings=SETTINGS)
    assert not report.finished
    assert report.profile is None
    assert device.store.profiles() == 0


def test_forgetting_a_person_destroys_the_profile_and_whoever_is_in_the_base_takes_it_along(device: Device) -> None:
    device.train(minutes=1, settings=SETTINGS)
    device.train(minutes=1, profile="p-17", settings=SETTINGS)
    stored = device.store.profile("p-17")
    assert stored is not None
    assert set(stored.subjects) == set(device.store.subjects()), "it grew from a theta with all of them in it"
    report = device.forget("pupil-1")
    assert report.profiles == 1
    assert device.profile("p-17") is None
    known = device.train(minutes=1, profile="p-17", settings=SETTINGS).profile
    assert known is not None
    assert device.store.profile("p-17").subjects == ("p-17",)  # type: ignore[union-attr]
    device.forget("pupil-2")
    assert device.profile("p-17") is not None, "it stems from p-17 alone"
    device.forget("p-17")
    assert device.store.profiles() == 0


def test_an_export_shows_the_profile(device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device.train(minutes=1, profile="p-17", settings=SETTINGS)
    place = str(device.store.directory)
    device.close()
    main(["device", "hand-over", place, "p-17"])
    shown = json.loads(capsys.readouterr().out)["profile"]
    assert shown["samples"] == 16
    assert sum(shown["segments"].values()) > 0
    main(["device", "hand-over", place, "p-17", "--out", str(tmp_path / "held")])
    assert (tmp_path / "held" / "profile.safetensors").stat().st_size > 4 * sum(shown["segments"].values())


@pytest.mark.attack("files and bundles", "another school's device opens a packed profile")
def test_a_profile_moves_to_another_device_of_the_school_and_to_no_other(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device.train(minutes=1, profile="p-17", settings=SETTINGS)
    asked = Sample(word="the cat", facts={"legs": 4})
    answers, file, place = device.predict(asked, profile="p-17"), tmp_path / "p-17.profile", device.store.directory
    device.close()
    main(["device", "profile", "pack", str(place), "p-17", str(file)])
    assert b"p-17" not in file.read_bytes()
    main(["device", "init", str(tmp_path / "other"), "--bundle", str(tiny_bundle.path), "--root", tiny_bundle.root])
    main(["device", "profile", "import", str(tmp_path / "other"), str(file)])
    assert "profile of p-17 is here" in capsys.readouterr().out
    with open_device(tmp_path / "other", tiny_bundle) as other:
        assert other.predict(asked, profile="p-17") == answers
        other.forget("p-17")
        for passphrase, says in (("four other words", "wrong"), ("", "wrong")):
            with pytest.raises(TrustError, match=says):
                other.take_profile(file, passphrase)
        altered = bytearray(file.read_bytes())
        for at in (20, 40, 200, len(altered) - 1):
            altered[at] ^= 1
            (tmp_path / "altered").write_bytes(altered)
            with pytest.raises((TrustError, InputError)):
                other.take_profile(tmp_path / "altered", WORDS)
            altered[at] ^= 1
        for cut in (0, 9, 60, len(altered) - 5):
            (tmp_path / "altered").write_bytes(altered[:cut])
            with pytest.raises((TrustError, InputError)):
                other.take_profile(tmp_path / "altered", WORDS)
        assert other.profile("p-17") is None
        root = other._root
        other._root = lambda: "0" * 64  # type: ignore[method-assign]
        with pytest.raises(TrustError, match="another institution"):
            other.take_profile(file, WORDS)
        other._root = root  # type: ignore[method-assign]
    with open_device(place, tiny_bundle) as again:
        with pytest.raises(InputError, match="12 characters"):
            again.pack_profile("p-17", tmp_path / "new", "short")
        with pytest.raises(InputError, match="there already"):
            again.pack_profile("p-17", file, WORDS)
        with pytest.raises(InputError, match="no profile"):
            again.pack_profile("pupil-1", tmp_path / "new", WORDS)


# The store


def fill(store: Store) -> None:
    store.add([make_sample(0, "own"), make_sample(1, "other")])
    store.put_profile("own", {"method": "ditto"}, {"a" * 64: np.arange(5.0), "b" * 64: np.ones(3)}, ["other"])


def test_neither_the_owners_key_nor_the_devices_alone_opens_a_profile(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
        owner, body = store._context.database.one("SELECT owner || '/' || segment_id, body FROM segments ORDER BY 1")
        subject = store._context.keys.find("own")
        assert subject is not None
        place = ("segments.body", owner)
        inner = store._context.keys.device.open(body, *place)
        assert np.arange(5, dtype=np.float32).tobytes() not in inner
        with pytest.raises(BrokenSealError):
            subject.cipher.open(body, *place)
        assert subject.cipher.open(inner, *place) == np.arange(5, dtype=np.float32).tobytes()


def test_a_profile_outlives_rotation_and_the_end_of_a_samples_retention(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
        store.add([make_sample(2, "own", retain_until="2001-01-01"), make_sample(3, "third")])
        assert store.expire() == 1
        store.forget("third")
        found = store.profile("own")
    with open_store(tmp_path) as store:
        again = store.profile("own")
        assert found is not None
        assert again is not None
        assert np.array_equal(again.segments["a" * 64], np.arange(5))
        assert again.facts == {"method": "ditto"}
        assert store.damage() == []
        store.forget("other")
        assert store.profile("own") is None


def test_a_damaged_part_of_a_profile_is_put_back_or_the_profile_goes(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store)
        store.back_up()
    path = tmp_path / "device" / "device.db"

    def damage() -> None:
        raw = sqlite3.connect(path)
        raw.execute("UPDATE segments SET body = zeroblob(60) WHERE segment_id LIKE 'a%'")
        raw.commit()
        raw.close()

    damage()
    with open_store(tmp_path) as store:
        assert store.profile("own") is not None
        assert "put back" in store.damage()[-1]
    damage()
    shutil.rmtree(tmp_path / "device" / "backup")
    with open_store(tmp_path) as store:
        assert store.profile("own") is None
        assert "lost" in store.damage()[-1]


def test_a_store_of_the_first_version_is_brought_up_with_all_it_held(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0, "own")])
        store.versions.put(np.ones(4, np.float32), "local", 0, {}, ["own"])
    make_older(tmp_path, 1)
    shutil.rmtree(tmp_path / "device" / "backup")
    with open_store(tmp_path) as store:
        assert store._context.database.one("PRAGMA user_version")[0] == schema.SCHEMA_VERSION
        (version,) = store.versions.all()
        assert store.versions.subjects(version) == ("own",)
        fill(store)
        assert store.profile("own") is not None
        assert store.damage() == []


def test_a_person_without_a_model_of_their_own_is_told_that_the_shared_one_answers(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        answer = device.predict(Sample(word="cat"), profile="p-9")["category"]
        shared = device.predict(Sample(word="cat"))["category"]
    assert "'p-9' has no model of their own here: the shared one answers" in answer.reason
    assert (answer.best, answer.probabilities) == (shared.best, shared.probabilities)
