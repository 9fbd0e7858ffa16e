"""A sample is corrected by adding it again, or removed: what was there goes, and what stays is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from faults.devices import SECRET_WORD, features, make_sample, numbers, open_store, theta

from homeroom.data.consent import Consent
from homeroom.data.samples import DEFAULT_SUBJECT, StoredSample
from homeroom.errors import InputError, StoreError
from homeroom.store import AddReport, Store


def changed(sample: StoredSample, **fields: Any) -> StoredSample:
    return msgspec.structs.replace(sample, **fields)


def fingerprint(sample: StoredSample) -> bytes:
    return str(sample.inputs["text"][0]).encode()


def add(store: Store, *samples: StoredSample) -> tuple[list[str], AddReport]:
    report = AddReport()
    return store.add(samples, fingerprint, report), report


def test_a_corrected_row_replaces_its_predecessor_and_says_what_changed(tmp_path: Path) -> None:
    right = changed(make_sample(0), labels={"category": "plants"})
    with open_store(tmp_path) as store:
        (first, other), _ = add(store, make_sample(0), make_sample(1))
        mark = store.samples_mark()
        (second,), report = add(store, right)
        assert (report.corrected, report.corrected_samples) == ({"category: 'animals', now 'plants'": 1}, 1)
        assert (store.count(), store.quarantined(), store.samples_mark() != mark) == (2, [], True)
        assert [(one.sample_id, one.labels["category"]) for one in store.samples()] == [
            (other, "animals"),
            (second, "plants"),
        ]
        assert numbers(store) == [1, 0], "its inputs are as they were"
        assert add(store, right)[0] == [second]
        (again,), report = add(store, make_sample(0))
        assert (again, report.stale_labels, report.corrected_samples) == (second, 1, 0), (
            "the old file brings no slip back"
        )
        assert first not in {one.sample_id for one in store.samples()}
    with open_store(tmp_path) as store:
        assert numbers(store) == [1, 0]


def test_a_row_with_more_labels_adds_them_and_loses_none(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        add(store, changed(make_sample(0), labels={}))
        add(store, changed(make_sample(0), labels={"size": "big"}, retain_until="2999-01-01"))
        _, report = add(store, changed(make_sample(0), labels={"category": "plants"}, retain_until="2999-06-01"))
        (sample,) = store.samples()
        assert report.corrected == {"category: now 'plants'": 1}
        assert (sample.labels, sample.retain_until) == ({"size": "big", "category": "plants"}, "2999-01-01")


def test_two_rows_of_one_file_that_contradict_are_no_correction(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        _, report = add(store, make_sample(0), changed(make_sample(0), labels={"category": "plants"}))
        assert (store.count(), report.corrected_samples) == (2, 0)
        assert [one.aside.split()[0] for one in store.quarantined()] == ["contradicts"]


def test_another_authors_row_is_no_correction(tmp_path: Path) -> None:
    mine = changed(make_sample(0), author="Ms Ray")
    with open_store(tmp_path) as store:
        add(store, mine)
        _, report = add(store, changed(mine, labels={"category": "plants"}, author="Mr Lee"))
        assert (store.count(), report.corrected_samples) == (2, 0)
        assert [one.aside.split()[0] for one in store.quarantined()] == ["contradicts"]
        _, report = add(store, changed(mine, labels={"category": "plants"}))
        assert report.corrected_samples == 1


def test_where_nobody_is_named_both_are_kept_and_it_is_said(tmp_path: Path) -> None:
    words = StoredSample(inputs={"text": ["yes"]}, labels={"category": "animals"}, subject=DEFAULT_SUBJECT)
    with open_store(tmp_path) as store:
        add(store, words)
        _, report = add(store, changed(words, labels={"category": "plants"}))
        assert (store.count(), report.other_labels, report.corrected_samples) == (2, 1, 0)
        _, report = add(store, words)
        assert (store.count(), report.other_labels) == (2, 0)


def test_consent_that_was_withdrawn_is_not_given_by_the_old_file(tmp_path: Path) -> None:
    def stored(consent: Consent) -> Consent | None:
        with open_store(tmp_path) as store:
            add(store, changed(make_sample(0), consent=consent))
            (sample,) = store.samples()
            return sample.consent

    assert stored(Consent("given", on="2026-01-01")) == Consent("given", on="2026-01-01")
    gone = Consent("withdrawn", "the father", "2026-05-03")
    assert stored(gone) == gone
    for late in (Consent("given"), Consent("given", on="2026-05-03"), Consent(text="form 7")):
        assert stored(late) == gone
    assert stored(Consent("given", on="2026-05-04")) == Consent("given", on="2026-05-04")


def held_after(folder: Path, *words: Consent) -> Consent | None:
    """What is held after a sample came again with each of these consents."""
    with open_store(folder) as store:
        for consent in words:
            add(store, changed(make_sample(0), consent=consent))
        (sample,) = store.samples()
        return sample.consent


def test_an_older_word_on_consent_changes_nothing(tmp_path: Path) -> None:
    refused, given = Consent("refused", on="2026-09-01"), Consent("given", on="2026-10-01")
    withdrawn = Consent("withdrawn", "the father", "2026-11-01")
    assert held_after(tmp_path / "sheets again", refused, given, withdrawn, refused, given) == withdrawn
    assert held_after(tmp_path / "a refusal of before", given, refused) == given
    assert held_after(tmp_path / "no day", withdrawn, Consent("withdrawn"), given).state == "withdrawn"


def test_who_when_and_why_stay_where_the_next_sheet_does_not_say_it(tmp_path: Path) -> None:
    proof = Consent("given", "Ms Ray", "2026-05-03", "f7")
    assert held_after(tmp_path / "bare", proof, Consent("given")) == proof
    assert held_after(tmp_path / "more", proof, Consent("given", basis="f8")) == changed(proof, basis="f8")
    assert held_after(tmp_path / "other", proof, Consent("refused")) == Consent("refused"), (
        "of another word they are not"
    )
    gone = Consent("withdrawn", "the father", "2026-11-01")
    assert held_after(tmp_path / "gone", gone, Consent("withdrawn")) == changed(gone, on="")


def test_a_sheet_that_is_only_added_to_withdraws_too(tmp_path: Path) -> None:
    given, gone = (changed(make_sample(0), consent=Consent(state)) for state in ("given", "withdrawn"))
    with open_store(tmp_path) as store:
        first, second = add(store, given, gone)[0]
        (sample,) = store.samples()
    assert (first, sample.consent_state) == (second, "withdrawn")


def test_removing_a_sample_is_forgetting_it_alone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = store.add([*(make_sample(n, "p-1") for n in range(3)), make_sample(9, "p-2")])
        store.write_features("v", {("p-1", b"0"): features(0), ("p-2", b"9"): features(9)})
        store.versions.set_current(store.versions.put(theta(0), "local", 0, {}, ["p-2"]))
        other = store.versions.current()
        store.versions.set_current(store.versions.put(theta(1), "local", 0, {}, ["p-1", "p-2"]))
        store.versions.save_state(b"state", "tag", ["p-1"])
        store.put_profile("p-2", {}, {"s": theta(2)}, ["p-1"])
        store.outbox.queue("sent", b"1", 0, ["p-1"])
        store.outbox.mark_sending("sent")
        store.outbox.mark_sent("sent")
        store.outbox.queue("waits", b"2", 1, ["p-1"])
    shutil.copytree(tmp_path / "device", tmp_path / "stolen")
    with open_store(tmp_path) as store:
        report = store.remove([ids[1][:8]])
        assert (report.samples, report.subjects, report.versions, report.profiles) == (1, 1, 1, 1)
        assert (report.unsent_updates, report.unlearning, store.outbox.unlearning()) == (1, ("sent",), ["sent"])
        assert numbers(store) == [0, 2, 9]
        assert store.versions.current() == other
        assert not store.versions.is_unfinished()
        assert store.held_features("v", [("p-1", b"0"), ("p-2", b"9")]) == {("p-2", b"9")}
        assert store.remove([ids[0]]).unlearning == (), "asked once"
        assert store.forget("p-1").samples == 1
    assert f"{SECRET_WORD} 1".encode() not in b"".join(p.read_bytes() for p in tmp_path.rglob("*.db"))
    shutil.copytree(tmp_path / "stolen", tmp_path / "device", dirs_exist_ok=True)
    with pytest.raises(StoreError, match="destroyed"):
        open_store(tmp_path)


def test_after_a_removal_the_other_samples_are_known_again(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids, _ = add(store, *(make_sample(n) for n in range(4)))
        store.remove([ids[1]])
        again, report = add(store, *(make_sample(n) for n in (0, 2, 3)))
        assert (again, store.count(), report.corrected_samples) == ([ids[0], ids[2], ids[3]], 3, 0)
        near = changed(make_sample(0), inputs={**make_sample(0).inputs, "picture": [b"another", None]})
        add(store, near)
        assert [one.aside[:11] for one in store.quarantined()] == ["a near copy"]


def test_the_last_sample_of_a_person_takes_the_person_with_it(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        (sample_id,) = store.add([make_sample(0, "p-1")])
        assert store.remove([sample_id]).samples == 1
        assert store.subjects() == []


@pytest.mark.parametrize("wrong", ["", "3f", "zzzzzzzz", "00000000", "%_%_%_%_"])
def test_an_id_that_is_not_clear_removes_nothing(tmp_path: Path, wrong: str) -> None:
    with open_store(tmp_path) as store:
        (sample_id,) = store.add([make_sample(0)])
        with pytest.raises(InputError):
            store.remove([sample_id, wrong])
        assert store.count() == 1
