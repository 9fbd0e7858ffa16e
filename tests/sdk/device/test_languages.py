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
from homeroom.device import plan
from homeroom.errors import TrainError
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
