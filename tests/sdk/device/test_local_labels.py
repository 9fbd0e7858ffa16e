"""Labels that a device alone has: learned from a handful, answered at once, apart from all that theta learns from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grown
import numpy as np
import pytest
import tiny
from local_lesson import LABEL, SETTINGS, add, called_so, dinosaurs, lesson, unlabelled

import homeroom
from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.contract.manifest import Task
from homeroom.contract.statistics.encoding import encode
from homeroom.device.local_labels import LabelCount, merge_label, remove_label, rename_label
from homeroom.errors import InputError
from homeroom.federation import versions
from homeroom.store.local_labels import local_labels
from homeroom.store.subject_export import write_export
from homeroom.train.solve.combine import SolvedOutputs
from homeroom.train.solve.local_labels import LocalOutputs
from homeroom.train.solve.vectors.samples import sums_id


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def opened(folder: Path, made: tiny.Tiny) -> Device:
    return Device.open(folder, made.path, made.root, threads=1)


@pytest.fixture
def device(solved_bundle: tiny.Tiny, tmp_path: Path) -> Iterator[Device]:
    with opened(tmp_path / "device", solved_bundle) as device:
        yield device


def taught(device: Device) -> Device:
    device.add(*lesson())
    device.train(settings=SETTINGS)
    return device


@pytest.fixture(scope="module")
def room(solved_bundle: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device that no test changes."""
    folder = tmp_path_factory.mktemp("room")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOMEROOM_KEYS", str(folder / "keys"))
        with opened(folder / "device", solved_bundle) as device:
            yield device


def count_of(device: Device, label: str = LABEL) -> LabelCount:
    (found,) = [one for one in device.labels() if (one.task, one.label) == ("category", label)]
    return found


def test_a_handful_of_samples_is_answered_at_once_and_other_answers_stay(device: Device) -> None:
    taught(device)
    asked, new = unlabelled(lesson(24, 9)), dinosaurs(12, 77)
    before = device.predict_many(asked)
    add(device)
    assert device.predict_many(asked) == before, "a label that nothing taught is in no answer"
    with pytest.raises(InputError, match="no label 'dragons'"):
        device.add(*dinosaurs(1, 3, labels={"category": "dragons"}))
    with pytest.raises(InputError, match=r"no label 'dinosaur'.*did you mean dinosaurs"):
        device.add(*dinosaurs(1, 3, labels={"category": "dinosaur"}))
    receipt = device.take_in(*dinosaurs(5, 3))
    assert (receipt.local_labels, receipt.labelled["category"]) == ({f"category: {LABEL}": 5}, 5)
    assert any("no training of theta, no update and no statistics" in note for note in receipt.notes)
    assert called_so(device, new) == len(new)
    after = device.predict_many(asked)
    for task in device.bundle.manifest.tasks:
        assert [one[task.name].best for one in after] == [one[task.name].best for one in before]
    answer = device.predict(*unlabelled(new[:1]))["category"]
    assert not answer.sure
    assert "learned from 5 samples and not checked" in answer.reason
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert (count_of(device).samples, count_of(device).learned) == (5, 5)
    with Device.read(device.directory) as reader:
        assert reader.predict(unlabelled(new)[0])["category"] == answer, "another process answers so too"
        assert reader.labels() == device.labels()
    told: list[str] = []
    assert device.score(*lesson(12, 8), *dinosaurs(3, 66), note=told.append)["category"].n == 12
    assert any("3 of 3 labels of this device answered right" in sentence for sentence in told)
    with pytest.raises(InputError, match="is a label of this device, which is not explained"):
        device.explain(unlabelled(new)[0], "category")
    with pytest.raises(InputError, match="is a label of this device, which is not explained"):
        device.explain(asked[0], "category", "Dinosaurs")


