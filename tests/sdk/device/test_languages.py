"""A device says which languages its model reads, which texts it hardly reads, and what its memory cannot hold."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import tiny

from homeroom import Budget, Device, Sample
from homeroom.cli.main import main
from homeroom.contract.canonical_json import canonical
from homeroom.data.quality.text import assess
from homeroom.data.samples import TEXT_LIMIT_CHARACTERS
from homeroom.device import plan
from homeroom.errors import InputError, TrainError
from homeroom.runtime.bundle import write_signature


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """The tiny bundle, whose text encoder says that it reads English."""
    made, out = tiny.bundle(), tmp_path_factory.mktemp("english") / "bundle"
    shutil.copytree(made.path, out)
    modalities = tuple(
        msgspec.structs.replace(one, languages=("en",)) if one.name == "text" else one
        for one in made.manifest.modalities
    )
    manifest = msgspec.structs.replace(made.manifest, modalities=modalities)
    (out / "manifest.json").write_bytes(canonical(manifest))
    write_signature(out, manifest, made.certificate, made.exporter_key)
    return replace(made, path=out, manifest=manifest)


def test_a_text_that_the_model_hardly_reads_is_said_when_it_is_added_and_answered(
    english: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Device.open(tmp_path / "device", bundle=english.path, root=english.root) as device:
        receipt = device.take_in(
            Sample(word="кот спит", labels={"category": "cat"}, subject="p-1"),
            Sample(word="the cat 👍", labels={"category": "cat"}, subject="p-1"),
        )
        unknown = "word: more than a tenth is unknown to the model, which reads en"
        assert f"1 of {unknown}" in receipt.notes
        (reason,) = receipt.quarantined
        assert reason == "word: 100% of the letters are of a script that the model does not read: it reads en"
        answer = device.predict(Sample(word="the œuvre"))["category"]
        assert not answer.sure
        assert "of word more than a tenth is unknown to the model, which reads en" in answer.reason
        assert "unknown" not in device.predict(Sample(word="the cat 👍"))["category"].reason
    assert main(["bundle", "inspect", str(english.path)]) == 0
    assert "languages    text: en\n" in capsys.readouterr().out


EMOJI = "👍🏽 👩‍👩‍👧 🎉"
WORDY = "the cat " * 5_000  # 10,000 words, 40,000 characters


def test_a_text_of_emoji_alone_is_set_aside_and_no_answer_is_sure_of_it(english: tiny.Tiny, tmp_path: Path) -> None:
    with Device.open(tmp_path / "device", bundle=english.path, root=english.root) as device:
        receipt = device.take_in(Sample(word=EMOJI, labels={"category": "cat"}, subject="p-1"))
        assert dict(receipt.quarantined) == {"word: without a letter or a digit": 1}
        answer = device.predict(Sample(word=EMOJI))["category"]
        assert not answer.sure
        assert "word: without a letter or a digit" in answer.reason


def test_a_text_of_ten_thousand_words_is_cut_where_it_fits_and_refused_where_not(
    english: tiny.Tiny, tmp_path: Path
) -> None:
    fits = "a b " * 5_000
    assert len(fits) <= TEXT_LIMIT_CHARACTERS < len(WORDY)
    with Device.open(tmp_path / "device", bundle=english.path, root=english.root) as device:
        with pytest.raises(InputError, match=r"word: 40,000 characters are more than 20,000") as refused:
            device.take_in(Sample(word=WORDY, labels={"category": "cat"}, subject="p-1"))
        assert refused.value.remedy == "shorten the text"
        with pytest.raises(InputError, match="more than 20,000"):
            device.predict(Sample(word=WORDY))
        assert device.status().samples == 0
        receipt = device.take_in(Sample(word=fits, labels={"category": "cat"}, subject="p-1"))
        assert dict(receipt.longer) == {"word": 1}
        answer = device.predict(Sample(word=fits))["category"]
        assert not answer.sure
        assert "of word the end is not read" in answer.reason
        assert len(answer.reason) < 1_000


def test_a_text_of_mixed_languages_is_judged_by_what_of_it_the_model_reads(english: tiny.Tiny, tmp_path: Path) -> None:
    with Device.open(tmp_path / "device", bundle=english.path, root=english.root) as device:
        read = device.take_in(Sample(word="cat и bird", labels={"category": "cat"}, subject="p-1", language="en"))
        assert not read.quarantined
        half = device.take_in(Sample(word="the cat спит", labels={"category": "cat"}, subject="p-1", language="en"))
        assert not half.quarantined
        assert "1 of word: more than a tenth is unknown to the model, which reads en" in half.notes
        assert not device.predict(Sample(word="the cat спит", language="en"))["category"].sure


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("klingon!!", "of language 'klingon!!', which is not known here, so nothing is checked by it"),
        ("English", "of language 'English', which is not known here, so nothing is checked by it: write a tag such as"),
        ("es_MX", "of language 'es_MX', which the model does not read: it reads en"),
        ("EN-us", ""),
        (None, ""),
    ],
)
def test_a_language_that_nobody_knows_or_the_model_does_not_read_is_said_when_samples_are_added(
    english: tiny.Tiny, tmp_path: Path, language: str | None, said: str
) -> None:
    with Device.open(tmp_path / "device", bundle=english.path, root=english.root) as device:
        words = [
            Sample(word=f"the {a}", labels={"category": a}, subject="p-1", language=language) for a in ("cat", "dog")
        ]
        silent = Sample(facts={"legs": 4}, subject="p-1", language=language)
        notes = " ".join(device.take_in(*words, silent).notes)
        assert f"2 of 3 are {said}" in notes if said else "language" not in notes


def test_many_languages_that_nobody_knows_are_a_few_sentences(english: tiny.Tiny, tmp_path: Path) -> None:
    with Device.open(tmp_path / "device", bundle=english.path, root=english.root) as device:
        receipt = device.take_in(*(Sample(word="the cat", subject="p-1", language=f"x{i}") for i in range(9)))
    assert sum("is not known here" in note for note in receipt.notes) == 3
    assert "6 more languages are not known here, or not read" in receipt.notes


def test_a_tag_that_is_wrong_sets_a_text_aside(english: tiny.Tiny, tmp_path: Path) -> None:
    text = "the cat of the house was in the garden with the bird"
    with Device.open(tmp_path / "device", bundle=english.path, root=english.root) as device:
        receipt = device.take_in(
            Sample(word=text, labels={"category": "cat"}, subject="p-1", language="es"),
            Sample(word="the cat", labels={"category": "cat"}, subject="p-1", language="ru"),
        )
        assert set(receipt.quarantined) == {
            "word: said to be 'es', but its words are those of 'en'",
            "word: said to be 'ru', but 100% of the letters are of another script",
        }
        assert not device.predict(Sample(word=text, language="es"))["category"].sure


def test_a_script_is_judged_by_what_the_model_reads_before_what_the_sample_says() -> None:
    assert assess("кот спит", "ru", ("en", "es")) is not None
    assert assess("кот спит", "ru", ("en", "ru")) is None
    assert assess("кот спит", None, ()) is None, "it is not known what the model reads"
    assert assess("кот, which is cat in Russian", None, ("en",)) is None, "most letters are read"
    assert assess("قطة", "en", ("ar", "en")) is not None, "the sample says another language"


def test_a_text_encoder_that_memory_does_not_hold_is_refused_before_it_is_loaded(
    english: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LARGE_TABLE_BYTES", 0)
    with Device.open(tmp_path / "device", bundle=english.path, root=english.root) as device:
        device.add(*(Sample(word=f"the {name}", labels={"category": name}, subject="p-1") for name in tiny.ANIMALS * 3))

        def measured(*_: object) -> None:
            raise AssertionError("it was loaded")

        monkeypatch.setattr(plan, "measure_costs", measured)
        said = (
            r"the text encoder's file is \d+ MB, which 10 MB do not hold \(megabytes=\d+ or more, or a bundle of fewer"
        )
        with pytest.raises(TrainError, match=said):
            device.train(budget=Budget(minutes=1, megabytes=10))
