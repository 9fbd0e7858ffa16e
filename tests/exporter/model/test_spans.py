"""Spans: passages of a text, marked by character from the example recipe's bundle on a small BERT-shaped model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from exporter import models
from exporter.small import assembled
from homeroom import Device, Sample
from homeroom.contract.signing import certify
from homeroom.data.ingest import read_samples
from homeroom.data.tasks.answers import TextSpan
from homeroom.data.tasks.spans import spans_in
from homeroom.errors import InputError, RecipeError
from homeroom.inference.golden import choose_precision
from homeroom.runtime.bundle import open_bundle
from homeroom.train.settings import Settings
from homeroom_exporter.export.design import draft
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.recipe.recipe import Recipe, parse_recipe

TEXT = (Path(__file__).parents[3] / "examples" / "recipes" / "marked_spans.toml").read_text()
KINDS = {"cat": "animal", "dog": "animal", "bird": "animal", "red": "colour", "blue": "colour", "green": "colour"}


def recipe(model: Path, extra: str = "") -> Recipe:
    """The example's, on a small model, with other labels."""
    text = TEXT.replace("pip:minilm", f"hf:{model}").replace("taps = [2, 4, 6]", "taps = [1, 2]")
    text = text.replace("dim = 64", "dim = 16").replace("[32, 64, 128]", "[16]")
    text = text.replace('["claim", "reason", "example"]', '["animal", "colour"]')
    return parse_recipe(text.replace("saliency = false", f"batch = 8\nwidth = 32\nhidden = 32\n{extra}"))


def essays(count: int, seed: int) -> list[dict[str, Any]]:
    """Sentences of single words, some of which are marked; neighbours of one kind are one span."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        text, spans, before = "", [], ""
        for word in rng.choice(models.WORDS, int(rng.integers(3, 10))):
            text += " " if text else ""
            kind = KINDS.get(str(word), "")
            start, end = len(text), len(text) + len(word)
            if kind and kind == before:
                spans[-1]["end"] = end
            elif kind:
                spans.append({"start": start, "end": end, "label": kind})
            before, text = kind, text + str(word)
        found.append({"essay": text, "labels": {"parts": spans}, "subject": f"pupil {i % 8}"})
    return found


def calibration(folder: Path) -> Path:
    path = folder / "essays.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in essays(40, 1)))
    return path


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("spans")
    bundle, _ = assembled(recipe(models.bert(folder / "model")), calibration(folder), folder)
    with Device.open(folder / "device", bundle.path, threads=1) as found:
        found.add(*(Sample(**row) for row in essays(80, 2)), gates=False)
        found.train(settings=Settings(epochs=15, learning_rate=1e-2))
        yield found


def test_a_device_learns_to_mark_and_says_where(device: Device) -> None:
    score = device.score(*(Sample(**row) for row in essays(30, 3)))["parts"]
    assert score.n > 100
    assert score.macro_f1 > 0.9
    text = "the big red dog sees a blue green bird"
    answer = device.predict(Sample(essay=text))["parts"]
    assert answer.sure
    marked = [(text[span.start : span.end], span.label) for span in answer.best]  # type: ignore[union-attr]
    assert marked == [("red", "colour"), ("dog", "animal"), ("blue green", "colour"), ("bird", "animal")]
    assert all(0.5 < span.probability <= 1 for span in answer.best)  # type: ignore[union-attr]


def test_a_text_without_a_span_is_a_label_too(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "more.csv"
    path.write_text(
        'essay,label.parts,subject\nthe small cat,10-13:animal,a\n"a dog, not red",2-5:animal|11-14:colour,b\n'
    )
    rows = list(read_samples(path, device.bundle.manifest))
    assert rows[0].labels == {"parts": [{"start": 10, "end": 13, "label": "animal"}]}
    assert [span["label"] for span in rows[1].labels["parts"]] == ["animal", "colour"]  # type: ignore[index,union-attr]
    none = Sample(essay="the and a", labels={"parts": []})
    assert device.score(none)["parts"].n == 3


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ([(0, 3, "animal"), (2, 5, "colour")], "spans 0 to 3 and 2 to 5 overlap"),
        ([(0, 30, "animal")], "the span to 30 leads past the text's 7 characters"),
        ([(3, 3, "animal")], "characters 3 to 3 are no span"),
        ([(0, 3, "plant")], r"labels\.parts: no label 'plant'"),
        ([{"start": 0, "label": "animal"}], "is no span"),
        ([(0, True, "animal")], "is no span"),
        ("animal", "needs a list of spans"),
    ],
)
def test_spans_that_do_not_fit_are_refused(device: Device, label: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        device.add(Sample(essay="the cat", labels={"parts": label}))


def test_spans_need_their_text(device: Device) -> None:
    with pytest.raises(InputError, match="the sample has no input"):
        device.add(Sample(labels={"parts": []}))


def test_a_word_of_several_tokens_is_marked_as_one() -> None:
    task = next(iter(parse_recipe(TEXT).tasks))
    words = [None, (0, 4), (0, 4), (5, 8), (9, 12), None]
    chances = np.full((6, 4), 0.1)
    for token, (label, chance) in enumerate([(0, 0.7), (1, 0.7), (2, 0.3), (1, 0.6), (3, 0.9), (0, 0.7)]):
        chances[token, label] = chance
    assert spans_in(task, chances, words) == [
        TextSpan(0, 8, "claim", pytest.approx(0.4)),
        TextSpan(9, 12, "example", 0.9),
    ]


@pytest.mark.extra
@pytest.mark.parametrize("extra", ["clipped = true\n", "[adapter]\nfamily = 'lora'\nrank = 2\ntargets = ['q_lin']\n"])
def test_the_example_recipe_passes_its_self_check_with_and_without_an_adapter(tmp_path: Path, extra: str) -> None:
    plan = recipe(models.distilbert(tmp_path / "model"), extra)
    certificate = certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    found = export(plan, calibration(tmp_path), tmp_path / "out", tiny.EXPORTER, certificate, threads=1)
    assert {step.role for step in found.report.steps} >= {"grad", "predict"}
    assert all(choose_precision(open_bundle(found.path, root=None), threads=1).values())


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('essay = "text"', 'essay = "text[2]"', r"tasks\.parts\.reads: spans reads one single text slot"),
        ('["claim", "reason", "example"]', "[]", r"tasks\.parts\.labels: needs at least 1 different labels"),
    ],
)
def test_a_recipe_that_cannot_mark_is_refused_with_its_line(before: str, after: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe(TEXT.replace(before, after))


def test_calibration_samples_may_be_marked(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"essay": "a cat", "labels": {"parts": [[2, 5, "claim"]]}}))
    (found,) = read_samples(tmp_path / "a.jsonl", draft(parse_recipe(TEXT)))
    assert found.labels == {"parts": [{"start": 2, "end": 5, "label": "claim"}]}
