"""Poor inputs are set aside with a reason when they are added, good ones are not, and a person has the last word."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from faults.devices import make_older, make_sample, numbers, open_store
from PIL import Image, ImageDraw, ImageFilter

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.contract.manifest import AudioPreprocess, Column, TablePreprocess, identifying
from homeroom.data.preprocess.audio import decode as hear
from homeroom.data.preprocess.image import decode
from homeroom.data.quality import audio, image, table, text
from homeroom.data.validation import resolve
from homeroom.device.local_samples import training_samples
from homeroom.device.model_in_use import model_in_use
from homeroom.device.solved import HeadsInUse
from homeroom.errors import InputError
from homeroom.federation import versions
from homeroom.train.settings import Settings

SPEC = AudioPreprocess(rate=16_000, samples=48_000, form="waveform")
RNG = np.random.default_rng(0)


def drawing(seed: int = 0, size: int = 200) -> Image.Image:
    """Shapes on white, as in a picture book."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = rng.integers(0, max(1, size - 40), 2)
        draw.ellipse([x, y, x + 40, y + 30], fill=tuple(int(v) for v in rng.integers(0, 255, 3)), outline="black")
    return picture


def png(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def photo() -> Image.Image:
    """Noise over a gradient: a sharp photograph has texture everywhere."""
    ramp = np.linspace(40, 200, 200)[None, :, None] + RNG.normal(0, 25, (200, 200, 3))
    return Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8))


def darker(picture: Image.Image, factor: float) -> Image.Image:
    return picture.point(lambda value: int(value * factor))


@pytest.mark.parametrize("picture", [drawing(1), drawing(2), photo(), darker(photo(), 0.4), drawing(3, 40)])
def test_a_good_picture_passes(picture: Image.Image) -> None:
    assert image.assess(decode(png(picture))) is None


@pytest.mark.parametrize(
    ("picture", "says", "empty"),
    [
        (darker(photo(), 0.05), "too dark", False),
        (Image.new("RGB", (200, 200)), "too dark", True),
        (Image.new("RGB", (200, 200), "white"), "burnt out", True),
        (photo().point(lambda value: min(255, value + 250)), "burnt out", True),
        (Image.new("RGB", (200, 200), (120, 120, 120)), "without content", True),
        (drawing(1).filter(ImageFilter.GaussianBlur(8)), "blurred", False),
        (drawing(2).filter(ImageFilter.BoxBlur(12)), "blurred", False),
        (drawing(2).filter(ImageFilter.BoxBlur(60)), "blurred", False),
        (drawing(3).filter(ImageFilter.GaussianBlur(45)), "blurred", False),
    ],
)
def test_a_poor_picture_is_told(picture: Image.Image, says: str, empty: bool) -> None:
    found = image.assess(decode(png(picture)))
    assert found is not None
    assert (says in found.reason, found.empty) == (True, empty)


