"""A device solves first: heads from its samples' sums answer at once, beside theta, and unlearn exactly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.contract.manifest import Task
from homeroom.contract.statistics import encoding
from homeroom.contract.statistics.accumulate import BlockVectors
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.sums import NOTHING, Statistics, add, merge
from homeroom.device import judging
from homeroom.device.solved import HeadsInUse, mixes_in_use, usable_others
from homeroom.federation import versions
from homeroom.federation.statistics import RELEASE, ReceivedRelease
from homeroom.federation.sync import SyncReport
from homeroom.federation.versions import JUDGED, version_facts
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.train.settings import Settings
from homeroom.train.solve.base import Blocks, Strength
from homeroom.train.solve.heads import TaskHead, _of_block, solve, vectors_of
from homeroom.train.solve.kinds import SOLVERS
from homeroom.train.solve.task_vectors import TaskVectors
from homeroom.train.solve.vectors.samples import sums_id

SETTINGS = Settings(epochs=4)
ASKED = tiny.samples(24, seed=9)


def total_in_use(store: Store, bundle: Bundle) -> Statistics:
    """The sums that heads are solved from: those of this device's subjects, and what other schools share."""
    return add(store.own_total(sums_id(bundle.manifest)), usable_others(store, bundle))


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def opened(folder: Path, made: tiny.Tiny) -> Device:
    return Device.open(folder, made.path, made.root, threads=1)


def lesson(count: int = 60, seed: int = 1, **options: Any) -> list[Sample]:
    return [Sample(**row) for row in tiny.samples(count, seed, **options)]


@pytest.fixture
def device(solved_bundle: tiny.Tiny, tmp_path: Path) -> Iterator[Device]:
    with opened(tmp_path / "device", solved_bundle) as device:
        yield device


def right(device: Device, task: str = "category") -> float:
    asked = [row for row in ASKED if task in row["labels"]]
    unlabelled = [Sample(**{name: value for name, value in row.items() if name != "labels"}) for row in asked]
    answers = device.predict_many(unlabelled)
    return float(np.mean([one[task].best == row["labels"][task] for one, row in zip(answers, asked, strict=True)]))


def total(device: Device) -> bytes:
    return encode(total_in_use(device.store, device.bundle))


def test_solved_heads_answer_before_theta_is_trained_and_both_afterwards(device: Device) -> None:
    device.add(*lesson())
    meanwhile: list[float] = []

    def progress(stage: str, done: int, of: int) -> None:
        if stage == "training" and done == 1:
            assert device.store.versions.current() is None
            meanwhile.append(right(device))

    report = device.train(settings=SETTINGS, progress=progress)
    assert meanwhile[0] > 0.9
    assert report.solved_seconds is not None
    assert report.feature_seconds < report.solved_seconds < report.seconds
    assert report.solved_weights["category"] > 0
    with Device.read(device.directory) as reader:
        asked = Sample(word="the cat")
        assert reader.predict(asked) == device.predict(asked), "another process answers with the same heads"
        assert reader.status().solved == device.status().solved
    assert right(device) > 0.9
    scored = device.score(*lesson(30, 5))["category"]
    assert not isinstance(scored.parts, msgspec.UnsetType)
    assert set(scored.parts) == {"theta", "solved"}
    assert scored.solved_weight == report.solved_weights["category"]
    assert scored.by_part.endswith("both answer")


def test_any_subset_of_inputs_is_answered(device: Device) -> None:
    device.add(*lesson())
    device.train(settings=SETTINGS)
    row = ASKED[0]
    for slots in (("word",), ("picture",), ("facts",), ("word", "facts"), ("speech",), ("reference", "answer")):
        answers = device.predict(Sample(**{slot: row[slot] for slot in slots}))
        for answer in answers.values():
            assert answer.best is not None or "needs" in answer.reason
            assert all(np.isfinite(chance) for chance in answer.probabilities.values())


