"""The exporter believes nothing that it did not load: damage is refused by its key, sound models equal the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

import exporter_strict as strict
from exporter import models
from homeroom.contract.manifest import ImagePreprocess
from homeroom.data.preprocess import prepare
from homeroom.errors import ExportError
from homeroom_exporter.encoders import backbone, graph_checks, load
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.plan import AdapterPlan
from homeroom_exporter.quantize.fidelity import unsteady


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> strict.Models:
    return strict.Models(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("case", strict.CASES, ids=lambda case: case.name)
def test_a_damaged_model_or_processor_is_refused_by_its_key(
    case: strict.Case, made: strict.Models, tmp_path: Path
) -> None:
    refused, told = strict.verdict(case, made, tmp_path)
    assert refused, told


@pytest.mark.parametrize("shape", strict.BUILT)
def test_an_export_twice_gives_one_identity(shape: str, made: strict.Models, tmp_path: Path) -> None:
    folder = made.copy(shape, tmp_path / "model")
    assert identity(made.spec(shape, folder), tmp_path / "first") == identity(
        made.spec(shape, folder), tmp_path / "2nd"
    )


def test_a_whisper_twice_gives_one_identity(tmp_path: Path) -> None:
    spec = EncoderSpec(
        modality="audio", source=f"hf:{models.whisper(tmp_path / 'model')}", dim=8, seconds=0.5, quantize="none"
    )
    assert identity(spec, tmp_path / "first") == identity(spec, tmp_path / "second")


def identity(spec: EncoderSpec, scratch: Path) -> str:
    scratch.mkdir()
    return backbone.build(spec, strict.inputs(spec.modality, 12), scratch).modality.features_id


@pytest.mark.parametrize("shape", ["t5", "modernbert", "data2vec-audio", "convnext"])
def test_a_sound_model_equals_its_original_library_input_by_input(
    shape: str, made: strict.Models, tmp_path: Path
) -> None:
    assert strict.sound_difference(shape, made, tmp_path) < 1e-4


def test_a_head_of_a_task_and_a_pooler_that_nothing_reads_may_come_and_go(made: strict.Models, tmp_path: Path) -> None:
    folder = made.copy("bert", tmp_path / "model")
    before = identity(made.spec("bert", folder), tmp_path / "before")
    tensors = {f"bert.{key}": value for key, value in load_file(folder / strict.WEIGHTS).items() if "pooler" not in key}
    save_file({**tensors, "classifier.weight": torch.ones(2, 32)}, folder / strict.WEIGHTS, metadata={"format": "pt"})
    strict.settings("config.json", architectures=["BertForSequenceClassification"])(folder)
    assert identity(made.spec("bert", folder), tmp_path / "after") == before


def test_lora_inside_an_encoder_that_lacks_weights_is_refused(made: strict.Models, tmp_path: Path) -> None:
    folder = made.copy("bert", tmp_path / "model")
    strict.weights(lambda tensors: strict.lost(tensors, strict.KEYS["bert"]))(folder)
    with pytest.raises(ExportError, match=f"lacks {strict.KEYS['bert']}"):
        lora.build(
            made.spec("bert", folder), AdapterPlan(family="lora", modality="text"), tmp_path, pairs=False, seed=0
        )


def test_data_of_an_onnx_file_in_its_own_folder_is_read(made: strict.Models, tmp_path: Path) -> None:
    folder = made.copy("vit", tmp_path / "model")
    strict.data_at("data.bin")(folder)
    assert load(made.spec("vit", folder, "onnx"), tmp_path).taps == ("layer.1",)


def image_graph(nodes: list[onnx.NodeProto]) -> Encoder:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 8, 8]) for name in ("pixels", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [helper.make_tensor("on", TensorProto.BOOL, [], [True])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pixels = ImagePreprocess(8, 8, (0.5,) * 3, (0.5,) * 3)
    return Encoder("net", model, ("y",), (1,), pixels, "none", 0)


def inner() -> onnx.GraphProto:
    node = helper.make_node("RandomNormalLike", ["pixels"], ["z"], name="noise")
    return helper.make_graph([node], "inner", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (
            helper.make_node("RandomUniformLike", ["pixels"], ["y"], name="r"),
            r"net draws at random: RandomUniformLike \(r",
        ),
        (
            helper.make_node("If", ["on"], ["y"], then_branch=inner(), else_branch=inner()),
            r"RandomNormalLike \(noise\)",
        ),
        (helper.make_node("Dropout", ["pixels", "", "on"], ["y"], name="d"), r"in training mode: Dropout \(d\)"),
        (helper.make_node("Dropout", ["pixels"], ["y"], name="d"), None),
    ],
)
def test_a_graph_that_draws_at_random_is_refused_by_name(node: onnx.NodeProto, says: str | None) -> None:
    spec = EncoderSpec(modality="image", source="onnx:net.onnx")
    if says is None:
        graph_checks.check(spec, image_graph([node]))
        return
    with pytest.raises(ExportError, match=says):
        graph_checks.check(spec, image_graph([node]))


@pytest.fixture(scope="module")
def vit(made: strict.Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[backbone.Backbone, list[Any]]:
    folder = tmp_path_factory.mktemp("vit")
    spec = msgspec.structs.replace(made.spec("vit", made.copy("vit", folder / "model")), quantize="int8")
    values = strict.inputs("image", 12)
    built = backbone.build(spec, values, folder)
    return built, [prepare(built.modality, value, built.files.__getitem__) for value in values]


@pytest.mark.parametrize(
    ("kind", "says"),
    [(None, None), ("RandomUniformLike", "the second time"), ("ReduceMean", "of an input among others")],
)
def test_the_self_check_asks_twice_and_alone(
    kind: str | None, says: str | None, vit: tuple[backbone.Backbone, list[Any]], tmp_path: Path
) -> None:
    built, inputs = vit
    paths = {name: tmp_path / path.name for name, path in built.graphs.items()}
    for name, path in built.graphs.items():
        model = onnx.load(path)
        if kind:
            mixed = {"axes": [0], "keepdims": 1} if kind == "ReduceMean" else {}
            for node in model.graph.node:
                node.input[:] = ["mixed" if value == "pixels" else value for value in node.input]
            added = [helper.make_node(kind, ["pixels"], ["other"], **mixed)]
            added += [helper.make_node("Mul", ["pixels", "other"], ["mixed"])]
            for position, node in enumerate(added):
                model.graph.node.insert(position, node)
        onnx.save(model, paths[name])
    found = [unsteady(built.modality, path, paths["float32"], inputs, 1) for path in paths.values()]
    assert all(says in " ".join(one) for one in found) if says else found == [[], []]