def test_the_blur_effect_rises_with_blur() -> None:
    effects = [
        image.blur_effect(np.asarray(photo().filter(ImageFilter.GaussianBlur(radius)).convert("L"), np.float32))
        for radius in (0, 1, 2, 4, 8)
    ]
    assert effects == sorted(effects)
    assert effects[0] < 0.3
    assert effects[-1] > 0.7


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def speech(loud: float = 0.3, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    """Bursts of noise, as loud as said, with pauses."""
    times = np.arange(int(seconds * rate)) / rate
    return loud * RNG.normal(0, 0.4, len(times)) * (np.sin(2 * np.pi * 3 * times) > 0)


def test_good_sounds_pass_soft_ones_and_loud_ones_and_a_knock_and_a_tone_too() -> None:
    knock = np.zeros(16_000)
    knock[8_000:8_400] = np.sin(np.arange(400))
    tone = 0.3 * np.sin(np.arange(16_000) / 7)
    assert 0.1 < audio.clipped_share(np.clip(speech(4.0), -1, 1)) < 0.2, "as recordings for classrooms are"
    for sound in (speech(), 0.2 + speech(0.5), speech(0.05), speech(4.0), knock, tone, speech(rate=8_000)):
        assert audio.assess(*hear(wav(sound)), SPEC) is None
    assert audio.assess(*hear(wav(speech(rate=8_000), 8_000)), SPEC) is None


def test_poor_sounds_are_told() -> None:
    for sound, rate, says, empty in (
        (np.zeros(4_000), 4_000, "silent", True),
        (speech(12.0), 16_000, "clipped", False),
        (speech(seconds=0.05), 16_000, "long", True),
        (speech(rate=4_000), 4_000, "4000 Hz", False),
        (speech(0.02), 16_000, "quiet", False),
        (speech(0.5) + RNG.normal(0, 0.14, 16_000), 16_000, "drowned in noise", False),
        (0.3 + speech(0.0005), 16_000, "silent", True),
    ):
        found = audio.assess(*hear(wav(sound, rate)), SPEC)
        assert found is not None
        assert (says in found.reason, found.empty) == (True, empty), says


@pytest.mark.parametrize(
    ("words", "language", "says"),
    [
        ("el gato", "es", None),
        ("gato", "en", None),  # a single word is never judged by its language
        ("3 + 4 = 7", "en", None),
        ("________ is an animal", None, None),
        ("El gato de la casa no es de color y por eso se va con los otros", "es", None),
        ("Der Hund ist nicht in dem Haus und die Katze auch nicht", "de-AT", None),
        ("Der Hund ist nicht in dem Haus und die Katze auch nicht", "en", "words are those of 'de'"),
        ("The cat is not in the house and the dog is with it", "fr", "words are those of 'en'"),
        ("The cat is not in the house and the dog is with it", None, None),
        ("кошка", "es", "another script"),
        ("кошка", "ru", None),
        ("猫は動物です", "ja", None),
        ("gato", "zh", "another script"),
        ("?!... --", "en", "without a letter"),
        ("aaaaaaaaaaaaaaaa", "en", "in a row"),
        ("whatever", "tlh", None),  # a language that is not known here
    ],
)
def test_texts(words: str, language: str | None, says: str | None) -> None:
    found = text.assess(words, language)
    assert found is None if says is None else found is not None and says in found.reason
    assert found is None or found.empty == ("letter" in found.reason and "script" not in found.reason)


# On a device


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Any:
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        yield opened


def test_the_tests_own_samples_pass(device: Device) -> None:
    device.add(*(Sample(**row) for row in tiny.samples(30, 0)))
    assert device.set_aside() == []


def test_a_poor_sample_is_stored_and_shown_but_does_not_teach_until_it_is_put_back(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Sample(**row) for row in tiny.samples(12, 0)]
    black = Sample(picture=png(Image.new("RGB", (40, 40))), labels={"category": "cat"}, subject="pupil-0")
    ids = device.add(*rows, black)
    (aside,) = device.set_aside()
    assert aside.sample_id == ids[-1]
    assert "picture: too dark" in aside.aside
    assert device.status()["samples"] == 13
    assert "too dark" in device.status()["set_aside"][0]
    assert device.train(settings=Settings(epochs=1)).samples == 12
    assert device.export("pupil-0").samples[-1].aside == aside.aside
    place = str(device.store.directory)
    device.close()
    main(["device", "quarantine", place, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["labels"]) == (ids[-1], {"category": "cat"})
    main(["device", "quarantine", place, "--put-back", ids[-1]])
    assert "none is quarantined" in capsys.readouterr().out
    with Device.open(place, threads=1) as again:
        assert again.train(settings=Settings(epochs=1)).samples == 13
        with pytest.raises(InputError, match="no such sample"):
            again.put_back(ids[-1])
        assert again.add(black) == [ids[-1]], "the same sample, not one more"
        assert again.set_aside() == []


BLACK = Image.new("RGB", (40, 40))


def theta_of(place: Path, made: tiny.Tiny, *samples: Sample, again: bool = False) -> Any:
    """What a new device learns from these; `again`: after all that was set aside was put back."""
    with Device.open(place, made.path, made.root, threads=1) as device:
        device.add(*samples)
        if again:
            device.put_back(*(sample.sample_id for sample in device.set_aside()))
        device.train(settings=Settings(epochs=2))
        return versions.theta_of(device.store, device.bundle, device.store.versions.current())


def test_what_is_not_poor_of_a_sample_teaches_and_the_rest_once_it_is_put_back(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Sample(**row) for row in tiny.samples(12, 0)]
    labels: Any = {"category": "cat", "size": "small"}
    partly = Sample(word="the cat", picture=png(BLACK), labels=labels, subject="pupil-0")
    device.add(*rows, partly)
    (aside,) = device.set_aside()
    assert aside.left_out == {"picture": [0]}
    assert "too dark" in device.status()["set_aside"][0]
    assert "picture left out, the rest teaches" in device.status()["set_aside"][0]
    assert device.train(settings=Settings(epochs=1)).samples == 13
    place = str(device.store.directory)
    device.close()
    main(["device", "quarantine", place])
    assert "picture left out, the rest teaches" in capsys.readouterr().out
    learned = theta_of(tmp_path / "one", tiny_bundle, *rows, partly)
    word = Sample(word="the cat", labels=labels, subject="pupil-0")
    assert np.array_equal(learned, theta_of(tmp_path / "two", tiny_bundle, *rows, word)), "as if it had no picture"
    back = theta_of(tmp_path / "three", tiny_bundle, *rows, partly, again=True)
    assert not np.array_equal(learned, back)


def test_a_choice_whose_right_option_is_poor_is_not_asked(device: Device) -> None:
    good = [png(drawing(seed)) for seed in range(3)]
    labels: Any = {"which_picture": 3, "weight": 4.0}
    first = Sample(word="the cat", pictures=[*good, png(BLACK)], labels=labels, subject="a")
    second = Sample(word="the cat", pictures=[png(BLACK), *good], labels=labels, subject="b")
    device.add(first, second)
    one, two = device.set_aside()
    assert (one.left_out, two.left_out) == ({"pictures": [3]}, {"pictures": [0]})
    assert one.labels == labels, "a person sees what was given"
    learned = {sample.subject: sample.labels for sample in training_samples(device.store, device.bundle)}
    assert learned == {"a": {"weight": 4.0}, "b": labels}


def test_a_sample_that_teaches_nothing_without_its_poor_input_is_set_aside_as_a_whole(device: Device) -> None:
    device.add(Sample(word="the cat", picture=png(BLACK), labels={"size": "small"}))
    (aside,) = device.set_aside()
    assert aside.left_out == {}
    assert not training_samples(device.store, device.bundle)


def test_near_copies_of_a_partly_poor_sample_are_told(device: Device) -> None:
    for _ in range(2):
        device.add(Sample(word="the cat", picture=png(BLACK), labels={"category": "cat"}, subject="ana"))
    assert len(device.set_aside()) == 1, "the very same sample is not stored again"
    device.add(Sample(word="The Cat!", picture=png(BLACK), labels={"category": "dog"}, subject="ana"))
    one, two = device.set_aside()
    assert one.left_out
    assert (two.left_out, "contradicts" in two.aside) == ({}, True)


def test_a_poor_input_is_left_out_of_an_answer_and_it_says_so(device: Device) -> None:
    black = png(Image.new("RGB", (40, 40)))
    answer = device.predict(Sample(word="the cat", picture=black))["category"]
    assert answer.probabilities == device.predict(Sample(word="the cat"))["category"].probabilities
    assert "left out picture: too dark" in answer.reason
    alone = device.predict(Sample(picture=black))["category"]
    assert alone.best is not None, "where it is all there is, it is looked at"
    assert device.predict_many([]) == []


def test_a_number_far_outside_its_columns_range_is_set_aside_and_makes_an_answer_unsure(device: Device) -> None:
    device.add(*(Sample(**row) for row in tiny.samples(40, 0)))
    device.train(settings=Settings(epochs=5, learning_rate=1e-2))
    far = {"legs": 4, "kilograms": 4500}  # grams
    device.add(
        Sample(word="the cat", facts=far, labels={"category": "cat"}), Sample(facts={"legs": 4, "kilograms": 45})
    )
    (aside,) = device.set_aside()
    assert aside.quarantine_reason == (
        "facts: kilograms is 4500, usual are -30 to 50 (facts left out, the rest teaches)"
    )
    unsure = device.predict(Sample(word="the cat", facts=far))
    assert not unsure["category"].sure
    assert "kilograms is 4500, usual are -30 to 50" in unsure["category"].reason
    legs = device.predict(Sample(word="the cat", facts={"legs": 4}))["category"]
    assert unsure["category"].probabilities == legs.probabilities, "its other cells are read"
    assert "kilograms" not in unsure["which_picture"].reason, "which does not read the facts"
    alone = device.predict(Sample(facts={"kilograms": 4500}))["category"]
    assert (alone.best is not None, alone.sure) == (True, False)
    assert "usual are" in alone.reason
    assert device.explain(Sample(word="the cat", facts=far), "category").answer == unsure["category"]


SHARE = Column("share", mean=0.7, std=0.2, min=0.0, max=1.0, unit="of 1")


@pytest.mark.parametrize(
    ("column", "cell", "says"),
    [
        (SHARE, 1.0, None),
        (SHARE, 1.1, "share is 1.1 of 1, usual are 0 to 1 of 1"),
        (SHARE, -0.1, "share is -0.1 of 1, usual are 0 to 1 of 1"),
        (Column("share", mean=0.7, std=0.2), 2.3, None),
        (Column("share", mean=0.7, std=0.2), 2.31, "share is 2.31, usual are -0.9 to 2.3"),
        (Column("kind", categories=("45",)), "45", None),
        (SHARE, None, None),
    ],
)
def test_a_columns_range_is_eight_spreads_and_what_its_recipe_says(column: Column, cell: Any, says: str | None) -> None:
    finding = table.assess(TablePreprocess((column,)), {column.name: cell})
    assert (finding and finding.reason) == says


def test_a_columns_range_and_unit_change_no_features() -> None:
    plain = TablePreprocess((Column("share", mean=0.7, std=0.2),))
    assert identifying(TablePreprocess((SHARE,))) == identifying(plain)
    assert msgspec.json.encode(plain) == (
        b'{"kind":"table","columns":[{"name":"share","mean":0.7,"std":0.2,"categories":[]}]}'
    ), "as earlier releases wrote it"


BLURRED = png(drawing(1).filter(ImageFilter.GaussianBlur(8)))


def test_what_can_still_be_seen_counts_less_and_in_full_once_it_is_put_back(
    device: Device, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    rows = [Sample(**row) for row in tiny.samples(12, 0)]
    labels: Any = {"category": "cat"}
    blurred = Sample(word="the cat", picture=BLURRED, labels=labels, subject="pupil-0")
    device.add(*rows, blurred)
    (aside,) = device.set_aside()
    assert (aside.left_out, aside.weighed) == ({}, {"picture": [0]})
    assert "blurred" in aside.quarantine_reason
    assert "(picture counts less, the rest teaches)" in aside.quarantine_reason
    assert device.train(settings=Settings(epochs=1)).samples == 13
    less = theta_of(tmp_path / "one", tiny_bundle, *rows, blurred)
    word = theta_of(tmp_path / "two", tiny_bundle, *rows, Sample(word="the cat", labels=labels, subject="pupil-0"))
    full = theta_of(tmp_path / "three", tiny_bundle, *rows, blurred, again=True)
    assert not np.array_equal(less, word)
    assert not np.array_equal(less, full)


def test_an_option_that_is_poor_is_left_out_since_only_the_fusion_weighs(device: Device) -> None:
    good = [png(drawing(seed)) for seed in range(3)]
    device.add(Sample(word="the cat", pictures=[BLURRED, *good], labels={"which_picture": 1}))
    (aside,) = device.set_aside()
    assert (aside.left_out, aside.weighed) == ({"pictures": [0]}, {})


def test_an_answer_says_how_much_a_poor_input_counted_and_so_does_its_explanation(device: Device) -> None:
    device.add(*(Sample(**row) for row in tiny.samples(40, 0)))
    device.train(settings=Settings(epochs=5, learning_rate=1e-2))
    asked = Sample(word="the cat", picture=BLURRED)
    answer = device.predict(asked)["category"]
    assert "picture: blurred" in answer.reason
    assert "counts 0.5 times" in answer.reason
    word = device.predict(Sample(word="the cat"))["category"]
    stored = resolve(asked, device.bundle.manifest)
    full = model_in_use(device.store, device.graphs, HeadsInUse()).answers([stored])[0]["category"]
    chances = [one.probabilities["cat"] for one in (word, answer, full)]
    assert len(set(chances)) == 3
    assert device.explain(asked, "category").answer == answer


def test_what_a_poor_picture_counts_is_learned_where_pupils_give_many(device: Device) -> None:
    def sample(row: dict[str, Any], picture: bytes) -> Sample:
        return Sample(
            word=row["word"], picture=picture, labels={"category": row["labels"]["category"]}, subject=row["subject"]
        )

    rows = tiny.samples(120, 0)
    device.add(*(sample(row, row["picture"]) for row in rows if "picture" in row))
    rng, colours = np.random.default_rng(0), list(tiny.COLOURS)
    for row in tiny.samples(80, 1):  # whatever is on them, it is not what the word says
        other = tiny.COLOURS[colours[(colours.index(row["labels"]["category"]) + 1) % 4]]
        dim = Image.new("RGB", (64, 64), tuple(int(v * 0.1 + rng.normal(0, 1)) for v in other))
        dim.paste((0, 0, 0), (0, 0, 32, 64))
        device.add(sample(row, png(dim)))
    assert sum("picture" in one.weighed for one in device.set_aside()) > 60
    device.train(settings=Settings(epochs=8, learning_rate=1e-2))
    version = device.store.versions.current()
    assert version is not None
    assert version.facts["weights"]["image"] != 0.5


def test_gates_can_be_left_open(device: Device) -> None:
    device.add(Sample(picture=png(Image.new("RGB", (40, 40))), labels={"category": "cat"}), gates=False)
    assert device.set_aside() == []


def test_near_copies_and_contradictions_are_set_aside_within_one_person_only(device: Device) -> None:
    picture = drawing(5)

    def sample(kind: str, label: str, subject: str, **more: Any) -> Sample:
        return Sample(picture=png(picture, kind), labels={"category": label, **more}, subject=subject)

    device.add(sample("PNG", "cat", "ana"))
    device.add(sample("WEBP", "cat", "ana"))
    device.add(sample("JPEG", "dog", "ana"))
    device.add(sample("PNG", "cat", "ben"), sample("PNG", "cat", "ana", size="big"))
    device.add(Sample(picture=png(drawing(6)), labels={"category": "cat"}, subject="ana"))
    reasons = [aside.aside for aside in device.set_aside()]
    assert len(reasons) == 2
    assert "near copy" in reasons[0]
    assert "contradicts" in reasons[1]
    device.add(Sample(word="El  Gato!", labels={"category": "cat"}, subject="ana"))
    device.add(Sample(word="el gato", labels={"category": "cat"}, subject="ana"))
    assert len(device.set_aside()) == 3
    device.add(Sample(word="I do not know.", labels={"category": "cat"}))
    device.add(Sample(word="i do not know", labels={"category": "dog"}))
    assert len(device.set_aside()) == 3, "pupils without a name of their own may write the same"


def test_scores_are_shown_by_language(device: Device) -> None:
    rows = tiny.samples(42, 0, subjects=7)
    device.add(*(Sample(**row, language="en" if i % 2 else "es") for i, row in enumerate(rows)))
    found = device.train(settings=Settings(epochs=2)).by_language
    assert sorted(found) == ["en", "es"]
    whole = sum(found[language]["category"].n for language in found)
    assert whole == device.train(settings=Settings(epochs=2)).scores["category"].n


def test_a_store_of_the_second_version_is_brought_up(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0), make_sample(1)])
    make_older(tmp_path, 2)
    with open_store(tmp_path) as store:
        assert numbers(store) == [0, 1]
        assert store.quarantined() == []
        assert store.damage() == []
