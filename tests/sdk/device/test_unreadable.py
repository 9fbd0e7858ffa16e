"""What cannot be read is said, gets the label that the lesson names for it, and makes no answer sure."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from homeroom import Device, Sample
from homeroom.errors import InputError
from homeroom.train.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: tiny.Tiny) -> Iterator[Path]:
    """A device that learned the tiny lesson, by a bundle that names a label for unreadable answers."""
    folder, patch = tmp_path_factory.mktemp("unreadable"), pytest.MonkeyPatch()
    patch.setenv("HOMEROOM_KEYS", str(folder / "keys"))
    made = tiny.with_task(tiny_bundle, folder / "bundle", "grade", unreadable="incorrect")
    with Device.open(folder / "device", made.path, made.root, threads=1) as device:
        kept = ("reference", "answer", "word", "facts", "subject")
        rows = [
            {**{name: row[name] for name in kept}, "labels": {t: row["labels"][t] for t in ("grade", "category")}}
            for row in tiny.samples(60, 1)
        ]
        device.add(*(Sample(**row) for row in rows))
        device.train(settings=Settings(epochs=16))
    yield folder / "device"
    patch.undo()


@pytest.fixture
def device(folder: Path) -> Iterator[Device]:
    with Device.open(folder, threads=1) as device:
        yield device


def picture(grey: np.ndarray | float) -> bytes:
    """A PNG of 64 x 64 grey levels."""
    held = io.BytesIO()
    Image.fromarray(np.broadcast_to(grey, (64, 64)).astype(np.uint8)).save(held, "PNG")
    return held.getvalue()


def sound(*sides: np.ndarray) -> bytes:
    """A WAV of these sides, each float [n] in [-1, 1], at 8 kHz."""
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(len(sides))
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((np.stack(sides, 1) * 32000).astype("<i2").tobytes())
    return held.getvalue()


@pytest.mark.parametrize("text", ["?", "...", "🙂", "aaaaaaaaaaaaaaaaaaaa"])
def test_an_answer_that_cannot_be_read_gets_the_label_that_the_recipe_names(device: Device, text: str) -> None:
    answer = device.predict(Sample(reference="the cat sleeps", answer=text))["grade"]
    assert (answer.best, answer.sure) == ("incorrect", False)
    assert "left out answer: " in answer.reason
    assert "'incorrect' by the lesson's own rule" in answer.reason
    with pytest.raises(InputError, match="can be read"):
        device.explain(Sample(reference="the cat sleeps", answer=text), "grade")


def test_an_answer_is_not_judged_by_a_reference_that_cannot_be_read(device: Device) -> None:
    answer = device.predict(Sample(reference="?", answer="the cat sleeps"))["grade"]
    assert (answer.best, answer.sure) == (None, False)
    assert "reference: without a letter" in answer.reason


def test_without_a_rule_there_is_a_sentence(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        answer = device.predict(Sample(reference="the cat sleeps", answer="?"))["grade"]
    assert (answer.best, answer.sure) == (None, False)
    assert "answer: without a letter or a digit" in answer.reason


NOTHING = {
    "a white page": ({"picture": picture(255)}, "burnt out or empty"),
    "a black picture": ({"picture": picture(0)}, "too dark"),
    "silence": ({"speech": sound(np.zeros(8000))}, "silent"),
    "an emoji alone": ({"word": "🙂"}, "without a letter or a digit"),
    "a white page and an emoji": ({"picture": picture(255), "word": "🙂"}, "word: without a letter"),
    "a picture without a sharp edge": (
        {"picture": picture(np.linspace(30, 220, 64))},
        "blurred",
    ),
}


@pytest.mark.parametrize(("inputs", "reason"), NOTHING.values(), ids=list(NOTHING))
def test_no_answer_is_sure_of_nothing(device: Device, inputs: dict[str, Any], reason: str) -> None:
    answers = device.predict(Sample(**inputs))
    for task in ("category", "weight" if "word" in inputs and len(inputs) == 1 else "category"):
        assert not answers[task].sure
        assert reason in answers[task].reason


def test_beside_a_good_input_a_poor_one_lowers_nothing(device: Device) -> None:
    good = Sample(word="the cat", facts={"legs": 4, "kilograms": 5.0, "home": "house"})
    poor = Sample(word="the cat", facts={"legs": 4, "kilograms": 5.0, "home": "house"}, picture=picture(255))
    expected, answer = device.predict(good)["category"], device.predict(poor)["category"]
    assert (answer.sure, answer.best) == (True, expected.best)
    assert "left out picture" in answer.reason


def test_a_text_whose_end_is_not_read_makes_no_answer_sure(device: Device) -> None:
    long = "the cat sleeps " * 30
    answers = device.predict(Sample(word=long, reference="the cat sleeps", answer=long))
    for task in ("category", "grade"):
        assert not answers[task].sure
        assert "the end is not read" in answers[task].reason
    beside = device.predict(Sample(word=long, facts={"legs": 4, "kilograms": 5.0, "home": "house"}))
    assert beside["category"].sure


@pytest.mark.parametrize("sides", [1, 2])
def test_sides_that_cancel_are_heard_and_silence_is_not(device: Device, sides: int) -> None:
    tone = 0.5 * np.sin(np.arange(4800) / 8000 * 2 * np.pi * 300)
    heard = device.predict(Sample(speech=sound(tone, -tone) if sides == 2 else sound(tone)))["category"]
    assert "silent" not in heard.reason
    quiet = device.predict(Sample(speech=sound(*[np.zeros(4800)] * sides)))["category"]
    assert (quiet.sure, "silent" in quiet.reason) == (False, True)