def test_theta_and_the_sums_that_are_shared_are_those_of_a_device_that_never_had_it(
    solved_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    with opened(tmp_path / "with", solved_bundle) as one, opened(tmp_path / "without", solved_bundle) as other:
        add(one)
        for device in (one, other):
            device.add(*lesson(20))
        one.add(*dinosaurs(6, 3))
        other_labels = Sample(word="the fish", labels={"category": "fish"}, subject="pupil-1")
        for device in (one, other):
            device.add(other_labels)
        reports = [device.train(settings=SETTINGS) for device in (one, other)]
        assert reports[0].samples == reports[1].samples == 21
        assert any("6 samples with labels of this device" in note for note in reports[0].notes)
        thetas = [versions.theta_of(d.store, d.bundle, d.store.versions.current()) for d in (one, other)]
        assert thetas[0].tobytes() == thetas[1].tobytes()
        meaning = sums_id(one.bundle.manifest)
        sums = [{n: encode(s) for n, s in device.store.each_subjects_sums(meaning)} for device in (one, other)]
        assert sums[0] == sums[1]
        assert one.store.local_total(meaning).cells
        assert LABEL not in repr(one.bundle.manifest), "what is signed and sent of the bundle is as it was"
        assert LABEL not in json.dumps(one.status()), "a status may be sent to a helper"


def test_nothing_that_sends_reads_a_local_label() -> None:
    """The federation folder and the contracts name neither the labels nor their sums."""
    house = Path(homeroom.__file__).parent
    for folder in ("federation", "contract", "privacy"):
        for path in (house / folder).rglob("*.py"):
            found = re.search(r"local_(labels|total|sums)|every_label|LOCAL_LABELS", path.read_text())
            assert found is None, f"{path.relative_to(house)}: {found}"


def test_a_label_goes_with_its_samples_and_says_what_becomes_of_them(device: Device) -> None:
    add(taught(device))
    device.add(*dinosaurs(5, 3))
    one, number = device.change_labels(lambda store, _: remove_label(store, "category", "DINOSAURS"))
    assert (one.label, number) == (LABEL, 5)
    assert not [sample for sample in device.store.each_without_inputs() if sample.local_labels]
    assert device.store.count() == 65, "the samples stay"
    assert not device.store.local_sums_mark()
    assert called_so(device, dinosaurs(6, 77)) == 0
    add(device)
    assert device.take_in(*dinosaurs(5, 3)).corrected, "a teacher who changes her mind gives the samples again"
    renamed, number = device.change_labels(partial(rename_label, task="category", label=LABEL, name="great saurians"))
    assert (renamed.label, number) == ("great saurians", 5)
    assert called_so(device, dinosaurs(6, 77), "great saurians") == 6


def test_forgetting_takes_a_personal_label_whose_last_sample_goes(device: Device) -> None:
    add(device)
    add(device, "whales", scope="institution")
    add(device, "newts")
    device.add(*dinosaurs(3, 3, subject="p-17"), *dinosaurs(1, 5, subject="p-17", labels={"category": "whales"}))
    report = device.forget("p-17")
    assert report.labels == (f"category: {LABEL}",)
    assert [one.label for one in local_labels(device.store)] == ["newts", "whales"], "newts never had a sample"
    assert not device.store.local_sums_mark()
    data = b"".join(path.read_bytes() for path in device.directory.rglob("*") if path.is_file())
    assert LABEL.encode() not in data


def test_samples_that_go_leave_no_trace_in_what_was_learned(device: Device) -> None:
    add(device)
    first, *rest = device.add(*dinosaurs(5, 3, subject="p-17"))
    meaning = sums_id(device.bundle.manifest)
    device.remove(first)
    shrunk = encode(device.store.local_total(meaning))
    assert count_of(device).learned == 4
    device.store.quarantine({rest[0]: "why not"})
    assert count_of(device).learned == 0, "never stale: what is aside is in no sum"
    device.put_back(rest[0])
    assert encode(device.store.local_total(meaning)) == shrunk


def test_relabelling_moves_a_sample_between_the_two_and_back(device: Device) -> None:
    add(device)
    (one,) = dinosaurs(1, 3, subject="p-17")
    device.add(one)
    as_fish = Sample(**one.inputs, labels={"category": "fish"}, subject="p-17")
    assert device.take_in(as_fish).corrected == {f"category: {LABEL!r}, now 'fish'": 1}
    (held,) = device.store.samples("p-17")
    assert (held.labels, held.local_labels) == ({"category": "fish"}, {})
    assert count_of(device).learned == 0
    receipt = device.take_in(one)
    assert any("labels that were corrected since" in note for note in receipt.notes), "an old file brings none back"
    device.store.relabel(held.sample_id, {}, {"category": LABEL})
    (held,) = device.store.samples("p-17")
    assert (held.labels, held.local_labels) == ({}, {"category": LABEL})


def test_a_held_sample_that_is_given_a_local_label_has_no_other_label_of_that_task(device: Device) -> None:
    add(device)
    (one,) = dinosaurs(1, 3, subject="p-17", labels={"category": LABEL, "size": "big"})
    device.add(Sample(**one.inputs, labels={"category": "fish", "size": "big"}, subject="p-17"))
    assert device.take_in(one).corrected == {f"category: 'fish', now {LABEL!r}": 1}
    (held,) = device.store.samples("p-17")
    assert (held.labels, held.local_labels) == ({"size": "big"}, {"category": LABEL})
    assert (count_of(device, "fish").samples, count_of(device).samples, count_of(device).learned) == (0, 1, 1)


@pytest.mark.parametrize(
    ("task", "labels", "told"),
    [
        ("size", ["huge"], r"its kind, ordinal, takes no labels.*of this bundle's tasks grade, category can"),
        ("nothing", ["x"], "has no task 'nothing'"),
        ("category", ["Fish"], "'fish' is a label of the bundle already"),
        ("category", ["birds"], "spelt almost as 'bird'"),
        ("category", ["  "], "a label needs 1 to 80 characters"),
        ("category", ["a" * 81], "a label needs 1 to 80 characters"),
        ("category", ["a\0b"], "holds a character that is no text"),
        ("category", ["newts", "Newt"], "spelt almost as 'newts'"),
        ("category", [f"number {n} {chr(97 + n % 26) * 9}" for n in range(33)], "33 labels are more than the 32"),
    ],
)
def test_a_label_that_cannot_be_is_refused_and_nothing_changed(
    room: Device, task: str, labels: list[str], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        add(room, *labels, task=task)
    assert local_labels(room.store) == ()


def test_without_a_solved_head_there_is_a_remedy(tmp_path: Path) -> None:
    made = tiny.bundle()
    with opened(tmp_path / "device", made) as device, pytest.raises(InputError, match="its head is not solved") as told:
        add(device)
    assert "ask your institution for a later bundle" in told.value.remedy


def test_a_label_of_the_next_bundle_is_asked_about_and_never_merged(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    old = grown.exported(tmp_path, **grown.FIRST)
    new = grown.exported(tmp_path, old, **grown.SECOND)
    given = [Sample(**row) for row in grown.rows(30, grown.NEW, seed=3)]
    for sample in given:
        del sample.labels["traits"]
    with Device.open(tmp_path / "device", old.path, threads=1) as device:
        device.add(*(Sample(**row) for row in grown.rows(48, grown.OLD)))
        device.train(settings=SETTINGS)
        add(device, *grown.NEW, task="kind", scope="personal")
        device.add(*given)
        assert grown.accuracy(device, grown.NEW) > 0.9
        before = sorted(repr(sample.local_labels) for sample in device.store.each_without_inputs())
    with Device.open(tmp_path / "device", new.path, threads=1) as device:
        after = device.store.each_without_inputs()
        assert sorted(repr(sample.local_labels) for sample in after) == before, "nothing was merged"
        (question,) = [one for one in device.labels() if (one.label, one.scope) == ("i", "personal")]
        assert "the bundle has a label of this name too, and nothing was merged" in question.asks
        with pytest.raises(InputError, match="could be the bundle's label, or the one that was added here"):
            device.add(Sample(facts={"a": 4.0, "b": 4.0, "c": 4.1}, labels={"kind": "I"}))
        with pytest.raises(InputError, match="'i' is personal"):
            device.change_labels(partial(merge_label, task="kind", label="i"))
        add(device, "i", task="kind", scope="institution")
        assert device.change_labels(partial(merge_label, task="kind", label="i")) == ("i", 15)
        device.change_labels(partial(rename_label, task="kind", label="j", name="far away"))
        held = [sample for sample in device.store.each_without_inputs() if sample.subject]
        assert sum(sample.labels.get("kind") == "i" for sample in held) == 15
        assert sum(sample.local_labels.get("kind") == "far away" for sample in held) == 15
        report = device.train(settings=SETTINGS)
        assert report.samples == 48 + 15
        answers = device.predict_many(grown.asked(("i", "j")))
        found = [answer["kind"].best for answer in answers]
        assert np.mean([one == ("i", "far away")[n % 2] for n, one in enumerate(found)]) > 0.9
        (known,) = [one for one in device.labels() if one.label == "far away"]
        assert (known.samples, known.learned, known.asks) == (15, 15, "")


def test_what_no_sample_is_here_of_is_not_taken_for_it() -> None:
    task = Task(name="kind", kind="classification", reads=("x",), labels=("a", "b", "new"), width=3)
    without = np.array([[0.5, 0.5], [0.1, 0.9]])
    known = np.array([[True, False, True]] * 2)
    solved = SolvedOutputs(np.array([[0.0, -1e4, 50.0]] * 2), known, exclusive=True)
    chances = LocalOutputs(task, solved, 1.0, {"new": 3}).chances(without)
    assert chances == pytest.approx(np.array([[0, 0.5, 0.5], [0, 0.9, 0.1]])), "it takes its share of `a` alone"
    alone = SolvedOutputs(solved.values, np.array([[False, False, True]] * 2), exclusive=True)
    assert LocalOutputs(task, alone, 1.0, {"new": 3}).chances(without) == pytest.approx(
        np.array([[0.5, 0.5, 0], [0.1, 0.9, 0]])
    )


def test_a_hand_over_takes_them_along(device: Device, solved_bundle: tiny.Tiny, tmp_path: Path) -> None:
    add(device)
    device.add(*dinosaurs(2, 3, subject="p-17"))
    write_export(device.export("p-17"), tmp_path / "p-17")
    with opened(tmp_path / "other", solved_bundle) as other:
        with pytest.raises(InputError, match="no label 'dinosaurs'"):
            other.add(tmp_path / "p-17")
        add(other)
        other.add(tmp_path / "p-17")
        assert [sample.local_labels for sample in other.store.samples()] == [{"category": LABEL}] * 2


def test_the_commands_say_what_they_do(device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device.add(*dinosaurs(1, 3, labels={}, subject="p-9"))
    folder = str(device.directory)
    device.close()

    def run(*words: str) -> str:
        main(["device", "labels", *words])
        return capsys.readouterr().out

    assert "category: dinosaurs, personal, 0 samples. It stays here" in run("add", folder, "category", LABEL)
    listed = run(folder)
    assert re.search(r"dinosaurs +personal +0 samples, 0 of them learned", listed)
    assert re.search(r"fish +bundle +\d+ samples\n", listed)
    assert run("show", folder) == listed
    assert "dinosaurs is saurians now, with 0 samples" in run("rename", folder, "category", LABEL, "saurians")
    assert "0 samples had it: kept, without a label of category" in run("remove", folder, "category", "saurians")
    with pytest.raises(SystemExit) as ended:
        main(["device", "labels", "merge", folder, "category", "saurians"])
    assert ended.value.code == InputError.exit_code
    assert "this device has no label 'saurians' of its own" in capsys.readouterr().err
