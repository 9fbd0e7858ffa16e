"""Letters of texts: counted alike in any spelling, in the sums of tasks that name them, and in secure rounds alone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import solvable
import tiny

from homeroom import Device, Sample
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.round import RoundConfiguration, SecureRules, StatisticsRules
from homeroom.contract.statistics.limits import check_release, check_shared
from homeroom.contract.statistics.secure import StatisticsSegments
from homeroom.contract.statistics.sums import Cell, Statistics
from homeroom.errors import BundleError, InputError, RecipeError, UpdateError
from homeroom.federation.statistics import shared_tasks
from homeroom.runtime.bundle import open_bundle
from homeroom.train.solve.heads import section_strength
from homeroom.train.solve.vectors.letters import BUCKETS, CODES, WRITTEN, letter_numbers, read_spelling
from homeroom.train.solve.vectors.raw import numbers_of_text
from homeroom.train.solve.vectors.samples import blocks_of, covered, sums_id
from homeroom_aggregator.admin.folder import check_statistics
from homeroom_exporter.export.spelling import make_spelling
from homeroom_exporter.export.statistics import fit_projection
from homeroom_exporter.export.statistics_size import statistics_sentence
from homeroom_exporter.recipe.recipe import parse_recipe

SPELLING = make_spelling()
TASK = "which_picture"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    return solvable.with_statistics(tmp_path_factory.mktemp("letters") / "bundle", letters={TASK: False})


@pytest.fixture
def device(made: tiny.Tiny, tmp_path: Path) -> Device:
    with contextlib.closing(Device.open(tmp_path / "device", bundle=made.path, root=made.root)) as opened:
        yield opened


def rules(mode: str) -> RoundConfiguration:
    statistics = StatisticsRules(mode=mode)  # type: ignore[arg-type]
    secure = SecureRules(minimum=3) if mode == "secure" else None
    return RoundConfiguration(bundle_id="0" * 64, statistics=statistics, secure=secure)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Élan, VERT!", "e\u0301lan vert"),  # case, marks apart, punctuation
        ("ｃａｔ", "cat"),  # full-width
        ("cat cat cat", "cat"),  # no length
        ("straße", "STRASSE"),
        ("l'eau", "l’eau"),
    ],
)
def test_one_text_in_two_spellings_has_the_same_letters(text: str, other: str) -> None:
    first, second = letter_numbers(text, SPELLING), letter_numbers(other, SPELLING)
    assert np.allclose(first, second)
    assert np.linalg.norm(first) == pytest.approx(1)


def test_letters_of_any_text_are_within_norm_1_and_tell_words_apart() -> None:
    for text in ("", "👍🏽👩‍👩‍👧", "  ", "\ud800"):
        assert np.linalg.norm(letter_numbers(text, SPELLING)) <= 1 + 1e-6
    for text in ("Katze", "кошка", "猫", "قطة", "แมว", "고양이"):
        own = letter_numbers(text, SPELLING)
        assert own @ letter_numbers(text + "x", SPELLING) > own @ letter_numbers("vélo", SPELLING) + 0.2
    ten_thousand = letter_numbers("palabra " * 9999 + "otra", SPELLING)
    assert np.linalg.norm(ten_thousand) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("kind", "counted"), [("letters", "letter_numbers"), ("text", "surface.surface_numbers")])
def test_a_word_that_is_an_option_of_many_samples_is_measured_once(
    made: tiny.Tiny, monkeypatch: pytest.MonkeyPatch, kind: str, counted: str
) -> None:
    measured: list[str] = []

    def count(text: str, *_: object) -> np.ndarray:
        measured.append(text)
        return np.float32([len(text)])

    monkeypatch.setattr(f"homeroom.train.solve.vectors.raw.{counted}", count)
    of_text = numbers_of_text(kind, made.manifest.modality("text"), SPELLING)
    assert [of_text(word).tolist() for word in ("cat", "bird", "cat", "cat")] == [[3], [4], [3], [3]]
    assert measured == ["cat", "bird"]


def test_letters_are_in_the_sums_of_the_task_that_names_them_and_nowhere_in_theta(
    made: tiny.Tiny, device: Device, solved_bundle: tiny.Tiny
) -> None:
    section = made.manifest.statistics
    assert section
    [letters] = [block for block in section.blocks if block.kind == "letters"]
    assert (letters.name, section.letters) == ("word.letters", (TASK,))
    assert letters.dimension <= 32
    assert [s.segment_id for s in made.manifest.segments] == [s.segment_id for s in solved_bundle.manifest.segments]
    with_labels = tiny.samples(60, seed=1)
    device.add(*(Sample(**row) for row in with_labels))
    device.train(minutes=1)
    total = device.store.own_total(sums_id(device.bundle.manifest))
    holding = {cell.task for cell in total.cells if letters.statistics_id in cell.blocks}
    assert holding == {TASK}
    assert len(total.of_task(TASK).cells) > 6, "moments of letters with both other blocks"
    assert device.predict(Sample(word="the cat", pictures=with_labels[0]["pictures"]))[TASK].best is not None
    segments = StatisticsSegments(made.manifest)
    assert {name for name, pairs in segments.pairs.items() if any(letters.statistics_id in p for p in pairs)} == {TASK}


def test_a_task_may_read_letters_in_place_of_what_the_encoder_says(made: tiny.Tiny) -> None:
    section = msgspec.structs.replace(made.manifest.statistics, letters_alone=(TASK,))  # type: ignore[type-var]
    manifest = msgspec.structs.replace(made.manifest, statistics=section)
    asked, options = blocks_of(section, manifest.task(TASK))
    assert [[block.name for block in some] for some in (asked, options)] == [["word.letters"], ["pictures"]]
    same = manifest.task("same")
    assert blocks_of(section, same) == blocks_of(made.manifest.statistics, same), "another task reads as before"
    other = msgspec.structs.replace(section, letters_alone=("same",))
    with pytest.raises(BundleError, match="reads letters alone that reads none"):
        read_manifest(msgspec.json.encode(msgspec.structs.replace(manifest, statistics=other)))


def test_letters_leave_a_device_in_secure_rounds_alone(made: tiny.Tiny, device: Device) -> None:
    manifest = made.manifest
    secure, plain = (shared_tasks(manifest, manifest.layout, rules(mode)) for mode in ("secure", "plain"))
    assert TASK in secure
    assert secure.keys() - plain.keys() == {TASK}
    with pytest.raises(InputError, match=f"{TASK} read the letters of texts, which plain statistics would show"):
        check_statistics(rules("plain"), device.bundle, made.path)
    check_statistics(rules("secure"), device.bundle, made.path)


def test_a_vector_of_letters_tells_which_word_of_a_list_it_is_of() -> None:
    draw = np.random.default_rng(0)
    syllables = [a + b for a in "bdfglmnprst" for b in "aeiou"]
    words = ["".join(draw.choice(syllables, 3)) for _ in range(300)]
    raw = np.array([letter_numbers(word, SPELLING) for word in words])
    projection = fit_projection(raw, [(BUCKETS, 1.0)], 32)
    assert projection
    vectors = projection(raw)
    guessed = [words[((vectors - vector) ** 2).sum(1).argmin()] for vector in projection(raw[:100])]
    assert guessed == words[:100]


def test_an_aggregator_takes_letters_in_no_plain_total_and_of_no_other_task(made: tiny.Tiny) -> None:
    section = made.manifest.statistics
    assert section
    word, letters = (next(b.statistics_id for b in section.blocks if b.name == n) for n in ("word", "word.letters"))

    def counted(task: str, row: str, block: str) -> Statistics:
        return Statistics({Cell(task, "count", row, (block, block)): np.array([5])})

    check_release(counted(TASK, "true", letters), made.manifest)
    with pytest.raises(UpdateError, match="letters of texts leave a device in secure rounds alone"):
        check_shared(counted(TASK, "true", word), (), made.manifest, 100)
    with pytest.raises(UpdateError, match="no task or block"):
        check_release(counted("category", "cat", letters), made.manifest)


def test_a_bundle_whose_letters_do_not_hold_together_is_refused(made: tiny.Tiny, tmp_path: Path) -> None:
    arrays = {CODES: SPELLING.codes, WRITTEN: SPELLING.written}
    assert read_spelling(arrays, "file").sha256 == SPELLING.sha256
    for wrong in ({CODES: SPELLING.codes[1:]}, {WRITTEN: np.array([255], np.uint8)}, {CODES: np.zeros(3)}):
        with pytest.raises(BundleError, match="file"):
            read_spelling(arrays | wrong, "file")
    section = msgspec.structs.replace(made.manifest.statistics, letters=("category",))  # type: ignore[type-var]
    other = msgspec.json.encode(msgspec.structs.replace(made.manifest, statistics=section))
    with pytest.raises(BundleError, match="category of statistics is no task that letters serve"):
        read_manifest(other)
    assert open_bundle(made.path, root=None).manifest.statistics
    assert {task.name for task in covered(made.manifest)} >= {TASK}


def test_a_bundle_says_how_many_components_heads_of_a_task_read(made: tiny.Tiny) -> None:
    assert made.manifest.statistics
    assert section_strength(made.manifest.statistics, TASK).components is None
    for name, refused in ((TASK, False), ("category", True)):
        section = msgspec.structs.replace(made.manifest.statistics, components={name: 3})
        other = msgspec.structs.replace(made.manifest, statistics=section)
        assert section_strength(section, name).components == 3
        assert sums_id(other) == sums_id(made.manifest), "the sums are the same, and merge"
        with (
            pytest.raises(BundleError, match="no task whose head reads fewer") if refused else contextlib.nullcontext()
        ):
            read_manifest(msgspec.json.encode(other))


@pytest.mark.parametrize(
    ("samples", "options", "said"),
    [
        (60, {"components": {TASK: 96}}, "components: 96 has no effect: its largest block has"),
        (1, {"components": {TASK: 1}}, "components: 1 has no effect: its largest block has 0 components"),
        (4, {"letters": {TASK: False}}, "letters: has no effect: too few calibration samples"),
    ],
)
def test_an_export_refuses_what_would_have_no_effect(
    samples: int, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=f"tasks.{TASK}.{said}"):
        solvable.with_statistics(tmp_path / "bundle", samples=samples, **options)


def test_an_export_names_the_components_that_a_head_reads(tmp_path: Path) -> None:
    made = solvable.with_statistics(tmp_path / "bundle", components={TASK: 14})
    section = open_bundle(made.path, root=None).manifest.statistics
    assert section
    assert section_strength(section, TASK).components == 14
    assert statistics_sentence(made.manifest, section, 1000).endswith(f"; the head of {TASK} reads 14 of each")


COMPARED = """name = "r"
version = 1
[encoders.text]
source = "pip:minilm"
[encoders.image]
source = "pip:efficientnet-lite0"
[slots]
a = "text"
b = "image"
[tasks.t]
kind = "{kind}"
reads = ["a", "b"]
{labels}
components = 12
"""


def test_a_recipe_names_components_of_tasks_that_compare() -> None:
    assert parse_recipe(COMPARED.format(kind="matching", labels="")).components == {"t": 12}
    with pytest.raises(RecipeError, match="only a choice or a matching task's head reads fewer components"):
        parse_recipe(COMPARED.format(kind="classification", labels='labels = ["x", "y"]'))


@pytest.mark.parametrize(
    ("head", "kind", "reads", "said"),
    [
        ("", "classification", '["a", "c"]', "only a choice or a matching task reads letters"),
        ("", "matching", '["c", "b"]', "it reads no text that could have letters"),
        (
            'golden_from = "synthetic"\n',
            "matching",
            '["a", "c"]',
            "shows letters of the calibration samples",
        ),
    ],
)
def test_a_recipe_names_letters_where_they_can_be(head: str, kind: str, reads: str, said: str) -> None:
    labels = 'labels = ["x", "y"]\n' if kind == "classification" else ""
    text = f"""name = "r"
version = 1
{head}[encoders.text]
source = "pip:minilm"
[encoders.image]
source = "pip:efficientnet-lite0"
[slots]
a = "text"
b = "image"
c = "image"
[tasks.t]
kind = "{kind}"
reads = {reads}
{labels}letters = true
[tasks.other]
kind = "regression"
reads = ["a", "b", "c"]
"""
    with pytest.raises(RecipeError, match=said) as refused:
        parse_recipe(text)
    assert "tasks.t.letters" in str(refused.value)