@pytest.mark.parametrize("seed", [0])
def test_after_a_pupil_is_forgotten_the_others_answer_at_once_as_if_they_had_been_alone(
    solved_bundle: tiny.Tiny, tmp_path: Path, seed: int
) -> None:
    samples = lesson(40, seed, subjects=4)
    gone = f"pupil-{np.random.default_rng(seed).integers(4)}"
    with opened(tmp_path / "one", solved_bundle) as one, opened(tmp_path / "other", solved_bundle) as other:
        one.add(*samples)
        one.train(settings=SETTINGS)
        other.add(*(sample for sample in samples if sample.subject != gone))
        other.train(settings=SETTINGS)
        assert total(one) != total(other)
        one.forget(gone)
        assert total(one) == total(other)
        assert one.status()["in_use"] == "bundle"
        assert right(one) > 0.8
        other.rollback()
        asked = Sample(word="the cat", facts={"legs": 4})
        assert one.predict(asked)["category"] == other.predict(asked)["category"]


def test_a_bundle_without_statistics_goes_on_as_before(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    with opened(tmp_path / "device", tiny_bundle) as device:
        device.add(*lesson(30))
        report = device.train(settings=SETTINGS)
        assert (report.solved_weights, report.solved_seconds) == ({}, None)
        version = device.store.versions.current()
        assert version is not None
        assert "mixes" not in version.facts
        assert total_in_use(device.store, device.bundle) == NOTHING
        scores = msgspec.to_builtins(device.score(*lesson(12, 5))["category"])
        assert not {"parts", "solved_weight"} & scores.keys()
        assert device.status()["solved"] == []


def test_what_was_never_taught_is_not_answered_for_sure(device: Device) -> None:
    rows = [row | {"labels": {"category": row["labels"]["category"]}} for row in tiny.samples(30, 1)]
    samples = [Sample(**row) for row in rows]
    device.add(*samples)
    device.train(settings=SETTINGS)
    answers = device.predict(Sample(word="the cat", facts={"legs": 4, "kilograms": 4.0}))
    assert not answers["weight"].sure
    assert "never taught here" in answers["weight"].reason
    device.rollback()
    answers = device.predict(Sample(word="the cat", facts={"legs": 4, "kilograms": 4.0}))
    assert "never taught" not in answers["category"].reason


LESSON = tiny.samples(60, 1)
POOR: dict[str, list[dict[str, Any]]] = {
    "one sample": LESSON[:1],
    "fewer samples than dimensions": LESSON[:6],
    "one class alone": [row for row in LESSON if row["labels"]["category"] == "cat"],
    "a class without samples": [row for row in LESSON if row["labels"]["category"] != "cat"],
    "one subject with half of all samples": [
        row | {"subject": "pupil-0"} if number % 2 else row for number, row in enumerate(LESSON[:40])
    ],
    "constant inputs": [
        {"word": "the cat", "labels": {"category": label}, "subject": f"p-{number}"}
        for number, label in enumerate(("cat", "dog", "fish", "bird") * 3)
    ],
}


@pytest.mark.parametrize("rows", POOR.values(), ids=list(POOR))
def test_poor_lessons_are_answered_without_a_fault(device: Device, rows: list[dict[str, Any]]) -> None:
    device.add(*(Sample(**row) for row in rows), gates=False)
    device.train(settings=SETTINGS)
    taught = {row["labels"]["category"] for row in rows}
    device.rollback()  # the solved heads alone
    answer = device.predict(Sample(word="the cat", facts={"legs": 4}))["category"]
    assert answer.best in taught
    assert all(np.isfinite(chance) for chance in answer.probabilities.values())
    assert all(chance < 1e-3 for label, chance in answer.probabilities.items() if label not in taught)


def put_global(device: Device, number: int = 1) -> str:
    """A version that other schools made, which knows nothing of this lesson; in use."""
    versions = device.store.versions
    version_id = versions.put(device.bundle.theta(), "global", number, version_facts(device.bundle))
    versions.set_current(version_id)
    return version_id


def synced(device: Device, monkeypatch: pytest.MonkeyPatch) -> SyncReport:
    """A sync that brings the next global version."""
    newest = device.status().global_version

    def bring(*_: object) -> SyncReport:
        put_global(device, newest + 1)
        return SyncReport(in_use="global", version=newest + 1)

    with monkeypatch.context() as patch:
        patch.setattr("homeroom.federation.sync.sync", bring)
        return device.sync()


def test_beside_a_theta_of_other_schools_own_heads_wait_until_validation_shows_that_they_help(device: Device) -> None:
    device.add(*lesson(30))  # 6 of them for validation: too few to show anything
    device.train(settings=SETTINGS)
    heads, _ = HeadsInUse().read(device.store, device.bundle)
    chosen = mixes_in_use(device.store, heads)
    assert {mix and mix.solved for mix in chosen.values()} == {2 / 3}
    versions = device.store.versions
    put_global(device)
    assert mixes_in_use(device.store, heads) == {}
    assert device.status()["solved"][0].startswith("theta alone until the next training; kept until then: the sums of")
    report = device.train(settings=SETTINGS)
    assert set(report.solved_weights.values()) == {0.0}
    assert all(one.by_part.endswith("; theta answers") for one in report.scores.values() if one.n)
    assert "so few samples change nothing" in report.worse_tasks["size"]
    assert f"size: {report.worse_tasks['size']}" in device.status().worse
    versions.step_back()
    versions.step_back()
    assert mixes_in_use(device.store, heads) == chosen
    assert device.status().worse == []


def test_a_school_with_a_dozen_validation_samples_keeps_what_its_heads_know_when_it_joins(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = lesson(60, 5)
    device.add(*lesson(60))
    alone = device.train(settings=SETTINGS)
    assert max(score.n for score in alone.scores.values()) < 20
    before = {task: score.skill for task, score in device.score(*test).items()}
    version_id = put_global(device)
    assert device.score(*test)["size"].skill < before["size"] - 0.5, "theta knows nothing of sizes"
    report = synced(device, monkeypatch)
    after = {task: score.skill for task, score in device.score(*test).items()}
    for task in ("category", "size", "weight"):
        assert after[task] >= before[task] - 0.05, task
    assert report.worse.keys() <= {"same", "grade", "traits", "which_picture"}, "what is worse is said"
    assert device.status().worse == [f"{task}: {sentence}" for task, sentence in report.worse.items()]
    again = device.train(settings=SETTINGS)
    assert again.solved_weights["size"] > 0.5
    assert device.score(*test)["size"].skill >= before["size"] - 0.05
    device.store.versions.set_current(version_id)
    device.forget("pupil-1")
    assert device.store.get_secret(JUDGED.name) is None, "judged by a pupil who is gone"


def test_samples_of_which_none_is_for_validation_are_loaded_once_to_judge_a_version(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, to_examples = list[int](), judging.to_examples

    def counted(*given: Any) -> Any:
        loaded.append(len(given[-1]))
        return to_examples(*given)

    monkeypatch.setattr(judging, "to_examples", counted)
    device.add(*lesson(8))
    device.train(settings=SETTINGS)
    assert synced(device, monkeypatch).worse == {}
    assert loaded == [8]
    put_global(device, device.status().global_version + 1)
    for _ in range(3):
        judging.judge_in_use(device.store, device.bundle, device.graphs)
    assert loaded == [8, 8], "once for each version"
    assert versions.judged(device.store, device.store.versions.current()) is None, "nothing is known of it"
    device.add(*lesson(60, 5))
    judging.judge_in_use(device.store, device.bundle, device.graphs)
    assert loaded == [8, 8, 68]
    assert versions.judged(device.store, device.store.versions.current()) is not None


def test_a_global_version_that_makes_own_answers_worse_says_so_where_a_person_looks(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "device", tiny_bundle) as device:
        device.add(*lesson(60))
        device.train(settings=Settings(epochs=12))
        report = synced(device, monkeypatch)
        assert "on 12 validation samples of this device, where its last training has" in report.worse["category"]
        assert device.status().worse == [f"{task}: {sentence}" for task, sentence in report.worse.items()]
        assert synced(device, monkeypatch).worse.keys() == report.worse.keys(), "of the next version too"
        device.rollback()
        device.rollback()
        assert device.status().worse == [], "the own one is in use again"


def test_what_other_schools_share_is_added_exactly_and_teaches_what_nobody_here_did(
    solved_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    rows = [row for row in tiny.samples(40, 3) if row["labels"]["category"] in ("cat", "dog")]
    with opened(tmp_path / "here", solved_bundle) as here, opened(tmp_path / "other", solved_bundle) as other:
        other.add(*lesson(40, 4))
        other.train(settings=Settings(epochs=1))
        here.add(*(Sample(**row) for row in rows))
        here.train(settings=Settings(epochs=1))
        here.rollback()
        asked, own = Sample(word="the fish"), total_in_use(here.store, here.bundle)
        assert here.predict(asked)["category"].probabilities["fish"] < 1e-3
        shared = total_in_use(other.store, other.bundle)
        meaning = sums_id(here.bundle.manifest)
        RELEASE.write(here.store, ReceivedRelease(number=1, sums_id=meaning, others=encode(shared)))
        assert encode(total_in_use(here.store, here.bundle)) == encode(add(own, shared))
        assert here.predict(asked)["category"].best == "fish", "from now on"
        without = {cell: v for cell, v in shared.cells.items() if (cell.task, cell.kind) != ("size", "moment")}
        RELEASE.write(here.store, ReceivedRelease(number=2, sums_id=meaning, others=encode(Statistics(without))))
        assert total_in_use(here.store, here.bundle).of_task("size") == own.of_task("size"), "whole or not at all"
        assert total_in_use(here.store, here.bundle).of_task("category") != own.of_task("category")


def test_a_school_whose_classes_look_otherwise_moves_what_others_share_and_hears_what_that_gives(
    solved_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here_called = dict(zip(tiny.ANIMALS, [*tiny.ANIMALS[1:], tiny.ANIMALS[0]], strict=True))

    def otherwise(count: int, seed: int) -> list[Sample]:
        rows = tiny.samples(count, seed)
        return [Sample(**row | {"labels": {"category": here_called[row["labels"]["category"]]}}) for row in rows]

    with opened(tmp_path / "here", solved_bundle) as here, opened(tmp_path / "other", solved_bundle) as other:
        other.add(*lesson(40, 4))
        other.train(settings=Settings(epochs=1))
        shared = merge([total_in_use(other.store, other.bundle)] * 8)
        RELEASE.write(
            here.store, ReceivedRelease(number=1, sums_id=sums_id(here.bundle.manifest), others=encode(shared))
        )
        here.add(*otherwise(60, 3))
        report = here.train(settings=Settings(epochs=1))
        scored = report.scores["category"]
        assert "the others' statistics alone 0% right, with yours" in scored.by_part
        version = here.store.versions.current()
        assert version is not None
        assert version.facts["priors"]["category"] <= 10
        test, heads = otherwise(40, 9), here._model().heads
        parts = here.score(*test)["category"].parts
        assert not isinstance(parts, msgspec.UnsetType)
        added = solve(here.bundle.manifest, total_in_use(here.store, here.bundle))["category"]
        assert not np.allclose(heads["category"].head.discriminant.means, added.head.discriminant.means)  # type: ignore[attr-defined]
        assert parts["solved"].skill > parts["others"].skill + 0.5
        folder = tmp_path / "here"
    sheet = tiny.write_samples(tmp_path / "test", tiny.samples(10, 5))
    main(["device", "score", str(folder), str(sheet)])
    assert "the others' statistics alone 100% right, with yours" in capsys.readouterr().out


def test_an_explanation_is_exact_for_the_solved_part_and_says_where_it_is_not(device: Device) -> None:
    device.add(*lesson())
    device.train(settings=SETTINGS)
    device.rollback()  # the solved heads alone
    row = ASKED[0]
    asked = {name: row[name] for name in ("word", "picture", "facts")}
    why = device.explain(Sample(**asked), "category")
    assert why.covers == ""
    assert {(part.slot, part.name) for part in why.parts if part.share} == {(slot, "as a whole") for slot in asked}
    heads, projections = HeadsInUse().read(device.store, device.bundle)
    model = device._model()
    stored = model.checked(Sample(**asked)).sample
    (example,) = model.examples([stored])
    vectors = vectors_of(device.bundle.manifest, projections, [stored], [example], lambda _, value: value)
    logits = heads["category"].outputs(vectors.of_task(device.bundle.manifest.task("category"))).values[0]
    parts = heads["category"].solver.contributions(heads["category"].head, vectors.of_task(heads["category"].task))[0]
    rest = logits - parts.sum(0)
    only_word = model.checked(Sample(**asked | {"word": "the fish"})).sample
    other = vectors_of(
        device.bundle.manifest, projections, [only_word], model.examples([only_word]), lambda _, value: value
    ).of_task(heads["category"].task)
    again = heads["category"].outputs(other).values[0]
    moved = heads["category"].solver.contributions(heads["category"].head, other)[0].sum(0)
    assert np.allclose(again - moved, rest), "the constant is the same whatever the inputs are"
    column = device.bundle.manifest.task("category").labels.index(why.label)
    against = (parts.sum(0)[column] * 4 - parts.sum()) / 3
    assert why.pull == pytest.approx(against)
    answered = {name: row[name] for name in ("reference", "answer")}
    assert "solved head, 100% of the answer" in device.explain(Sample(**answered), "grade").covers
    assert "solved head" in device.explain(Sample(**answered), "grade").sentences()[-1]


def test_sums_that_are_too_large_leave_theta_alone(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.add(*lesson(12))
    monkeypatch.setattr(encoding, "VALUES_LIMIT", 100)
    report = device.train(settings=Settings(epochs=1))
    assert "too large" in report.unsolved
    assert (report.solved_weights, device.status().solved) == ({}, [])
    assert device.predict(Sample(word="the cat"))["category"].best is not None


def test_a_corrected_label_no_longer_counts_and_the_next_training_learns_it(device: Device) -> None:
    ids = device.add(*lesson(30))
    device.train(settings=SETTINGS)
    before = total(device)
    sample = device.store.sample(ids[0])
    assert sample is not None
    other = "dog" if sample.labels["category"] != "dog" else "cat"
    device.store.relabel(ids[0], {**sample.labels, "category": other})
    assert total(device) != before
    assert device.predict(Sample(word="the cat"))["category"].best is not None
    device.train(settings=SETTINGS)
    counts = total_in_use(device.store, device.bundle)
    block = device.bundle.manifest.statistics.blocks[0].statistics_id  # type: ignore[union-attr]
    labels = [counts.count("category", label, block, block) for label in tiny.ANIMALS]
    assert sum(labels) == 30


def test_commands_say_what_each_part_contributes(
    device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> str:
        main(["device", *map(str, words)])
        return capsys.readouterr().out

    device.add(*lesson())
    device.close()
    folder = tmp_path / "device"
    assert "both answer" in run("train", folder, "--epochs", 2)
    tests = tiny.write_samples(tmp_path / "test", tiny.samples(10, 5))
    assert "; both answer" in run("score", folder, tests)
    assert json.loads(run("score", folder, tests, "--json"))["category"]["parts"].keys() == {"theta", "solved"}
    assert "category: solved" in run("status", folder)
    assert "solved alone, from the sums of 5 subjects" in run("undo", folder)
    assert "answers now: what theta never learned: solved alone" in run("forget", folder, "pupil-1", "--yes")


def test_an_input_that_no_labelled_sample_had_is_theta_s_to_answer() -> None:
    solver = SOLVERS["classification"]
    task = Task(name="t", kind="classification", reads=("a", "b"), labels=("x", "y"), width=2)
    both = np.array([True, False])
    first, second = (
        BlockVectors(name * 64, np.full((2, 3), 100), there) for name, there in (("a", both), ("b", ~both))
    )
    taught = TaskVectors((first.subset(np.array([0])), second.subset(np.array([0]))))
    total = solver.sums(task, taught, np.array([[1.0, 0.0]], np.float32))
    head = solver.head(task, total, Blocks([("a" * 64, 3), ("b" * 64, 3)]), Strength())
    by_block = np.stack([solver.taught(task, _of_block(total, name * 64)) for name in "ab"])
    assert by_block.tolist() == [[True, False], [False, False]]
    reads = frozenset({"a" * 64, "b" * 64})
    known = TaskHead(task, solver, head, by_block, reads).outputs(TaskVectors((first, second))).known
    assert known.tolist() == [[True, False], [False, False]]
