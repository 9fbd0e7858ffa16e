"""The recipes in examples/recipes: each is read, and makes a model that learns with a small local one in its shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from exporter import models
from homeroom.runtime.backend import load
from homeroom_exporter.encoders import backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.export.design import design_of
from homeroom_exporter.export.steps import variants
from homeroom_exporter.model.design import initial_theta
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.recipe.recipe import Recipe, read_recipe
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.trace import trace

RECIPES = sorted((Path(__file__).resolve().parents[3] / "examples" / "recipes").glob("*.toml"))
WITHOUT_HISTORIES = [  # which have tests of their own
    path for path in RECIPES if all(encoder.modality != "sequence" for encoder in read_recipe(path).encoders)
]
OWN = {"table", "interactions"}  # no weights of anybody's
LIKE: dict[str, Callable[[Path], Path]] = {
    "pip:minilm": models.bert,
    "pip:use-multilingual": models.bert,
    "hf:openai/clip-vit-base-patch32": models.clip,
    "hf:facebook/dinov2-small": models.dinov2,
    "hf:microsoft/resnet-18": models.resnet,
    "hf:ntu-spml/distilhubert": models.hubert,
    "hf:distilbert-base-multilingual-cased": models.distilbert,
    "hf:openai/whisper-tiny": models.whisper,
    "hf:intfloat/multilingual-e5-small": models.bert,
}


def small(spec: EncoderSpec, folder: Path) -> EncoderSpec:
    """The same encoder of a recipe with a small local model in place of the published one."""
    if spec.source in OWN:
        return spec
    changes: dict[str, Any] = {"source": f"hf:{LIKE[spec.source](folder)}", "dim": 8}
    if spec.modality == "text":
        changes["buckets"] = (8, 16)
        changes["taps"] = "auto"
    if spec.modality == "audio":
        changes["seconds"] = 0.5
    return msgspec.structs.replace(spec, **changes)


def values(spec: EncoderSpec) -> list[Any]:
    draw = np.random.default_rng(0)
    rows = [
        {
            c.name: str(draw.choice(c.categories)) if c.categories else float(draw.normal(c.mean, c.std))
            for c in spec.columns
        }
        for _ in range(30)
    ]
    return {"text": models.texts(40), "image": models.pictures(12), "audio": models.sounds(8), "table": rows}[
        spec.modality
    ]


def test_there_are_recipes_for_six_models_and_more_and_each_is_tried_here() -> None:
    recipes = [read_recipe(path) for path in RECIPES]
    sources = {encoder.source for recipe in recipes for encoder in recipe.encoders} - OWN
    assert len(sources) >= 6
    assert sources == LIKE.keys()
    assert len({recipe.name for recipe in recipes}) == len(recipes)


@pytest.mark.extra
@pytest.mark.parametrize("path", WITHOUT_HISTORIES, ids=lambda path: path.stem)
def test_a_recipe_makes_a_model_whose_gradient_is_finite_and_goes_everywhere(path: Path, tmp_path: Path) -> None:
    recipe: Recipe = msgspec.structs.replace(read_recipe(path), batch=4, width=16, hidden=16)
    backbones, inside = {}, None
    for number, spec in enumerate(recipe.encoders):
        place = tmp_path / f"work{number}"
        place.mkdir()
        like = small(spec, tmp_path / f"model{number}")
        if recipe.adapter and recipe.adapter.modality == spec.modality:
            inside = lora.build(like, recipe.adapter, place, pairs=False, seed=0)
        else:
            backbones[spec.modality] = backbone.build(like, values(like), place)
    design = design_of(recipe, backbones, inside)
    tokens = variants(design)[-1]
    model = trace(design, "grad", recipe.batch, tokens)
    file = (inside.stored.parent if inside else tmp_path) / "grad.onnx"
    file.write_bytes((lora.attach(model, inside) if inside else model).SerializeToString())
    theta = initial_theta(design.layout, 0)
    theta += np.random.default_rng(1).standard_normal(theta.size).astype(np.float32) * np.float32(0.05)
    feeds = {"theta": theta, **example(design, "grad", recipe.batch, tokens)}
    feeds["weights"] = np.ones_like(feeds["weights"])
    made = load(file, threads=1)(feeds)
    assert np.isfinite(made["gradient"]).all()
    assert (made["losses"] > 0).all()
    for segment in design.layout:
        assert np.abs(made["gradient"][design.layout.slices[segment.name]]).max() > 0, segment.name
