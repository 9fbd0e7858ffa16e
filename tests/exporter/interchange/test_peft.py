"""PEFT checkpoints there and back: the same outputs on the same base, and no key that is lost, invented or turned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tiny
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel

from exporter import lessons, models
from homeroom.errors import ExportError, HomeroomError, RecipeError
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom_exporter.cli import export_command, to_peft
from homeroom_exporter.interchange import peft
from homeroom_exporter.model.design import Design, name_parts, unflatten
from homeroom_exporter.model.forward import forward, lora_rows
from homeroom_exporter.model.lora.adapter import PREFIX
from homeroom_exporter.model.lora.frozen_weights import matrix
from homeroom_exporter.trace.example_inputs import example

# Ranks of 32 make A, B and W square, all [32, 32]: no shape would tell a transposed one.
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (
        models.bert,
        {"target_modules": ["query", "output.dense"], "rank_pattern": {"layer.1.attention.self.query": 32}},
    ),
    "distilbert": (
        models.distilbert,
        {"target_modules": ["q_lin", "lin2"], "rank_pattern": {"layer.0.attention.q_lin": 32}},
    ),
    "vit": (models.vit, {"target_modules": r".*layer\.\d\.attention\.attention\.(query|key)", "use_rslora": True}),
}


def checkpoint(folder: Path, name: str, **more: Any) -> tuple[Path, Any, Path]:
    """The base's folder, its PEFT model with every factor random, and the checkpoint's folder."""
    make, settings = CASES[name]
    base = make(folder / name)
    torch.manual_seed(0)
    model = AutoModel.from_pretrained(base, attn_implementation="eager")
    wrapped = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 6, **settings, **more})).eval()
    with torch.no_grad():
        for key, value in wrapped.named_parameters():
            if "lora_" in key:
                value.copy_(torch.randn(value.shape) * 0.15)
    wrapped.save_pretrained(folder / "peft")
    return base, wrapped, folder / "peft"


def plan_and_samples(folder: Path, name: str, base: Path, quantize: str, federated: str) -> tuple[Any, Path]:
    text = lessons.RECIPE.format(model=base).replace('"int8"', f'"{quantize}"')
    text = text.replace("rank = 4", f'federated = "{federated}"')
    if name != "vit":
        return lessons.parse_recipe(text), lessons.write_rows(folder / "samples.jsonl", 6, 1)
    text = text.replace("encoders.text", "encoders.image")
    text = text[: text.index("[slots]")] + '[slots]\npicture = "image"\n[tasks.size]\nkind = "regression"\n'
    rows = [{"picture": row["picture"]} for row in tiny.samples(5, 3)]
    return lessons.parse_recipe(text + 'reads = ["picture"]\n'), tiny.write_samples(folder / "samples", rows)


def by_peft(design: Design, theta: np.ndarray, feeds: dict[str, np.ndarray], model: Any) -> dict[str, np.ndarray]:
    """The outputs of our heads on the hidden states that a PEFT model gives for a graph's inputs."""
    assert design.adapter
    values = {name: torch.from_numpy(value) for name, value in feeds.items()}
    inputs, mask = lora_rows(design, values)
    with torch.no_grad():
        if design.adapter.textual:
            values["states"] = model(input_ids=inputs, attention_mask=mask.long()).last_hidden_state
        else:
            pixels = (inputs.float() / 255 - 0.4) / 0.3  # as its processor was told
            values["states"] = model(pixel_values=pixels).last_hidden_state
        parts = name_parts(design.layout, unflatten(design.layout, torch.from_numpy(theta)))
        return {f"{name}.output": value.numpy() for name, value in forward(design, parts, values).items()}


