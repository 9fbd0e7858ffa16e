"""Graphs for LiteRT: the torch form of an ONNX graph computes the same, what is converted too, and reasons are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import flatbuffers
import lite
import numpy as np
import onnx
import pytest
import tiny
import torch
from ai_edge_litert import schema_py_generated as schema

from homeroom import Device, Sample
from homeroom.errors import ExportError, MissingExtraError, RecipeError
from homeroom.runtime.backend import load
from homeroom.runtime.bundle import install, open_bundle
from homeroom_exporter.interchange import litert
from homeroom_exporter.interchange.litert_worker import finished, fixed
from homeroom_exporter.interchange.onnx_torch import OnnxModule
from homeroom_exporter.recipe.recipe import parse_recipe
from homeroom_exporter.trace.example_inputs import example

RECIPE = """
name = "lesson"
version = 1
runtimes = {runtimes}
[encoders.text]
source = "pip:minilm"
[slots]
word = "text"
[tasks.kind]
kind = "classification"
reads = ["word"]
labels = ["a", "b"]
"""


def test_the_torch_form_of_every_kind_of_graph_computes_what_onnxruntime_does(
    tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    design, _ = tiny.design_and_backbones(tmp_path)
    for facts in tiny_bundle.manifest.graphs:
        if facts.precision != "float32" or facts.tokens.get("text", 8) != 8:
            continue
        path, rng = tiny_bundle.path / facts.file, np.random.default_rng(0)
        if facts.role == "features":
            shapes = [
                [2 if size < 0 else size for size in t.shape[:1]] + [8 if s < 0 else s for s in t.shape[1:]]
                for t in facts.inputs
            ]
            feeds = {
                t.name: rng.random(shape, dtype=np.float32) if t.dtype == "float32" else np.ones(shape, np.int64)
                for t, shape in zip(facts.inputs, shapes, strict=True)
            }
        else:
            theta = rng.standard_normal(design.layout.size).astype(np.float32) * np.float32(0.3)
            feeds = {"theta": theta, **example(design, facts.role, facts.batch, facts.tokens)}
        module = OnnxModule(fixed(path, {name: value.shape for name, value in feeds.items()}))
        narrow = [v.astype(np.int32) if v.dtype == np.int64 else v for v in (feeds[name] for name in module.inputs)]
        with torch.no_grad():
            made = dict(zip(module.results, module(*map(torch.from_numpy, narrow)), strict=True))
        for name, wanted in load(path, threads=1)(feeds).items():
            error = np.linalg.norm(made[name].numpy().astype(float) - wanted) / max(np.linalg.norm(wanted), 1e-12)
            assert error < 1e-5, (facts.file, name, error)


def test_an_operation_without_a_translation_is_named() -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])
    nodes = [onnx.helper.make_node("Det", ["x"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", [value], [onnx.helper.make_tensor_value_info("y", 1, [])])
    with pytest.raises(ExportError, match="the operation Det has no translation to LiteRT"):
        OnnxModule(onnx.helper.make_model(graph))


WEEKS = """
name = "help"
version = 1
batch = 8
width = 8
hidden = 8
saliency = false
runtimes = ["onnx", "litert"]
[encoders.table]
source = "table"
columns = [{ name = "minutes", mean = 120.0, std = 60.0 }]
[slots]
week = "table"
[tasks.needs_help]
kind = "classification"
reads = ["week"]
labels = ["no", "yes"]
[training]
learning_rate = 1e-2
epochs = 20
"""


def test_where_nothing_converts_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(litert.CONVERTER_PYTHON, "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "litert_torch" else name)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[exporter,convert\]"):
        litert.converter()


def test_a_recipe_names_the_runtimes_and_onnxruntime_is_always_among_them() -> None:
    assert parse_recipe(RECIPE.format(runtimes='["onnx", "litert"]')).runtimes == ("onnx", "litert")
    for wrong in ('["litert"]', '["onnx", "tflite"]'):
        with pytest.raises(RecipeError, match="line 4"):
            parse_recipe(RECIPE.format(runtimes=wrong))


def test_constants_that_stand_behind_a_model_are_kept(tmp_path: Path) -> None:
    """As the quantizer writes more than 256 KB of them, and the runtime could then not load the model."""
    bundle = install(lite.STORED, tmp_path / "bundles", root=None)
    twin = next(graph for graph in bundle.manifest.converted if graph.role == "predict")
    source = (bundle.path / twin.file).read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source, 0))
    contents = {i: bytes(buffer.data) for i, buffer in enumerate(model.buffers) if buffer.data is not None}
    assert len(contents) > 5
    (signature,) = model.signatureDefs
    names = [[tensor.name.decode() for tensor in side] for side in (signature.inputs, signature.outputs)]
    for side in (signature.inputs, signature.outputs):
        for number, tensor in enumerate(side):
            tensor.name = f"args_{number}"  # as the converter calls them

    def moved(start: int) -> tuple[bytes, bytes]:
        """The model without its constants, which stand from `start` on, and these."""
        behind = b""
        for number, content in contents.items():
            buffer = model.buffers[number]
            buffer.data, buffer.offset, buffer.size = None, start + len(behind), len(content)
            behind += content
        builder = flatbuffers.Builder(len(source))
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output()), behind

    again = tmp_path / "again.tflite"
    again.write_bytes(finished(b"".join(moved(len(moved(1000)[0]))), *names))
    rng = np.random.default_rng(0)
    feeds = {t.name: (rng.standard_normal(t.shape) * 4).astype(t.dtype) for t in twin.inputs}
    wanted = load(bundle.path / twin.file, threads=1)(feeds)
    for name, value in load(again, threads=1)(feeds).items():
        np.testing.assert_array_equal(value, wanted[name])


CONVERTING = pytest.mark.skipif(
    not Path(os.environ.get(litert.CONVERTER_PYTHON, "")).is_file(),
    reason="needs the environment that converts (make test-extra)",
)


@pytest.mark.extra
@CONVERTING
def test_a_recipe_is_exported_for_both_runtimes_and_a_device_trains_in_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(WEEKS)
    weeks = np.random.default_rng(0).uniform(0, 240, 80).round()
    rows = [
        {"week": {"minutes": m}, "labels": {"needs_help": "yes" if m < 120 else "no"}, "subject": f"p{i}"}
        for i, m in enumerate(weeks)
    ]
    calibration = tmp_path / "weeks.jsonl"
    calibration.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    command = [
        sys.executable,
        "-m",
        "homeroom",
        "bundle",
        "export",
        recipe,
        tmp_path / "help",
        "--calibration",
        calibration,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = open_bundle(tmp_path / "help", root=None).manifest
    assert manifest.unconverted == {}
    assert {g.role for g in manifest.converted} == {"features", "grad", "predict"}
    with Device.open(tmp_path / "device", bundle=tmp_path / "help", threads=1, runtime="litert") as device:
        device.add(calibration)
        assert device.train(minutes=1).scores["needs_help"].accuracy > 0.9
        assert device.predict(Sample(week={"minutes": 200.0}))["needs_help"].best == "no"


@pytest.mark.extra
@CONVERTING
def test_a_graph_converts_again_to_the_bytes_that_a_bundle_holds(tmp_path: Path) -> None:
    bundle = install(lite.STORED, tmp_path / "bundles", root=None)
    assert not bundle.manifest.unconverted
    assert len(bundle.manifest.converted) == len(bundle.manifest.graphs)
    step = next(graph for graph in bundle.manifest.graphs if graph.role == "predict")
    shapes = {"step": {tensor.name: tensor.shape for tensor in step.inputs}}
    litert.run_converter(bundle.path / step.file, tmp_path / "again.tflite", shapes)
    twin = next(graph for graph in bundle.manifest.converted if graph.role == "predict" and graph.tokens == step.tokens)
    assert (tmp_path / "again.tflite").read_bytes() == (bundle.path / twin.file).read_bytes()
