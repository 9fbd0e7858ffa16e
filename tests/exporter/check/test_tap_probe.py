"""Where a recipe leaves the layers open, labelled samples say which are worth reading, and everybody can see why."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from click.testing import CliRunner
from transformers import BertConfig, BertModel

from exporter import models
from homeroom.cli.inspect import inspect
from homeroom.data.ingest import read_samples
from homeroom.runtime.bundle import open_bundle
from homeroom_exporter.check import tap_probe
from homeroom_exporter.export.design import draft
from homeroom_exporter.export.model_card import model_card
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.recipe.recipe import Recipe, parse_recipe

RECIPE = """\
name = "animals"
version = 1
batch = 4
width = 16
hidden = 16
golden = 2
saliency = false
[encoders.text]
source = "hf:{source}"
dim = 4
buckets = [8]
[slots]
words = "text"
[tasks.animal]
kind = "classification"
reads = ["words"]
labels = ["cat", "dog"]
"""
LAYERS = 6


def network(folder: Path, deaf_from: int) -> Path:
    """A BERT-shaped model whose layers from a number on give nearly the same for every text."""
    torch.manual_seed(1)
    models.write_tokenizer(folder)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": LAYERS}
    made = BertModel(BertConfig(vocab_size=300, max_position_embeddings=40, **sizes), add_pooling_layer=False)
    for layer in made.encoder.layer[deaf_from - 1 :]:
        layer.output.LayerNorm.weight.data *= 0.0
    made.save_pretrained(folder)
    return folder


def recipe(folder: Path) -> Recipe:
    return parse_recipe(RECIPE.format(source=folder))


def samples(folder: Path, count: int = 60, labelled: bool = True) -> Path:
    rows = []
    for i in range(count):
        animal = ("cat", "dog")[i % 2]
        one = {
            "words": f"the {('big', 'small', 'red', 'blue', 'green')[i // 2 % 5]} {animal} sees a bird",
            "subject": str(i),
        }
        rows.append(one | ({"labels": {"animal": animal}} if labelled else {}))
    return tiny.write_samples(folder, rows)


def chosen(plan: Recipe, path: Path, scratch: Path) -> tap_probe.TapChoice | None:
    return tap_probe.choose(plan, plan.encoders[0], list(read_samples(path, draft(plan))), scratch)


def test_a_layer_that_says_nothing_is_not_read_and_the_bundle_says_why(tmp_path: Path) -> None:
    plan, path = recipe(network(tmp_path / "model", deaf_from=2)), samples(tmp_path / "samples")
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    made = export(plan, path, tmp_path / "out", tiny.EXPORTER, certificate, threads=1)
    manifest = open_bundle(tmp_path / "out", root=None).manifest
    assert manifest.modality("text").taps == ("layer.1",)
    (choice,) = made.report.taps
    assert choice.scores["layer.1"] > 0.9
    assert max(choice.scores[f"layer.{n}"] for n in range(2, LAYERS + 1)) < 0.7
    assert choice.before == ("layer.2", "layer.4", "layer.6")
    assert f"text taps: {choice.summary}" in model_card(manifest, made.bundle_id, made.report)
    shown = CliRunner().invoke(inspect, [str(tmp_path / "out")])
    assert choice.summary in shown.output


def test_without_a_better_layer_the_usual_ones_are_read(tmp_path: Path) -> None:
    plan, path = recipe(network(tmp_path / "model", deaf_from=LAYERS + 1)), samples(tmp_path / "samples")
    choice = chosen(plan, path, tmp_path)
    assert choice
    assert choice.taps == choice.before == ("layer.2", "layer.4", "layer.6")
    assert tap_probe.recipe_taps(choice) == (2, 4, 6)


@pytest.mark.parametrize(
    ("taps", "count", "labelled"), [("[1]", 60, True), ('"auto"', 30, True), ('"auto"', 60, False)]
)
def test_named_layers_and_samples_without_enough_labels_choose_nothing(
    tmp_path: Path, taps: str, count: int, labelled: bool
) -> None:
    plan = parse_recipe(RECIPE.format(source=tmp_path / "nothing").replace("dim = 4", f"dim = 4\ntaps = {taps}"))
    assert chosen(plan, samples(tmp_path / "samples", count, labelled), tmp_path) is None