def by_graph(bundle: Bundle, theta: np.ndarray, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    graphs = Graphs(bundle, threads=1)
    return graphs.loaded(graphs.steps("predict")[0])({"theta": theta, **feeds})


def agree(made: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """The largest difference, over the largest value."""
    return max(float(np.abs(made[k] - v).max() / np.abs(v).max()) for k, v in wanted.items())


@pytest.mark.parametrize(("name", "federated"), [("bert", "a-frozen"), ("distilbert", "both"), ("vit", "a-frozen")])
def test_a_checkpoint_comes_in_and_goes_out_with_the_same_outputs(name: str, federated: str, tmp_path: Path) -> None:
    base, model, folder = checkpoint(tmp_path, name)
    plan, samples = plan_and_samples(tmp_path, name, base, "none", federated)
    bundle, design = lessons.assembled(tmp_path, plan, samples, peft.read(folder))
    feeds = example(design, "predict", plan.batch, {"text": 16, "image": 1})
    theta = bundle.theta()
    assert agree(by_graph(bundle, theta, feeds), by_peft(design, theta, feeds, model)) < 1e-4
    assert "float32 base" in peft.base_of_outputs(bundle)

    trained = theta + np.random.default_rng(3).standard_normal(theta.size).astype(np.float32) * 0.1
    peft.write(bundle, trained, tmp_path / "out")
    fresh = AutoModel.from_pretrained(base, attn_implementation="eager")
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "out").eval()
    wanted = by_peft(design, trained, feeds, loaded)
    assert agree(by_graph(bundle, trained, feeds), wanted) < 1e-4
    assert agree(by_graph(bundle, theta, feeds), wanted) > 1e-2
    # Again in: the same checkpoint comes out.
    back = peft.read(tmp_path / "out")
    for path, (a, b) in peft.read(folder).factors.items():
        assert back.factors[path][0].shape == a.shape
        assert np.array_equal(back.factors[path][0], a) == (federated == "a-frozen")
        assert not np.array_equal(back.factors[path][1], b)
        assert back.scaling(path) == pytest.approx(peft.read(folder).scaling(path))


def test_with_quantized_weights_the_outputs_are_those_on_the_dequantized_base(tmp_path: Path) -> None:
    base, model, folder = checkpoint(tmp_path, "bert")
    plan, samples = plan_and_samples(tmp_path, "bert", base, "int4", "a-frozen")
    bundle, design = lessons.assembled(tmp_path, plan, samples, peft.read(folder))
    feeds, theta = example(design, "predict", plan.batch, {"text": 16}), bundle.theta()
    made = by_graph(bundle, theta, feeds)
    assert agree(made, by_peft(design, theta, feeds, model)) > 1e-3
    assert design.adapter
    arrays = {k.removeprefix(PREFIX): torch.from_numpy(v) for k, v in design.adapter.frozen.arrays.items()}
    with torch.no_grad():
        inner = model.base_model.model
        for name, path in design.adapter.shape.modules.items():
            layer = inner.get_submodule(path)
            getattr(layer, "base_layer", layer).weight.copy_(matrix(arrays, name, torch.zeros(1)))
        inner.embeddings.word_embeddings.weight.copy_(matrix(arrays, "words", torch.zeros(1)))
    assert agree(made, by_peft(design, theta, feeds, model)) < 1e-4
    assert "dequantized base" in peft.base_of_outputs(bundle)


def change(folder: Path, edit: Any) -> None:
    tensors = safetensors.numpy.load_file(folder / peft.MODEL)
    edit(tensors)
    safetensors.numpy.save_file(tensors, folder / peft.MODEL)


KEY = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"
OTHER = "base_model.model.encoder.layer.0.attention.self.key"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: t.pop(KEY), f"lacks {KEY}"),
        (
            lambda t: [t.pop(KEY), t.pop(KEY.replace("_A", "_B"))],
            "lacks the factors of encoder.layer.0.attention.self.query",
        ),
        (
            lambda t: t.update({"base_model.model.classifier.weight": t[KEY]}),
            "holds base_model.model.classifier.weight",
        ),
        (
            lambda t: t.update({f"{OTHER}.lora_A.weight": t[KEY], f"{OTHER}.lora_B.weight": t[KEY].T.copy()}),
            "encoder.layer.0.attention.self.key, which it does not target",
        ),
        (
            lambda t: t.update(
                {"base_model.model.x.lora_A.weight": t[KEY], "base_model.model.x.lora_B.weight": t[KEY]}
            ),
            "factors for x, which is no linear layer",
        ),
        (lambda t: t.update({KEY: t[KEY].T.copy()}), r"query.lora_A.weight is \[32, 4\] in place of \[4, 32\]"),
        (lambda t: t.update({KEY: t[KEY] * np.nan}), "is not a finite matrix"),
        (lambda t: t.clear(), "holds no LoRA factor"),
    ],
)
def test_a_key_that_is_missing_unknown_or_of_another_shape_is_named(edit: Any, says: str, tmp_path: Path) -> None:
    base, _, folder = checkpoint(tmp_path, "bert")
    change(folder, edit)
    with pytest.raises(ExportError, match=says):
        lessons.traced(tmp_path, base, peft.read(folder))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"peft_type": "IA3"}, "no configuration of LoRA"),
        ({"use_dora": True}, "uses DoRA"),
        ({"bias": "all"}, "trains biases"),
        ({"r": None}, "lacks r"),
        ({"target_modules": "(("}, "target_modules is no pattern"),
    ],
)
def test_settings_that_are_not_built_are_refused(edit: dict[str, Any], says: str, tmp_path: Path) -> None:
    _, _, folder = checkpoint(tmp_path, "bert")
    said = json.loads((folder / peft.CONFIG).read_text())
    (folder / peft.CONFIG).write_text(json.dumps({**said, **edit}))
    with pytest.raises(ExportError, match=says):
        peft.read(folder)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        peft.read(tmp_path)
    (tmp_path / peft.CONFIG).write_text("{")
    with pytest.raises(ExportError, match="is not JSON"):
        peft.read(tmp_path)
    (tmp_path / peft.CONFIG).write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"]}')
    with pytest.raises(ExportError, match="is missing"):
        peft.read(tmp_path)
    (tmp_path / peft.MODEL).write_bytes(b"\0" * 40)
    with pytest.raises(ExportError, match="cannot be read"):
        peft.read(tmp_path)


def test_the_commands_go_from_a_checkpoint_to_a_bundle_and_back(tmp_path: Path) -> None:
    base, _, folder = checkpoint(tmp_path, "bert")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(lessons.RECIPE.format(model=base))
    samples = lessons.write_rows(tmp_path / "samples.jsonl", 20, 1)
    arguments = [str(recipe), str(tmp_path / "out"), "--calibration", str(samples), "--peft", str(folder)]
    done = CliRunner().invoke(export_command, [*arguments, "--threads", "1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    theta = tmp_path / "out" / "theta.safetensors"
    back = [str(tmp_path / "out"), str(theta), str(tmp_path / "back")]
    done = CliRunner().invoke(to_peft, back, catch_exceptions=False)
    assert "dequantized base" in done.output
    first, second = peft.read(folder).factors, peft.read(tmp_path / "back").factors
    assert {k: [v.tolist() for v in pair] for k, pair in first.items()} == {
        k: [v.tolist() for v in pair] for k, pair in second.items()
    }
    assert "peft" in open_bundle(tmp_path / "out", root=None).manifest.provenance
    again = CliRunner().invoke(to_peft, back)
    assert "exists already" in str(again.exception)
    wrong = CliRunner().invoke(to_peft, [back[0], str(recipe), str(tmp_path / "no")])
    assert isinstance(wrong.exception, HomeroomError)
    assert "holds no theta" in str(wrong.exception)
    text = recipe.read_text()
    recipe.write_text(text[: text.index("[adapter]")] + text[text.index("[slots]") :])
    without = CliRunner().invoke(export_command, [arguments[0], str(tmp_path / "new"), *arguments[2:]])
    assert isinstance(without.exception, RecipeError)


def test_a_bundle_of_ladders_has_no_form_in_peft(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle.path, root=None)
    with pytest.raises(ExportError, match="has no LoRA inside"):
        peft.write(bundle, bundle.theta(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
